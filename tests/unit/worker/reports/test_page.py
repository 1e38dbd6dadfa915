"""The page: what it says, and that nothing in events is more than text."""

import base64
import hashlib
import re
from datetime import timedelta
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.events import PERSON
from tests.unit.worker.reports.events import (
    BEGIN,
    CAR,
    end_of_recording,
    recorded,
    seen,
    state,
)
from worker.coverage import Coverage
from worker.reports.camera import sums_of
from worker.reports.gathering import gather
from worker.reports.material import Report
from worker.reports.page import MOST_CHARTS, render
from worker.reports.pictures import ShownFrame

HOSTILE = "<script>alert(1)</script>\"' onload=x {{7*7}} \u202e\x00&amp;"
PICTURE = np.full((90, 160, 3), 128, np.uint8)


class Tags(HTMLParser):
    """The elements of a page, with their attributes; and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self._hidden = [], [], 0
        self.feed(page)
        self.text = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._hidden += tag == "style"

    def handle_endtag(self, tag):
        self._hidden -= tag == "style"

    def handle_data(self, data):
        if not self._hidden:
            self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def material_of(*events, until=None, frames=()):
    coverage = Coverage()
    for event in events:
        coverage.add(event)
    (camera,), _ = sums_of(iter(events), 10)
    material = gather(camera, coverage, until=until, video=None, files=[], snapshot=None)
    if frames:
        material.frames, material.ground = list(frames), frames[0].picture
    return material


def page_of(*materials, **options):
    return render(Report("Report", "tags.jsonl", list(materials), **options))


def recording(*labels):
    found = [PERSON.model_copy(update={"label": label}) for label in labels]
    return [*(recorded(n, *found) for n in range(40)), end_of_recording(40)]


def test_a_recording_is_told_in_numbers():
    events = [*(recorded(n, PERSON, PERSON, CAR) for n in range(40)), end_of_recording(40)]
    tags = Tags(page_of(material_of(*events)))
    for said in (
        "Recording clip",
        "0:00 to 0:04 of the recording. Model: ssd_mobilenet_v2_oid.",
        "frames analysed 40",
        "detections 120",
        "mean in a frame 3",
        "Person 80 2 40 2 0.90 0:00.0 0:03.9",
        "Car 40 1 40 1 0.50 0:00.0 0:03.9",
        "40 frames were analysed of 40 in the recording; 0 skipped by choice, 0 dropped.",
        "It was read to its end.",
        "Over a plain field, since no picture was at hand.",
        "No recording was at hand: give it with --video FILE",
    ):
        assert said in tags.text, said


def test_a_replay_that_was_not_finished_says_so():
    tags = Tags(page_of(material_of(recorded(0, PERSON), recorded(1, PERSON))))
    assert "The end of the recording is not among the events" in tags.text
    tags = Tags(page_of(material_of(recorded(0), end_of_recording(1, reason="truncated"))))
    assert "It did not end as it should: truncated." in tags.text
    assert "Nothing was detected." in tags.text


def test_a_live_camera_has_its_coverage_up_to_when_it_was_asked_for():
    events = [
        state(0, 0, "up", "connected"),
        *(seen(n, 2 * n, 10 * n) for n in range(1, 30)),
        state(30, 60, "down", "timeout", frames=300),
        state(31, 70, "down", "timeout", frames=300),
    ]
    tags = Tags(page_of(material_of(*events, until=BEGIN + timedelta(seconds=240))))
    assert re.search(r"watched (1 min|60 s) 25\.0 %", tags.text)
    assert re.search(r"worker down 2 min \d+ s", tags.text)
    assert re.search(r"2026-11-27 12:01:00 \d+ s down timeout", tags.text)
    assert "Grey: no frame was analysed." in tags.text
    styles = {rect["class"] for rect in tags.of("rect")}
    assert styles == {"unseen", "watched", "down", "worker_down"}


def test_events_that_are_missing_are_told_before_any_number():
    tags = Tags(page_of(material_of(recorded(0, PERSON), recorded(9, PERSON))))
    assert "8 events are missing by their numbers" in tags.text
    assert tags.text.index("are missing") < tags.text.index("frames analysed")


def test_ids_and_labels_are_text_whatever_is_in_them():
    hostile = PERSON.model_copy(update={"label": HOSTILE})
    events = [recorded(n, hostile, camera_id=HOSTILE, file_name=HOSTILE) for n in range(9)]
    events.append(end_of_recording(9, camera_id=HOSTILE, reason=HOSTILE, detail=HOSTILE))
    page = render(
        Report(
            f"Report on {HOSTILE}",
            HOSTILE,
            [material_of(*events, frames=[ShownFrame(PICTURE, events[0])])],
            [HOSTILE],
        )
    )
    tags = Tags(page)
    shown = HOSTILE.replace("\u202e", "�").replace("\x00", "�")
    assert tags.text.count(shown) >= 8
    assert {tag for tag, _ in tags.elements} <= {
        "html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer",
        "h1", "h2", "h3", "p", "ul", "li", "dl", "dt", "dd", "div", "span", "bdi", "figure",
        "figcaption", "img", "svg", "rect", "path", "image", "text", "table", "caption", "thead",
        "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert not any(name.startswith("on") for _, attributes in tags.elements for name in attributes)
    assert not {"\u202e", "\x00"} & set(page)


def test_the_page_needs_nothing_else_and_allows_nothing_else():
    frames = [ShownFrame(PICTURE, recorded(0, PERSON, CAR))]
    page = page_of(material_of(*recording("Person", "Car"), frames=frames))
    tags = Tags(page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [m["content"] for m in tags.of("meta") if "http-equiv" in m]
    assert policy.split("; ")[:3] == [
        "default-src 'none'", "img-src data:", f"style-src 'sha256-{digest}'",
    ]  # fmt: skip
    sources = [image["src"] for image in tags.of("img")] + [i["href"] for i in tags.of("image")]
    assert len(sources) == 1 + 1 + 2 + 1  # map, scale, a map of each label, frame
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not any("style" in attributes for _, attributes in tags.elements)
    assert "url(" not in style
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert all(image.get("alt") is not None for image in tags.of("img"))
    assert all("aria-label" in svg or "aria-hidden" in svg for svg in tags.of("svg"))


def test_boxes_are_drawn_where_they_are():
    frame = ShownFrame(PICTURE, recorded(0, PERSON.model_copy(update={"box": (-1, 0.5, 0.25, 9)})))
    tags = Tags(page_of(material_of(*recording("Person"), frames=[frame])))
    (box,) = [rect for rect in tags.of("rect") if rect["class"] == "box"]
    assert [float(box[name]) for name in ("x", "y", "width", "height")] == [0, 45, 40, 45]
    assert "Frame 0 at 0:00.0: Person 0.90" in tags.text


def test_of_many_labels_all_are_in_the_table_and_the_first_have_charts():
    labels = [f"label {n}" for n in range(20)]
    tags = Tags(page_of(material_of(*recording(*labels))))
    assert sum("area" == path.get("class") for path in tags.of("path")) == MOST_CHARTS
    for label in labels:
        assert f"{label} 40 1 40 1 0.90" in tags.text


@pytest.mark.parametrize("at", [9e11, -9e11, 3e11])
def test_times_beyond_reason_are_no_failure(at):
    page = page_of(material_of(recorded(0, PERSON), recorded(1, PERSON, pts_seconds=at)))
    assert "Person" in page
