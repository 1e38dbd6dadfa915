"""Which frames are shown."""

from tests.events import PERSON
from tests.unit.worker.reports.events import CAR, recorded
from worker.reports.examples import EXAMPLES, MOST_SLOTS, Examples


def chosen(events, labels=("Person", "Car"), most=100):
    examples = Examples()
    for event in events:
        examples.add(event.data.pts_seconds, event, most)
    assert len(examples._slots) <= MOST_SLOTS
    return [event.data.frame_index for event in examples.chosen(list(labels))]


def test_every_label_is_shown_and_the_rest_is_spread_over_the_time():
    def at(n):
        return [CAR] * (n == 777) + [PERSON] * (n % 2)

    found = chosen(recorded(n, *at(n)) for n in range(3000))
    assert 777 in found
    assert len(found) == EXAMPLES
    assert found == sorted(found)
    assert max(b - a for a, b in zip([0, *found], [*found, 3000], strict=True)) < 1500


def test_of_a_label_the_surest_detection_is_shown():
    sure = PERSON.model_copy(update={"score": 0.99})
    events = [recorded(0, PERSON), recorded(1, sure), recorded(2, PERSON, PERSON)]
    assert 1 in chosen(events)
    assert chosen(events, labels=["Car"]) == [2]  # of this second the one with most


def test_frames_without_detections_are_no_examples_but_the_first_is_known():
    examples = Examples()
    for n in range(3):
        examples.add(n, recorded(n), 10)
    assert examples.chosen([]) == []
    assert examples.first.data.frame_index == 0


def test_labels_without_number_are_not_all_kept():
    labels = [PERSON.model_copy(update={"label": f"label {n}"}) for n in range(50)]
    examples = Examples()
    examples.add(0.0, recorded(0, *labels), 7)
    assert len(examples._surest) == 7
