"""Lint of what cannot be built everywhere: `python -m tests.lint_deploy`.

The compose file and the Procfile are parsed, the Dockerfile is held against the tree, and the
options that they pass must be options of the worker.
"""

import re
import sys
from pathlib import Path

import yaml

from worker.settings import COMMANDS, ENV_PREFIX

ROOT = Path(__file__).parent.parent


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
    if not re.search(r"^USER (?!root)", dockerfile, re.MULTILINE):
        yield "Dockerfile: runs as root"
    for line in (ROOT / "Procfile").read_text().splitlines():
        if not re.fullmatch(rf"[a-z]+: ssd-worker ({'|'.join(COMMANDS)})\b.*", line):
            yield f"Procfile: {line!r} starts no command of the worker"


if __name__ == "__main__":
    found = list(problems())
    print("\n".join(found) or "deploy: all good")
    sys.exit(bool(found))
