from collections import Counter

from worker.commands.console import print_summary, progress_bar
from worker.pipeline.summary import Summary


def test_a_summary_gives_speed_drops_detections_and_where_the_events_are(capsys):
    summary = Summary(frames=50, dropped=3, seconds=2.0)
    summary.detections = Counter(Car=1, Person=7)
    print_summary(summary, ["tags.jsonl"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "50 frames in 2.0 s (25.0 fps), 3 dropped",
        "detections: Person 7, Car 1",
        "events: tags.jsonl",
    ]


def test_a_summary_of_nothing_divides_by_nothing(capsys):
    print_summary(Summary(), [])
    assert capsys.readouterr().err.splitlines() == [
        "0 frames in 0.0 s (0.0 fps)",
        "detections: none",
    ]


def test_there_is_no_bar_where_stderr_is_not_a_terminal(capsys):
    with progress_bar("gate", 10) as advance:
        advance(5)
    assert capsys.readouterr() == ("", "")
