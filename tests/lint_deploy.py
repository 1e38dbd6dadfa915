"""Lint of what cannot be built everywhere: `python -m tests.lint_deploy`.

The compose file and the Procfile are parsed, the Dockerfile is held against the tree, the options
that they pass must be options of the worker, and the lock files must fit pyproject.toml and one
another.
"""

import re
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.lint_audit import pins
from worker.settings.fields import COMMANDS, ENV_PREFIX

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
LOCKED_PYTHONS = ("3.11.9", "3.12.9", "3.13.9")
PLATFORM = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}


def problems():
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    worker = compose["services"]["worker"]
    if not (ROOT / "deploy" / worker["build"]["context"] / worker["build"]["dockerfile"]).is_file():
        yield "compose.yaml: the worker's Dockerfile is not there"
    for name in worker["depends_on"]:
        if name not in compose["services"]:
            yield f"compose.yaml: the worker depends on {name}, which is no service"
    known = {f"{ENV_PREFIX}{field.upper()}" for s in COMMANDS.values() for field in s.model_fields}
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for text, where in ((str(worker["environment"]), "compose.yaml"), (dockerfile, "Dockerfile")):
        for name in re.findall(rf"{ENV_PREFIX}[A-Z_]+", text):
            if name not in known:
                yield f"{where}: {name} is no setting"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE):
        for source in line.split()[:-1]:
            if not (ROOT / source).exists():
                yield f"Dockerfile: copies {source}, which is not there"
            if f"!{source}" not in ignored and f"!{source}/**" not in ignored:
                yield f"Dockerfile: copies {source}, which .dockerignore leaves out"
    yield from gpu_problems(dockerfile)
    if not re.search(r"^USER (?!root)", dockerfile, re.MULTILINE):
        yield "Dockerfile: runs as root"
    if "--require-hashes -r" not in dockerfile or "--no-deps" not in dockerfile:
        yield "Dockerfile: installs something that requirements.lock does not name"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = project["dependencies"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    lock, dev_lock = ((ROOT / name).read_text() for name in LOCKS)
    yield from lock_problems(lock, dependencies)
    yield from lock_problems(dev_lock, dependencies + extras, "requirements-dev.lock")
    yield from disagreements(lock, dev_lock)
    for line in (ROOT / "Procfile").read_text().splitlines():
        if not re.fullmatch(rf"[a-z]+: ssd-worker ({'|'.join(COMMANDS)})\b.*", line):
            yield f"Procfile: {line!r} starts no command of the worker"


def gpu_problems(dockerfile):
    """What the last stage lacks for Triton's kernels and for decoding on a GPU."""
    text = re.sub(r"\\\n", " ", re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)[-1])
    instructions = [line for line in text.splitlines() if not line.startswith("#")]
    variables = dict(
        re.findall(r"(\w+)=(\S+)", " ".join(i for i in instructions if i.startswith("ENV ")))
    )
    missing = {"compute", "utility", "video"} - set(
        variables.get("NVIDIA_DRIVER_CAPABILITIES", "").split(",")
    )
    if missing:
        yield f"Dockerfile: NVIDIA_DRIVER_CAPABILITIES without {', '.join(sorted(missing))}"
    if not variables.get("NVIDIA_VISIBLE_DEVICES"):
        yield "Dockerfile: NVIDIA_VISIBLE_DEVICES is not set: older runtimes show no GPU"
    installed = " ".join(i for i in instructions if "apt-get install" in i).split()
    for package in ("gcc", "libc6-dev"):
        if package not in installed:
            yield f"Dockerfile: the last stage has no {package}: Triton compiles with it"
    cache = variables.get("TRITON_CACHE_DIR", "")
    if not cache.startswith(f"{variables.get('SSD_WORKER_STATE_DIR', '-')}/"):
        yield "Dockerfile: TRITON_CACHE_DIR is not in the state directory, which the user can write"


def disagreements(lock, dev_lock):
    """Packages whose deployed version differs from the tested one."""
    for pin in sorted(set(pins(lock)) - set(pins(dev_lock))):
        yield f"requirements-dev.lock: {pin} of requirements.lock is not there: make lock"


def lock_problems(lock, dependencies, name="requirements.lock"):
    """Why a lock file cannot be installed as it is, or does not match the dependencies."""
    if re.search(r"://|^--(?!hash)|\bindex", lock, re.MULTILINE):
        yield f"{name}: names an address: make lock"
        return
    pinned_ones = []
    for entry in re.split(r"(?<!\\)\n", lock):
        if entry.strip() and not entry.startswith("#"):
            pinned, *hashes = entry.replace("\\\n", " ").split(" --hash=")
            pinned_ones.append(Requirement(pinned.strip()))
            if not hashes or not all(
                re.fullmatch(r"sha256:[0-9a-f]{64}\s*", part) for part in hashes
            ):
                yield f"{name}: {pinned_ones[-1].name} has no hash: make lock"
    for python in LOCKED_PYTHONS:
        environment = default_environment() | PLATFORM
        environment |= {"python_full_version": python, "python_version": python.rpartition(".")[0]}
        versions = {
            pin.name.lower(): next(iter(pin.specifier)).version
            for pin in pinned_ones
            if pin.marker is None or pin.marker.evaluate(environment)
        }
        for dependency in map(Requirement, dependencies):
            version = versions.get(dependency.name.lower())
            if version is None or not dependency.specifier.contains(version, prereleases=True):
                yield (
                    f"{name}: {dependency.name} {version or 'is not there'} on Python "
                    f"{python}, pyproject.toml wants {dependency.specifier}: make lock"
                )


if __name__ == "__main__":
    found = list(problems())
    print("\n".join(found) or "deploy: all good")
    sys.exit(bool(found))
