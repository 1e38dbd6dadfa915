"""Compiles Triton kernels for GPUs that are not there.

In a process of its own: in the one that runs the tests, kernels may be there for the interpreter.
"""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[3]
CAPABILITIES = (80, 90)
"""Ampere and Hopper."""
TRITONS = ("3.6", "3.9")
"""What the oldest and the newest PyTorch come with that pyproject.toml allows."""
POINTERS = {
    "torch.float32": "*fp32",
    "torch.float16": "*fp16",
    "torch.bfloat16": "*bf16",
    "torch.int32": "*i32",
    "torch.int64": "*i64",
    "torch.bool": "*i1",
}


def installed_triton():
    """Its version, such as 3.9; empty without one."""
    try:
        return ".".join(version("triton").split(".")[:2])
    except PackageNotFoundError:
        return ""


with_each_triton = pytest.mark.parametrize(
    "triton",
    [
        pytest.param(each, marks=() if each == installed_triton() else pytest.mark.long)
        for each in sorted({*TRITONS, installed_triton() or TRITONS[-1]})
    ],
)
"""Both ends of the range and the installed one; another than that is long, and in .cache."""


def site_of(triton):
    """The folder to import a version of Triton from; skips the test where it is not there."""
    if triton == installed_triton():
        return Path(find_spec("triton").origin).parents[1]
    site = ROOT / ".cache" / f"triton-{triton}"
    if not site.is_dir():
        pytest.skip(f"kernels compiled with Triton {triton} (make {site.relative_to(ROOT)})")
    return site


def compiled(launches, directory, triton):
    """What the kernels that the code ``launches`` starts take of each GPU, compiled as it asks.

    [{"kernel": name, "capability": 80, "REG": registers of a thread, "STACK": bytes,
      "LAUNCH_SHARED": bytes of shared memory that a launch asks for, ...}]
    """
    site = site_of(triton)
    tools = site / "triton" / "backends" / "nvidia" / "bin"
    for tool in ("ptxas", "cuobjdump"):
        if not (tools / tool).exists():
            pytest.skip(f"kernels compiled for GPUs (this Triton comes without {tool})")
    path = [str(ROOT)] if triton == installed_triton() else [str(site), str(ROOT)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "TRITON_CACHE_DIR": str(directory),
    }
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, __file__, tools / "cuobjdump"], input=launches, cwd=directory,
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    used, usage = json.loads(done.stdout.splitlines()[-1])
    assert used.startswith(f"{triton}.")
    return usage


def main():
    import triton

    recorded = []

    def record(kernel, *arguments, grid, warmup, **options):
        recorded.append((kernel, dict(zip(kernel.arg_names, arguments, strict=False)), options))

    with mock.patch.object(triton.JITFunction, "run", record):
        exec(sys.stdin.read(), {})
    usage = [
        {"kernel": launch[0].__name__, "capability": capability} | build(*launch, capability)
        for launch in recorded
        for capability in CAPABILITIES
    ]
    print(json.dumps([triton.__version__, usage]))


def build(kernel, arguments, options, capability):
    """Compiles a launch, with what Triton would know of the arguments."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    general = {param.name for param in kernel.params if param.do_not_specialize}
    constants = {name: options[name] for name in names if name in options}
    constants |= {
        name: 1
        for name, value in arguments.items()
        if type(value) is int and value == 1 and name not in general
    }
    options = {name: value for name, value in options.items() if name not in constants}
    values = {name: value for name, value in arguments.items() if name not in constants}
    types = {name: kind(value) for name, value in values.items()}
    source = ASTSource(
        fn=kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (names.index(name),): [["tt.divisibility", 16]]
            for name, value in values.items()
            if name not in general and is_divisible(value)
        },
    )
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=options)
    Path("kernel.cubin").write_bytes(compiled.asm["cubin"])
    command = [sys.argv[1], "--dump-resource-usage", "kernel.cubin"]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = {name: int(number) for name, number in re.findall(r"([A-Z]+):(\d+)", dump)}
    return usage | {"LAUNCH_SHARED": compiled.metadata.shared}


def kind(value):
    if isinstance(value, float):
        return "fp32"
    if isinstance(value, int):
        return "i32" if value < 2**31 else "i64"
    return POINTERS[str(value.dtype)]


def is_divisible(value):
    if isinstance(value, float):
        return False
    return (value if isinstance(value, int) else value.data_ptr()) % 16 == 0


if __name__ == "__main__":
    main()
