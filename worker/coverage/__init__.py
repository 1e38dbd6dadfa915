"""When a camera was watched, and when not and why: events in, intervals out.

    from worker.coverage import intervals
    for camera_id, found in intervals(events).items(): ...

Needs nothing but the events of live cameras: their numbers, states and counts. docs/coverage.md
says what each state means, and how sure it is.
"""

from worker.coverage.collecting import Coverage, coverage_of, intervals
from worker.coverage.interval import STATES, Interval, State

__all__ = ["STATES", "Coverage", "Interval", "State", "coverage_of", "intervals"]
