"""What a test run left out, and what was missing for it.

Takes the skips of a run, including those of pytest-xdist's processes; gives a section at its end.
With REQUIRE=all-but-cuda in the environment, a skip for lack of anything but a GPU fails the run.
"""

import os
from collections import Counter

ALL_BUT_CUDA = "all-but-cuda"
FAILED = 1
"""pytest's exit status for tests that failed."""


def left_out(reporter):
    """Tests that were skipped (or whole modules) by reason, the most first."""
    reasons = (
        report.longrepr[2].removeprefix("Skipped: ")
        for report in reporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple)
    )
    return Counter(reasons).most_common()


def required(environment):
    """Whether skips fail the run. Raises ValueError for a value that means nothing."""
    value = environment.get("REQUIRE", "")
    if value not in ("", ALL_BUT_CUDA):
        raise ValueError(f"REQUIRE={value}: expected {ALL_BUT_CUDA}")
    return bool(value)


def forbidden(skips):
    """The skips that fail a run where everything but a GPU is required."""
    return [(reason, count) for reason, count in skips if "CUDA" not in reason]


def summarise(reporter):
    """The section at the end of a run."""
    skips = left_out(reporter)
    if not skips:
        return
    failing = forbidden(skips) if required(os.environ) else []
    reporter.section("not tested here")
    for reason, count in skips:
        mark = f"  (fails the run: REQUIRE={ALL_BUT_CUDA})" if (reason, count) in failing else ""
        reporter.write_line(f"{count:4} {'test ' if count == 1 else 'tests'}  {reason}{mark}")


def exit_status(session):
    """The status that a run ends with: failed, if it skipped what is required."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return session.exitstatus
    if required(os.environ) and forbidden(left_out(reporter)):
        return session.exitstatus or FAILED
    return session.exitstatus
