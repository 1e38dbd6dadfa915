"""Lint of what cannot be built everywhere: `python -m tests.lint_deploy`.

The Dockerfile, the compose file, the systemd unit and the Procfile are parsed and held against the
tree, one another and the settings: what an image needs to run without root and on a GPU, what a
service needs to lose nothing and to end well. Lock files must fit pyproject.toml and one another.
"""

import json
import re
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.lint_audit import pins
from worker.settings.base import ENV_PREFIX
from worker.settings.fields import COMMANDS

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
LOCKS = ("requirements.lock", "requirements-dev.lock")
LOCKED_PYTHONS = ("3.11.9", "3.12.9", "3.13.9")
PLATFORM = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
TARGETS = ("cpu", "cuda")
"""Of the Dockerfile; the last is the default."""
PINNED_IMAGE = re.compile(r"[a-z0-9./-]+:\d+\.\d+\.\d+[a-z0-9.-]*(@sha256:[0-9a-f]{64})?")
COMPILERS = {"gcc", "g++", "clang", "build-essential"}
STOP_SECONDS = 10
"""Docker's default. A worker stops within 4 s in tests, which says little of a slow disk."""


def problems():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    yield from dockerfile_problems(dockerfile)
    yield from copy_problems(dockerfile, (ROOT / ".dockerignore").read_text())
    yield from compose_problems((DEPLOY / "compose.yaml").read_text(), dockerfile)
    yield from unit_problems((DEPLOY / "ssd-worker.service").read_text())
    for path in (*sorted(DEPLOY.iterdir()), ROOT / "docs" / "deployment.md"):
        if path.is_file():
            yield from settings_problems(path.read_text(), path.name)
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


def settings_problems(text, where):
    known = {f"{ENV_PREFIX}{field.upper()}" for s in COMMANDS.values() for field in s.model_fields}
    for name in sorted(set(re.findall(rf"{ENV_PREFIX}[A-Z_]*[A-Z]", text)) - known):
        yield f"{where}: {name} is not a setting"


@dataclass
class Stage:
    """One stage of a Dockerfile, with what it inherits from stages below it."""

    image: str
    instructions: list[tuple[str, str]] = field(default_factory=list)
    """Name and arguments of each, in order."""

    def all(self, name):
        return [arguments for found, arguments in self.instructions if found == name]

    def last(self, name):
        return next(reversed(self.all(name)), "")

    @property
    def variables(self):
        return dict(re.findall(r"(\w+)=(\S+)", " ".join(self.all("ENV"))))

    @property
    def packages(self):
        """Debian packages that are installed in it."""
        commands = re.split(r"&&|;|\|", " ".join(f"{run} ;" for run in self.all("RUN")))
        return {word for c in commands if "apt-get install" in c for word in c.split()}


