"""Whether a replay gives the same bytes however often it is killed, wherever frames are decoded.

    python benchmarks/gpu/replay_bytes.py [--device cuda] [--quick]

`ssd-worker replay` writes a clip's events to a file, uninterrupted. Then it is killed (SIGKILL) at
`KILLS` random moments between its first and its last event, started again each time, and must leave
the same file. On CUDA this is done with frames decoded on the CPU, and again decoded on the GPU
where that works; how many events the two have in common is told, not judged. Exits with 1 if a
replay that was killed gives other bytes.
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

KILLS = 3


def main() -> None:
    """Compare for each way of decoding, judge."""
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=14)
    chosen = options.parse_args()
    introduce(chosen.device, "torch", "av")
    clip = camera_clip(60 if chosen.quick else 795)
    ways = ("none", "auto") if chosen.device == "cuda" else ("none",)
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(compare, clip, chosen.device, way, chosen.seed) for way in ways]
        results = [job.result() for job in jobs]
    if len(results) == 2:
        pairs = list(zip(*(events for events, _ in results), strict=True))
        equal = sum(one == other for one, other in pairs)
        print(f"decoded on the CPU and on the GPU: {equal} of {len(pairs)} events are equal")
    if not all(same for _, same in results):
        sys.exit("bytes differ, or a replay ended before it was killed")


def compare(clip: Path, device: str, hwaccel: str, seed: int) -> tuple[list[bytes], bool]:
    """The events of the uninterrupted replay, and whether those of the killed one are the same."""
    moments = random.Random(seed)
    command = [*WORKER, "replay", str(clip), "--device", device, "--hwaccel", hwaccel]
    with tempfile.TemporaryDirectory() as directory:
        reference, output = Path(directory) / "reference.jsonl", Path(directory) / "out.jsonl"
        done = subprocess.run(
            [*command, "--output", str(reference)], check=True, capture_output=True, text=True
        )
        print(f"--hwaccel {hwaccel}:\n{done.stderr}", end="")
        expected = reference.read_bytes()
        command += ["--output", str(output)]
        killed = 0
        for part in range(KILLS):  # one in each part, and none so late that the replay ends first
            share = (part + moments.random()) / (KILLS + 0.5)
            killed += kill_at(round(share * len(expected)), command, output)
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        same = output.read_bytes() == expected
    print(f"--hwaccel {hwaccel}: killed {killed} times, same bytes: {same}", flush=True)
    return expected.splitlines(), same and killed == KILLS


def kill_at(size: int, command: list[str], output: Path) -> bool:
    """Start a replay and kill it once its journal has so many bytes; whether it still ran."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        journal = next(output.parent.glob(f"{output.name}.partial-*"), None)
        if journal is not None and journal.stat().st_size >= size:
            process.kill()
            process.wait()
            return not output.exists()
        time.sleep(0.002)
    return False


if __name__ == "__main__":
    main()
