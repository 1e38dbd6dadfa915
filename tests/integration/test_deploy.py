"""The lint of the deployment files names what is missing in them."""

import re

import pytest

from tests.conftest import ROOT
from tests.lint_deploy import (
    compose_problems,
    copy_problems,
    dockerfile_problems,
    settings_problems,
    stages,
    unit_problems,
)

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text()
UNIT = (ROOT / "deploy" / "ssd-worker.service").read_text()


def changed(text, before, after):
    assert before in text
    return text.replace(before, after)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("compute,utility,video", "compute,utility", "NVIDIA_DRIVER_CAPABILITIES without video"),
        ("NVIDIA_DRIVER_CAPABILITIES", "OTHER", "without compute, utility, video"),
        ("NVIDIA_VISIBLE_DEVICES=all", "", "NVIDIA_VISIBLE_DEVICES is not set"),
        ("recommends gcc ", "recommends ", "has no gcc"),
        (" libc6-dev", "", "has no libc6-dev"),
        ("state/triton", "cache", "TRITON_CACHE_DIR is not in the state directory"),
        ("TRITON_CACHE_DIR=", "OTHER=", "TRITON_CACHE_DIR is not in the state directory"),
        ("state/inductor", "cache", "TORCHINDUCTOR_CACHE_DIR is not in the state directory"),
        ("=python:3.12.13-slim-bookworm\n\n", "=python:3.12-slim\n\n", "is not pinned to a full"),
        ("=python:3.12.13-slim-bookworm\n\n", "=python:3.13.9-slim\n\n", "python3.12/ is not a"),
        ("FROM runtime AS cuda", "FROM runtime AS gpu", "last stages are not cpu, cuda"),
        ("--require-hashes -r req", "-r req", "-r requirements.lock: installs what"),
        ("--require-hashes -r rest", "-r rest", "-r rest.txt: installs what"),
        ("-r torch.txt\n", "torch\n", "cpu torch: installs what"),
        ("--no-deps --no-build", "--no-build", "isolation .: installs what"),
        ("lock rest > rest.txt", "lock torch > rest.txt", "cpu is not installed from requirements"),
    ],
)
def test_what_is_missing_in_the_dockerfile_is_named(before, after, problem):
    assert list(dockerfile_problems(DOCKERFILE)) == []
    found = list(dockerfile_problems(changed(DOCKERFILE, before, after)))
    assert any(problem in line for line in found)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("USER 10001:10001", "USER worker", "runs as worker"),
        ("USER 10001:10001", "USER 0", "runs as 0"),
        ('ENTRYPOINT ["ssd-worker"]', "ENTRYPOINT ssd-worker", "signals do not reach it"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "is not stopped by SIGTERM"),
        ("RUN mkdir /home/worker/state", "", "SSD_WORKER_STATE_DIR is not a folder of its user"),
        ('CMD ["python", "/opt/deploy/healthcheck.py"]', "NONE", "has no HEALTHCHECK"),
        (" deploy/healthcheck.py /opt", " /opt", "healthcheck.py, which is not copied there"),
        ("--timeout=30s", "--timeout=20s", "is ended before healthcheck.py gives up"),
    ],
)
def test_both_targets_need_it(before, after, problem):
    found = list(dockerfile_problems(changed(DOCKERFILE, before, after)))
    assert len(found) == 2
    assert all(problem in line for line in found)


def test_only_the_target_for_a_gpu_has_a_compiler():
    found = stages(DOCKERFILE)
    assert "g++" in found["build-cuda"].packages
    assert "gcc" in found["cuda"].packages
    assert found["cpu"].packages == set()
    compiler = "FROM runtime AS cpu\nRUN apt-get install gcc\n"
    (problem,) = dockerfile_problems(changed(DOCKERFILE, "FROM runtime AS cpu\n", compiler))
    assert "target cpu has a compiler" in problem


def test_a_compiler_in_the_stage_that_builds_is_not_one_in_the_image():
    found = list(dockerfile_problems(changed(DOCKERFILE, "gcc libc6-dev", "curl")))
    assert len(found) == 2
    assert "has no gcc" in found[0]