def stages(dockerfile):
    """The stages of a Dockerfile by name, in order."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE))
    defaults, found, current = {}, {}, None
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, arguments = line.partition(" ")
        arguments = " ".join(arguments.split())
        if name == "FROM":
            base, _, stage = arguments.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda m: defaults.get(m[1], ""), base)
            below = found.get(base)
            current = Stage(below.image, [*below.instructions]) if below else Stage(base)
            found[stage or str(len(found))] = current
        elif current is None:
            key, _, value = arguments.partition("=")
            defaults[key] = value
        else:
            current.instructions.append((name, arguments))
    return found


def dockerfile_problems(dockerfile):
    found = stages(dockerfile)
    for stage in found.values():
        if not PINNED_IMAGE.fullmatch(stage.image):
            yield f"Dockerfile: {stage.image} is not pinned to a full version"
            return
    if tuple(found)[-len(TARGETS) :] != TARGETS:
        yield f"Dockerfile: its last stages are not {', '.join(TARGETS)}"
        return
    for name in TARGETS:
        yield from target_problems(found[name], f"Dockerfile: target {name}")
    yield from gpu_problems(found["cuda"])
    if found["cpu"].packages & COMPILERS:
        yield "Dockerfile: target cpu has a compiler, which nothing there runs"
    python = re.match(r"python:(\d+\.\d+)", found["cuda"].image)
    for version in set(re.findall(r"python(3\.\d+)/", dockerfile)):
        if python is None or python[1] != version:
            yield f"Dockerfile: python{version}/ is not a folder of {found['cuda'].image}"
    runs = [run for stage in found.values() for run in stage.all("RUN")]
    for command in re.findall(r"pip install [^&;]+", " ; ".join(runs)):
        named = re.search(r"(-r torch\.txt| \.) *$", command)
        if "--require-hashes" not in command and not ("--no-deps" in command and named):
            yield f"Dockerfile: {command.strip()}: installs what requirements.lock does not name"
    if "--require-hashes -r requirements.lock" not in " ".join(found["build-cuda"].all("RUN")):
        yield "Dockerfile: target cuda is not installed from requirements.lock"
    if "requirements.lock rest > rest.txt" not in " ".join(found["build-cpu"].all("RUN")):
        yield "Dockerfile: target cpu is not installed from requirements.lock"


def target_problems(stage, where):
    """What an image lacks to run without root, to end well and to say whether it works."""
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", stage.last("USER")):
        yield f"{where}: runs as {stage.last('USER') or 'root'}: name a user by number, not root"
    if stage.last("ENTRYPOINT") != '["ssd-worker"]':
        yield f"{where}: its entry point is not ssd-worker itself: signals do not reach it"
    if stage.last("STOPSIGNAL") != "SIGTERM":
        yield f"{where}: is not stopped by SIGTERM"
    if f"mkdir {stage.variables.get(f'{ENV_PREFIX}STATE_DIR')}" not in stage.all("RUN"):
        yield f"{where}: SSD_WORKER_STATE_DIR is not a folder of its user"
    health = re.fullmatch(
        r"(?:--\S+ )*--timeout=(\d+)s (?:--\S+ )*CMD (\[.*\])", stage.last("HEALTHCHECK")
    )
    if health is None:
        yield f"{where}: has no HEALTHCHECK with a timeout in seconds and a command as a list"
        return
    script = Path(json.loads(health[2])[-1])
    if not any(
        f"deploy/{script.name}" in copied and script.parent == Path(copied.split()[-1])
        for copied in stage.all("COPY")
    ):
        yield f"{where}: its HEALTHCHECK runs {script}, which is not copied there"
        return
    watched = re.search(
        r"^WATCH_SECONDS = ([\d.]+)", (DEPLOY / script.name).read_text(), re.MULTILINE
    )
    if watched is None or float(watched[1]) + 5 > float(health[1]):
        yield f"{where}: its HEALTHCHECK is ended before {script.name} gives up"


def gpu_problems(stage):
    """What a stage lacks for Triton's kernels and for decoding on a GPU."""
    variables = stage.variables
    missing = {"compute", "utility", "video"} - set(
        variables.get("NVIDIA_DRIVER_CAPABILITIES", "").split(",")
    )
    if missing:
        yield f"Dockerfile: NVIDIA_DRIVER_CAPABILITIES without {', '.join(sorted(missing))}"
    if not variables.get("NVIDIA_VISIBLE_DEVICES"):
        yield "Dockerfile: NVIDIA_VISIBLE_DEVICES is not set: older runtimes show no GPU"
    for package in ("gcc", "libc6-dev"):
        if package not in stage.packages:
            yield f"Dockerfile: target cuda has no {package}: Triton compiles with it"
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        if not variables.get(name, "").startswith(f"{variables.get('SSD_WORKER_STATE_DIR', '-')}/"):
            yield f"Dockerfile: {name} is not in the state directory, which the user can write"


def copy_problems(dockerfile, dockerignore):
    ignored = dockerignore.splitlines()
    lines = {line for stage in stages(dockerfile).values() for line in stage.all("COPY")}
    for line in sorted(line for line in lines if not line.startswith("--from")):
        for source in line.split()[:-1]:
            if not (ROOT / source).exists():
                yield f"Dockerfile: copies {source}, which does not exist"
            if f"!{source}" not in ignored and f"!{source}/**" not in ignored:
                yield f"Dockerfile: copies {source}, which .dockerignore leaves out"


