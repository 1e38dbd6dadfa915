"""Whether a replay gives the same bytes however often it is killed.

    PYTHONPATH=benchmarks python benchmarks/gpu/replay_bytes.py [--device cuda] [--quick]

`ssd-worker replay` writes a clip's events to a file, uninterrupted. Beside that another one is
killed (SIGKILL) at `KILLS` random moments between its first and its last event, started again each
time, and must leave the same file. On CUDA frames are decoded on the GPU where that works; a third
replay decodes them on the CPU: how many events it has in common with the first is reported, not
judged.
Exits with 1 if the replay that was killed gives other bytes.
"""

import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clips import camera_clip
from common import introduce, parser
from processes import WORKER

KILLS = 2


def main() -> None:
    """Run the replays at the same time, compare, judge."""
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=14)
    chosen = options.parse_args()
    introduce(chosen.device, "torch", "av")
    frames = 60 if chosen.quick else 795
    command = [*WORKER, "replay", str(camera_clip(frames)), "--device", chosen.device]
    on_cpu = [*command, "--hwaccel", "none"]
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor() as pool:
        whole = pool.submit(replay, command, Path(directory) / "whole.jsonl")
        other = pool.submit(replay, on_cpu, Path(directory) / "other.jsonl")
        output = Path(directory) / "killed.jsonl"
        killed = pool.submit(replay_with_kills, command, output, frames, chosen.seed)
        expected = whole.result()
        pairs = list(zip(expected.splitlines(), other.result().splitlines(), strict=True))
        equal = sum(one == another for one, another in pairs)
        print(f"decoded on the device and on the CPU: {equal} of {len(pairs)} events are equal")
        kills, found = killed.result()
    print(f"killed {kills} times, same bytes: {found == expected}")
    if kills < KILLS or found != expected:
        sys.exit("bytes differ, or a replay ended before it was killed")


def replay(command: list[str], output: Path) -> bytes:
    """What an uninterrupted replay writes."""
    command = [*command, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(f"{output.stem}:\n{done.stderr}", end="", flush=True)
    done.check_returncode()
    return output.read_bytes()


def replay_with_kills(
    command: list[str], output: Path, frames: int, seed: int
) -> tuple[int, bytes]:
    """How often a replay was killed before it ended, and what it wrote in the end."""
    moments = random.Random(seed)
    kills = 0
    for part in range(KILLS):  # one in each part, and none so late that the replay ends first
        share = (part + moments.random()) / (KILLS + 0.5)
        kills += kill_at(round(share * frames), [*command, "--output", str(output)], output)
    return kills, replay(command, output)


def kill_at(events: int, command: list[str], output: Path) -> bool:
    """Start a replay and kill it once its journal has so many events; whether it still ran."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        journal = next(output.parent.glob(f"{output.name}.partial-*"), None)
        if journal is not None and journal.read_bytes().count(b"\n") >= events:
            process.kill()
            process.wait()
            return not output.exists()
        time.sleep(0.005)
    return False


if __name__ == "__main__":
    main()
