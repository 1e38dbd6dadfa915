import math

import pytest

from worker.settings.camera_table import NOT_SUPPORTED_YET, check_table

SQUARE = [[0, 0], [1, 0], [1, 0.5], [0, 0.5]]
SECRET = "hunter22-secret"


def wrong(table, known_labels=None):
    checked, problems = check_table({"source": "rtsp://h/x"} | table, known_labels)
    assert (checked is None) == bool(problems)
    return problems


def test_a_table_of_everything_is_taken_as_it_is_written():
    table = {
        "source": "rtsp://h/x",
        "fps": 5,
        "labels": ["Person", "Computer mouse"],
        "score_threshold": 0,
        "transport": "udp",
        "ignore": [SQUARE, SQUARE[:3]],
        "anchor": "centre",
        "snapshots": "blur",
    }
    checked, problems = check_table(table, ["Person", "Computer mouse"])
    assert problems == []
    assert (checked.fps, checked.score_threshold, checked.transport) == (5.0, 0.0, "udp")
    assert checked.labels == ["Person", "Computer mouse"]
    assert checked.ignore[1] == ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5))
    assert (checked.anchor, checked.snapshots) == ("centre", "blur")


def test_a_source_is_enough():
    checked, problems = check_table({"source": "clip.mp4"}, [])
    assert problems == []
    assert (checked.fps, checked.labels, checked.score_threshold) == (None, None, None)
    assert (checked.transport, checked.ignore, checked.anchor) == (None, [], "bottom")
    assert checked.snapshots is None


def test_labels_may_be_text_with_commas_as_on_the_command_line():
    checked, _ = check_table({"source": "x", "labels": "Person, Car"}, ["Person", "Car"])
    assert checked.labels == ["Person", "Car"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", ""),
        ("source", 1),
        ("source", ["rtsp://h"]),
        ("fps", 0),
        ("fps", -1),
        ("fps", "5"),
        ("fps", True),
        ("fps", math.inf),
        ("fps", math.nan),
        ("fps", 10**400),
        ("score_threshold", 1),
        ("score_threshold", -0.1),
        ("score_threshold", math.nan),
        ("labels", []),
        ("labels", ""),
        ("labels", "Person,,Car"),
        ("labels", ["Person", ""]),
        ("labels", ["Person", 3]),
        ("labels", 3),
        ("labels", {"Person": 1}),
        ("transport", "TCP"),
        ("transport", "rtp"),
        ("anchor", "top"),
        ("anchor", []),
        ("snapshots", "on"),
        ("snapshots", "true"),
        ("snapshots", 1),
        ("snapshots", ["blur"]),
        ("ignore", SQUARE),
        ("ignore", "all"),
        ("ignore", [SQUARE[:2]]),
        ("ignore", [[]]),
        ("ignore", [{"polygon": SQUARE}]),
        ("ignore", [[[0, 0], [1, 0], [1, 1, 1]]]),
        ("ignore", [[[0, 0], [1, 0], [1]]]),
        ("ignore", [[[0, 0], [1, 0], [1, 1.001]]]),
        ("ignore", [[[0, 0], [1, 0], [1, -0.001]]]),
        ("ignore", [[[0, 0], [1, 0], [1, math.nan]]]),
        ("ignore", [[[0, 0], [1, 0], [1, 10**400]]]),
        ("ignore", [[[0, 0], [1, 0], [1, True]]]),
        ("ignore", [[[0, 0], [1, 0], [1, "1"]]]),
        ("ignore", [[[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]]),
        ("ignore", [[[0.5, 0.5]] * 4]),
    ],
)
def test_a_value_that_cannot_work_is_named_by_its_key(key, value):
    problems = wrong({key: value})
    assert {found for found, _ in problems} == {key}
    assert all(text.startswith(f"{key}: ") for _, text in problems)


@pytest.mark.parametrize("value", [True, False, "blur"])
def test_snapshots_are_on_off_or_blurred(value):
    checked, problems = check_table({"source": "x", "snapshots": value}, None)
    assert (checked.snapshots, problems) == (value, [])


def test_another_value_for_snapshots_is_answered_with_those_there_are():
    assert wrong({"snapshots": "no"}) == [
        ("snapshots", 'snapshots: expected true, false or "blur"')
    ]


def test_a_polygon_is_counted_from_one():
    ((_, text),) = wrong({"ignore": [SQUARE, [[0, 0], [1, 0], [7, 0]]]})
    assert text.startswith("ignore: polygon 2: point 3: ")


def test_every_mistake_of_a_table_is_found_at_once():
    found = wrong(
        {"fps": 0, "transport": "x", "colour": 1, "labels": ["Zebra", "Car"]}, ["Person", "Car"]
    )
    assert sorted(key for key, _ in found) == ["colour", "fps", "labels", "transport"]


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    assert wrong({"score_treshold": 1}) == [
        ("score_treshold", "unknown key score_treshold: did you mean score_threshold?")
    ]
    ((_, text),) = wrong({"colour": 1})
    assert "known are source, fps" in text


@pytest.mark.parametrize("key", NOT_SUPPORTED_YET)
def test_what_comes_later_is_refused_as_such(key):
    assert wrong({key: "auto"}) == [(key, f"{key} is not supported yet: remove it")]


def test_an_unknown_label_is_refused_with_the_nearest_or_all_known_ones():
    ((_, text),) = wrong({"labels": ["Persn"]}, ["Person", "Car"])
    assert text == "labels: the model does not know Persn: did you mean Person?"
    ((_, text),) = wrong({"labels": "Zebra"}, ["Person", "Car"])
    assert text.endswith("it knows Person, Car")
    assert wrong({"labels": ["Zebra"]}, None) == []


@pytest.mark.parametrize("table", ["rtsp://u:p@h", 1, [{"source": "x"}]])
def test_what_is_not_a_table_is_refused_with_an_example(table):
    checked, ((key, text),) = check_table(table, None)
    assert checked is None
    assert key == ""
    assert text.endswith('source = "rtsp://HOST/PATH"')


@pytest.mark.parametrize(
    "key",
    [
        "source",
        "fps",
        "labels",
        "score_threshold",
        "transport",
        "ignore",
        "anchor",
        "snapshots",
        "zones",
    ],
)
@pytest.mark.parametrize("value", [SECRET, [SECRET, [SECRET]], {SECRET: SECRET}])
def test_no_value_is_shown(key, value):
    problems = wrong({key: value})
    assert (key, value) in [("source", SECRET), ("labels", SECRET)] or problems
    assert SECRET not in str(problems)