def compose_problems(text, dockerfile):
    services = yaml.safe_load(text)["services"]
    workers = {name: service for name, service in services.items() if "build" in service}
    for name, service in services.items():
        where = f"compose.yaml: {name}"
        for key, wanted in (
            ("read_only", True),
            ("cap_drop", ["ALL"]),
            ("security_opt", ["no-new-privileges:true"]),
            ("restart", "unless-stopped"),
        ):
            if service.get(key) != wanted:
                yield f"{where}: {key} is not {wanted}"
        if name not in workers and not PINNED_IMAGE.fullmatch(service.get("image", "")):
            yield f"{where}: {service.get('image')} is not pinned to a full version"
        for other in service.get("depends_on", ()):
            if other not in services:
                yield f"{where}: depends on {other}, which is not a service"
    yield from redis_problems(services["redis"])
    for name, worker in workers.items():
        yield from worker_problems(worker, dockerfile, f"compose.yaml: {name}")
    profiles = [tuple(worker.get("profiles", ())) for worker in workers.values()]
    if () in profiles or len(set(profiles)) < len(profiles):
        yield "compose.yaml: workers without a profile each would take each other's cameras"
    for name, worker in workers.items():
        gpu = "nvidia" in str(worker.get("deploy", ""))
        if gpu != (worker["build"].get("target") == "cuda"):
            yield f"compose.yaml: {name}: target cuda and a GPU go together"


def redis_problems(service):
    command = " ".join(service.get("command", ()))
    for option in ("--appendonly yes", "--maxmemory-policy noeviction"):
        if option not in command:
            yield f"compose.yaml: redis: loses events without {option}"
    if not re.search(r"--maxmemory \S*\d[km]?[gmk]?b?\b", command):
        yield "compose.yaml: redis: has no --maxmemory: it takes all memory of the machine"
    if not service.get("user") or service["user"] in ("root", "0"):
        yield "compose.yaml: redis: runs as root"
    if "-e" not in service.get("healthcheck", {}).get("test", ()):
        yield "compose.yaml: redis: redis-cli without -e ends with 0 on an error, too"


def worker_problems(worker, dockerfile, where):
    build = worker["build"]
    if not (DEPLOY / build["context"] / build["dockerfile"]).is_file():
        yield f"{where}: its Dockerfile does not exist"
    stage = stages(dockerfile).get(build.get("target"))
    if build.get("target") not in TARGETS:
        yield f"{where}: {build.get('target')} is not a target of the Dockerfile"
        return
    mounted = {volume.split(":")[1] for volume in worker.get("volumes", ())}
    state = stage.variables.get(f"{ENV_PREFIX}STATE_DIR")
    if state not in mounted:
        yield f"{where}: no volume at {state}: the spool would end with the container"
    if "/tmp" not in worker.get("tmpfs", ()):
        yield f"{where}: read-only without a tmpfs at /tmp"
    script = re.search(r"exec (\S+/)([\w.]+) run", " ".join(worker.get("entrypoint", ())))
    if script is None or script[2] != "entrypoint.sh":
        yield f"{where}: without entrypoint.sh exit code 2 is a restart loop"
    elif not any(
        f"deploy/{script[2]}" in copied and copied.endswith(script[1])
        for copied in stage.all("COPY")
    ):
        yield f"{where}: {script[1]}{script[2]} is not in the image"
    grace = re.fullmatch(r"(\d+)s", worker.get("stop_grace_period", ""))
    if grace is None or int(grace[1]) <= STOP_SECONDS:
        yield f"{where}: stop_grace_period is not above {STOP_SECONDS}s: events may be lost"


def unit_problems(unit):
    """What the systemd unit lacks to restart when that helps, and only then."""
    lines = [line for line in unit.splitlines() if not line.startswith("#")]
    for line in (
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "SuccessExitStatus=130",
        "StateDirectory=ssd-worker",
        f"Environment={ENV_PREFIX}STATE_DIR=%S/ssd-worker",
        "DynamicUser=yes",
    ):
        if line not in lines:
            yield f"ssd-worker.service: without {line}"
    stop = next((line for line in lines if line.startswith("TimeoutStopSec=")), "")
    if not re.fullmatch(r"TimeoutStopSec=\d+s", stop) or int(stop[15:-1]) <= STOP_SECONDS:
        yield f"ssd-worker.service: TimeoutStopSec is not above {STOP_SECONDS}s"


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