def test_what_is_copied_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text()
    assert list(copy_problems(DOCKERFILE, ignored)) == []
    (problem,) = copy_problems(DOCKERFILE, changed(ignored, "!deploy/entrypoint.sh\n", ""))
    assert "deploy/entrypoint.sh, which .dockerignore leaves out" in problem
    found = list(copy_problems(changed(DOCKERFILE, "COPY worker ", "COPY wrker "), ignored))
    assert any("wrker, which does not exist" in problem for problem in found)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("read_only: true", "read_only: false", "read_only is not True"),
        ("cap_drop: [ALL]", "cap_drop: [NET_RAW]", "cap_drop is not ['ALL']"),
        ("no-new-privileges:true", "no-new-privileges:false", "security_opt is not"),
        ("restart: unless-stopped", "restart: on-failure", "restart is not unless-stopped"),
        ("redis:7.4.6-alpine", "redis:7-alpine", "redis:7-alpine is not pinned"),
        ("noeviction\n    user", "allkeys-lru\n    user", "--maxmemory-policy noeviction"),
        ('"yes"', '"no"', "loses events without --appendonly yes"),
        ("- --maxmemory\n", "- --maxclients\n", "has no --maxmemory"),
        ("user: redis", "user: root", "redis: runs as root"),
        ('"redis-cli", "-e"', '"redis-cli"', "redis-cli without -e"),
        ("tmpfs: [/tmp]", "tmpfs: []", "without a tmpfs at /tmp"),
        ("worker-state:/home/worker/state", "worker-state:/state", "no volume at /home/worker"),
        ("exec /opt/deploy/entrypoint.sh", "exec ssd-worker", "exit code 2 is a restart loop"),
        ("/opt/deploy/entrypoint", "/usr/bin/entrypoint", "/usr/bin/entrypoint.sh is not in the"),
        ("stop_grace_period: 20s", "stop_grace_period: 5s", "stop_grace_period is not above"),
        ("target: cpu", "target: gpu", "gpu is not a target of the Dockerfile"),
        ("target: cuda", "target: cpu", "target cuda and a GPU go together"),
        ("profiles: [gpu]", "profiles: [cpu]", "would take each other's cameras"),
        ("    profiles: [cpu]\n", "", "would take each other's cameras"),
        (
            "    redis:\n      cond",
            "    valkey:\n      cond",
            "valkey, which is not a service",
        ),
    ],
)
def test_what_is_missing_in_the_compose_file_is_named(before, after, problem):
    assert list(compose_problems(COMPOSE, DOCKERFILE)) == []
    found = list(compose_problems(changed(COMPOSE, before, after), DOCKERFILE))
    assert found
    assert any(problem in line for line in found)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("RestartPreventExitStatus=2", "without RestartPreventExitStatus=2"),
        ("Restart=on-failure", "without Restart=on-failure"),
        ("SuccessExitStatus=130", "without SuccessExitStatus=130"),
        ("StateDirectory=ssd-worker", "without StateDirectory=ssd-worker"),
        ("TimeoutStopSec=20s", "TimeoutStopSec is not above 10s"),
    ],
)
def test_what_is_missing_in_the_systemd_unit_is_named(line, problem):
    assert list(unit_problems(UNIT)) == []
    (found,) = unit_problems(changed(UNIT, f"\n{line}\n", "\n"))
    assert problem in found


def test_a_variable_that_is_not_a_setting_is_named():
    text = "SSD_WORKER_REDIS_URL=x SSD_WORKER_REDIS_URI=x"
    assert list(settings_problems(text, "x")) == ["x: SSD_WORKER_REDIS_URI is not a setting"]


def test_every_base_of_the_dockerfile_can_be_pinned_by_digest():
    digest = f"python:3.12.13-slim-bookworm@sha256:{'0' * 64}"
    pinned = re.sub(r"(?m)^ARG PYTHON=.*", f"ARG PYTHON={digest}", DOCKERFILE)
    assert {stage.image for stage in stages(pinned).values()} == {digest}
    assert list(dockerfile_problems(pinned)) == []
