import logging

from worker.publishing.outage import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, Outage


def fail(outage, times):
    return [outage.failed(OSError("no answer")) for _ in range(times)]


def test_the_waits_double_up_to_a_limit():
    waits = fail(Outage("Redis"), 20)
    assert waits[:3] == [FIRST_RETRY_SECONDS, 2 * FIRST_RETRY_SECONDS, 4 * FIRST_RETRY_SECONDS]
    assert waits[-1] == max(waits) == LAST_RETRY_SECONDS


def test_a_new_outage_begins_with_the_first_wait():
    outage = Outage("Redis")
    fail(outage, 10)
    outage.end()
    assert fail(outage, 1) == [FIRST_RETRY_SECONDS]


def test_it_lasts_from_the_first_failure_to_the_next_success():
    outage = Outage("Redis")
    assert not outage
    fail(outage, 1)
    assert outage
    outage.end()
    assert not outage


def test_its_start_and_its_end_are_logged_once(caplog):
    caplog.set_level(logging.INFO)
    outage = Outage("Redis")
    outage.end()
    fail(outage, 5)
    outage.end()
    outage.end()
    first, last = caplog.messages
    assert first == "Redis is unavailable, events are queued: no answer"
    assert last.startswith("Redis is available again after 0.")
