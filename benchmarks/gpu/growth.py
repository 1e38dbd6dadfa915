"""10,000 batches through one detector, after which no memory may have grown.

    PYTHONPATH=benchmarks python benchmarks/gpu/growth.py [--device cuda] [--quick]

What the allocator handed out and what it holds must be what they were after the first 100 batches,
to the byte; resident memory of the process may differ by `MOST_RSS_MIB`. Exits with 1 otherwise.
"""

import sys

from common import RESULTS, introduce, keep, parser
from detector import memory_growth

MOST_RSS_MIB = 4.0
"""Python's and the driver's own; a leak of one page a batch would be 40 MiB."""


def main() -> None:
    """Run the batches, keep the row, judge."""
    options = parser(__doc__)
    chosen = options.parse_args()
    chosen.models, chosen.precision = ["ssd_mobilenet_v2_oid"], "auto"
    chosen.growth_batches = 10 if chosen.quick else 10_000
    introduce(chosen.device, "torch")
    row = memory_growth(chosen)
    print(row)
    if not chosen.quick:
        keep(RESULTS / "memory.csv", row, chosen.device)
    on_device = {name: row.get(f"{name}_growth_mib", 0.0) for name in ("allocated", "reserved")}
    if chosen.quick:
        return  # so few batches on a CPU tell nothing
    if any(on_device.values()) or row["rss_growth_mib"] > MOST_RSS_MIB:
        sys.exit(f"memory grew: {on_device}, resident {row['rss_growth_mib']} MiB")


if __name__ == "__main__":
    main()
