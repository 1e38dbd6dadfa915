"""Requirements of the image without CUDA: `cpu_requirements.py requirements.lock torch|rest`.

`rest` prints the lock without PyTorch, Triton and NVIDIA's libraries, hashes included. `torch`
prints torch and torchvision in the lock's versions, as PyTorch's index of CPU builds names them.
Hashes of those are not in the lock, which has the ones of PyPI's wheels, built for CUDA. Installs
nothing. Fails in one line if the lock is not as expected.
"""

import argparse
import re
import sys
from pathlib import Path

FROM_PYTORCH = ("torch", "torchvision")
ONLY_FOR_CUDA = ("triton", "nvidia-", "cuda-")
"""A name, or the beginning of one."""
NAME = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^ ;\\]+)")


def entries(lock: str) -> list[tuple[str, str, str]]:
    """Name, version and whole text (marker and hashes) of each package of a lock file."""
    found = []
    for text in re.split(r"(?<!\\)\n", lock):
        if not text.strip() or text.startswith("#"):
            continue
        pinned = NAME.match(text)
        if pinned is None or " --hash=" not in text.replace("\\\n", " "):
            raise ValueError(f"expected NAME==VERSION with hashes: {text.splitlines()[0]}")
        found.append((pinned[1].lower(), pinned[2], text))
    return found


def torch_pins(lock: str) -> str:
    """NAME==VERSION+cpu of what PyTorch's own index provides, a line each."""
    versions = {name: version for name, version, _ in entries(lock)}
    missing = [name for name in FROM_PYTORCH if name not in versions]
    if missing:
        raise ValueError(f"{missing[0]} is not in the lock")
    return "".join(f"{name}=={versions[name]}+cpu\n" for name in FROM_PYTORCH)


def rest(lock: str) -> str:
    """The lock without what the image gets from PyTorch's index, or only CUDA needs."""
    return "".join(
        f"{text}\n"
        for name, _, text in entries(lock)
        if name not in FROM_PYTORCH and not name.startswith(ONLY_FOR_CUDA)
    )


def main() -> None:
    """Print one part of a lock file."""
    parser = argparse.ArgumentParser(description="Requirements of the image without CUDA.")
    parser.add_argument("lock", type=Path)
    parser.add_argument("part", choices=("torch", "rest"))
    arguments = parser.parse_args()
    lock = arguments.lock.read_text()
    try:
        print(rest(lock) if arguments.part == "rest" else torch_pins(lock), end="")
    except ValueError as error:
        sys.exit(f"{arguments.lock}: {error}: make lock")


if __name__ == "__main__":
    main()
