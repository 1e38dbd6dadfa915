import itertools
import math
import threading
import time
from functools import partial

import pytest

from tests.conftest import WALKWAY, wait_until
from tests.events import MODEL, PERSON
from tests.frames import frame
from tests.spools import no_spool
from worker.errors import CameraRefused, SinkError
from worker.frames import StreamDown, StreamUp
from worker.pipeline import readers
from worker.pipeline.batching import LatestFrameBatcher
from worker.pipeline.cameras import Camera, CameraRecords
from worker.pipeline.event_maker import EventMaker
from worker.pipeline.filtering import DetectionFilter
from worker.pipeline.pipeline import Pipeline
from worker.publishing.live import LivePublisher
from worker.sinks.memory import MemorySink
from worker.sources import connection
from worker.sources.live import LiveSource


@pytest.fixture(autouse=True)
def soon_sure(monkeypatch):
    """A hanging reader is found in a tenth of a second."""
    monkeypatch.setattr(readers, "CONFIRM_SECONDS", 0.1)


class EndlessSource:
    """Frames for ever, each epoch above the last."""

    epochs = itertools.count(1)

    def __init__(self, camera_id, hangs_after=math.inf):
        self.camera_id = camera_id
        self.due_at = math.inf
        self.revive = threading.Event()
        self.ended = threading.Event()
        self._epoch = next(self.epochs)
        self._hangs_after = hangs_after
        self._stopped = threading.Event()

    def current_epoch(self):
        return self._epoch

    def stop(self):
        self._stopped.set()

    def __iter__(self):
        yield StreamUp(self.camera_id, self._epoch)
        for index in itertools.count():
            if index >= self._hangs_after:
                self.due_at = time.monotonic()
                self.revive.wait()
                yield frame(self.camera_id, index, epoch=self._epoch)
                self.ended.set()
                return
            if self._stopped.wait(0.002):
                return
            yield frame(self.camera_id, index, epoch=self._epoch)


class Cameras:
    """Cameras that note the sources they were opened with."""

    def __init__(self):
        self.opened = []

    def camera(self, camera_id, *, source_settings=None, hangs_after=(), **settings):
        """``hangs_after``: frames after which its sources hang, one after another."""
        hangs_after = iter(hangs_after)

        def opened():
            source = EndlessSource(camera_id, next(hangs_after, math.inf))
            self.opened.append(source)
            return source

        return Camera(camera_id, opened, source_settings, **settings)

    def of(self, camera_id):
        return [source for source in self.opened if source.camera_id == camera_id]


@pytest.fixture
def cameras():
    cameras = Cameras()
    yield cameras
    for source in cameras.opened:
        source.revive.set()


@pytest.fixture
def watch():
    """Runs a pipeline over cameras until the test ends; ``error`` is what ended it before."""
    started = []

    def watch(*cameras, sink=None, detect=None, **options):
        pipeline = Pipeline(
            cameras, LatestFrameBatcher(4, 0.01),
            detect or (lambda images, filters: lambda: [[PERSON]] * len(images)),
            EventMaker(MODEL), LivePublisher(sink or MemorySink(), no_spool(), capacity=1000),
            lossless=False, **options,
        )  # fmt: skip
        run = Run(pipeline)
        started.append(run)
        return run

    yield watch
    for run in started:
        run.stop()


class Run:
    def __init__(self, pipeline):
        self.pipeline = pipeline
        self.error = None
        self.sink = pipeline._publisher._sink
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.pipeline.run()
        except Exception as error:
            self.error = error

    def stop(self):
        self.pipeline.stop()
        self.thread.join(10)

    def states(self, camera_id):
        return [
            (e.data.state, e.data.reason)
            for e in list(self.sink.events)
            if e.type == "ssd.camera.v1" and e.data.camera_id == camera_id
        ]

    def frames(self, camera_id):
        return [
            e.data for e in list(self.sink.events)
            if e.type == "ssd.detections.v1" and e.data.camera_id == camera_id
        ]  # fmt: skip

    def wait_for(self, camera_id, state, reason):
        wait_until(lambda: (state, reason) in self.states(camera_id), what=f"{state} ({reason})")

    def wait_for_frames(self, camera_id, more=5):
        enough = len(self.frames(camera_id)) + more
        wait_until(lambda: len(self.frames(camera_id)) >= enough, what=f"frames of {camera_id}")


def test_a_camera_whose_reader_hangs_is_down_and_connected_again_and_others_are_untouched(
    cameras, watch
):
    run = watch(cameras.camera("gate"), cameras.camera("yard", hangs_after=[3]))
    run.wait_for("yard", "down", "stall")
    wait_until(lambda: run.states("yard")[-1] == ("up", "connected"), what="yard to be up again")
    run.wait_for_frames("yard")
    run.wait_for_frames("gate")
    assert run.states("yard") == [("up", "connected"), ("down", "stall"), ("up", "connected")]
    assert run.states("gate") == [("up", "connected")]
    assert len(cameras.of("gate")) == 1


def test_a_hung_reader_that_revives_adds_nothing_to_its_camera(cameras, watch):
    run = watch(cameras.camera("yard", hangs_after=[3]))
    run.wait_for("yard", "down", "stall")
    hung, current = wait_until(lambda: len(cameras.of("yard")) == 2 and cameras.of("yard"))
    hung.revive.set()
    run.wait_for_frames("yard", 20)
    assert not hung.ended.is_set()  # nobody asked for what follows the frame it came with
    last = [frame.epoch for frame in run.frames("yard")][3:]
    assert set(last) == {current.current_epoch()}


def test_a_camera_whose_readers_hang_again_and_again_is_set_aside(cameras, watch, caplog):
    run = watch(cameras.camera("gate"), cameras.camera("yard", hangs_after=itertools.repeat(1)))
    run.wait_for("yard", "ended", "stall")
    run.wait_for_frames("gate")
    assert len(cameras.of("yard")) == readers.MAX_HUNG_THREADS
    assert "restart this worker" in caplog.text


def test_a_run_ends_when_the_readers_of_all_its_cameras_hang(cameras, watch):
    run = watch(cameras.camera("yard", hangs_after=itertools.repeat(1)))
    wait_until(lambda: run.error)
    assert isinstance(run.error, SinkError)
    assert "readers hang" in str(run.error)


def test_a_reader_that_is_late_once_is_left_alone(cameras, watch):
    run = watch(cameras.camera("gate"))
    run.wait_for_frames("gate")
    (source,) = cameras.opened
    source.due_at = time.monotonic() + 0.05
    time.sleep(0.1)
    source.due_at = math.inf
    run.wait_for_frames("gate")
    assert run.states("gate") == [("up", "connected")]


def test_a_real_source_that_hangs_in_a_conversion_is_down_and_the_other_is_not(watch, monkeypatch):
    stuck, convert = threading.Event(), threading.Event()
    real = connection.make_converter

    class Stuck:
        def convert(self, picture, orientation):
            stuck.set()
            convert.wait()

    def of_yard():
        return LiveSource("yard", str(WALKWAY), (30, 30), itertools.count(1).__next__, loop=True)

    def make_converter(size, **options):
        return Stuck() if size == (30, 30) and not stuck.is_set() else real(size, **options)

    monkeypatch.setattr("worker.sources.connection.make_converter", make_converter)
    gate = Camera(
        "gate",
        lambda: LiveSource("gate", str(WALKWAY), (60, 60), itertools.count(1).__next__, loop=True),
    )
    run = watch(gate, Camera("yard", of_yard))
    try:
        run.wait_for("yard", "down", "stall")
        run.wait_for_frames("yard")
        assert run.states("gate") == [("up", "connected")]
    finally:
        convert.set()


# Cameras that come, go and change


def test_a_camera_is_added_while_others_go_on_untouched(cameras, watch):
    gate = cameras.camera("gate")
    run = watch(gate)
    run.wait_for_frames("gate")
    run.pipeline.watch([gate, cameras.camera("yard")])
    run.wait_for_frames("yard")
    run.wait_for_frames("gate")
    assert len(cameras.of("gate")) == 1
    assert run.states("gate") == [("up", "connected")]


def test_a_camera_that_is_removed_ends_with_an_event_and_its_record_is_gone(cameras, watch):
    gate = cameras.camera("gate")
    run = watch(gate, cameras.camera("yard"))
    run.wait_for_frames("yard")
    run.pipeline.watch([gate])
    run.wait_for("yard", "ended", "removed")
    frames = len(run.frames("yard"))
    run.wait_for_frames("gate", 20)
    assert len(run.frames("yard")) == frames
    assert [record.camera_id for record in run.pipeline._events.records] == ["gate"]


def test_a_camera_that_is_removed_just_when_it_goes_down_still_ends_with_an_event(cameras, watch):
    detecting, go_on, is_down = (threading.Event() for _ in range(3))

    def detect(images, filters):
        detecting.set()
        go_on.wait(10)
        return lambda: [[PERSON]] * len(images)

    class Closed(EndlessSource):
        def __iter__(self):
            yield StreamUp(self.camera_id, self._epoch)
            yield frame(self.camera_id, epoch=self._epoch)
            detecting.wait(10)
            yield StreamDown(self.camera_id, self._epoch, "down", "closed")
            is_down.set()
            self._stopped.wait()

    gate = cameras.camera("gate")
    run = watch(Camera("yard", lambda: Closed("yard")), detect=detect, waits_for_cameras=True)
    assert is_down.wait(10)
    run.pipeline.watch([gate])
    go_on.set()
    run.wait_for("yard", "ended", "removed")
    run.wait_for_frames("gate")
    assert run.states("yard") == [("up", "connected"), ("down", "closed"), ("ended", "removed")]
    assert [e.data.seq for e in run.sink.events if e.data.camera_id == "yard"] == [0, 1, 2, 3]
    assert [record.camera_id for record in run.pipeline._events.records] == ["gate"]


def test_a_camera_that_was_removed_can_be_added_again(cameras, watch):
    gate, yard = cameras.camera("gate"), cameras.camera("yard")
    run = watch(gate, yard)
    run.wait_for_frames("yard")
    run.pipeline.watch([gate])
    run.pipeline.watch([gate, yard])
    run.wait_for("yard", "ended", "removed")
    wait_until(lambda: run.states("yard")[-1] == ("up", "connected"))
    run.wait_for_frames("yard")
    epochs = [source.current_epoch() for source in cameras.of("yard")]
    assert len(epochs) == 2
    assert {frame.epoch for frame in run.frames("yard")} == set(epochs)


def test_a_camera_whose_source_settings_change_is_reconnected_alone(cameras, watch):
    gate = cameras.camera("gate")
    run = watch(gate, cameras.camera("yard", source_settings="fps 5"))
    run.wait_for_frames("yard")
    run.pipeline.watch([gate, cameras.camera("yard", source_settings="fps 2")])
    run.wait_for("yard", "down", "reconfigured")
    wait_until(lambda: run.states("yard")[-1] == ("up", "connected"))
    run.wait_for_frames("gate")
    assert run.states("gate") == [("up", "connected")]


def test_another_filter_is_used_without_a_reconnect(cameras, watch):
    def detect(images, filters):
        return lambda: [[PERSON] if "Person" in wanted.labels else [] for wanted in filters]

    def camera(label):
        return cameras.camera("gate", filter=DetectionFilter(labels=frozenset({label})))

    run = watch(camera("Person"), detect=detect)
    run.wait_for_frames("gate")
    run.pipeline.watch([camera("Car")])
    wait_until(lambda: run.pipeline._events.records.of("gate").filter.labels == {"Car"})
    frames, analysed = len(run.frames("gate")), run.pipeline.summary.frames
    wait_until(lambda: run.pipeline.summary.frames > analysed + 20)
    assert len(run.frames("gate")) <= frames + 2  # those that were at the detector
    assert len(cameras.opened) == 1


def test_a_run_without_cameras_waits_for_some_if_it_may(cameras, watch):
    run = watch(waits_for_cameras=True)
    run.pipeline.watch([cameras.camera("gate")])
    run.wait_for_frames("gate")
    run.pipeline.watch([])
    run.wait_for("gate", "ended", "removed")
    assert run.error is None
    assert run.thread.is_alive()


def test_a_camera_that_the_sink_refuses_is_tried_again_only_with_other_settings(cameras, watch):
    class Refusing(MemorySink):
        refuses = True

        def publish(self, events):
            if self.refuses and any(event.data.camera_id == "yard" for event in events):
                raise CameraRefused("yard", "camera yard: taken")
            super().publish(events)

    sink = Refusing()
    gate, yard = cameras.camera("gate"), cameras.camera("yard")
    run = watch(gate, yard, sink=sink)
    wait_until(lambda: "yard" not in run.pipeline._readers._readers, what="yard to be set aside")
    sink.refuses = False
    run.pipeline.watch([gate, yard])
    run.wait_for_frames("gate", 20)
    assert len(cameras.of("yard")) == 1
    run.pipeline.watch([gate, cameras.camera("yard", source_settings="another URL")])
    run.wait_for_frames("yard")


class Publisher:
    """What readers ask of one: which cameras may be watched, and why others may not."""

    def __init__(self, *free):
        self.free, self.refused, self.held = {*free}, {}, {}
        self.added, self.removed = [], []

    def add_cameras(self, camera_ids):
        self.added += camera_ids

    def remove_cameras(self, camera_ids):
        self.removed += camera_ids

    def may_watch(self, camera_id):
        return camera_id in self.free


@pytest.fixture
def of_run():
    """Readers over a publisher, looked after by the test."""
    started = []

    def of_run(publisher, *cameras):
        found = readers.Readers(
            LatestFrameBatcher(4, 0.01), publisher, CameraRecords(), lossless=False
        )
        started.append(found)
        found.watch(cameras)
        return found

    yield of_run
    for found in started:
        found.stop(1)


def test_a_camera_is_connected_only_once_no_other_worker_watches_it(cameras, of_run):
    publisher = Publisher("gate")
    found = of_run(publisher, cameras.camera("gate"), cameras.camera("yard"))
    found.look_after()
    assert publisher.added == ["gate", "yard"]
    assert [source.camera_id for source in cameras.opened] == ["gate"]
    publisher.held["yard"] = "camera yard: held"
    found.look_after()
    assert len(cameras.opened) == 1
    publisher.held.clear()
    publisher.free.add("yard")
    found.look_after()
    assert [source.camera_id for source in cameras.opened] == ["gate", "yard"]
    found.look_after()
    assert len(cameras.opened) == 2


def test_a_run_has_not_ended_while_a_camera_waits_and_ends_if_all_are_held(cameras, of_run):
    publisher = Publisher()
    found = of_run(publisher, cameras.camera("gate"), cameras.camera("yard"))
    found.look_after()
    assert not found.have_ended
    publisher.held["gate"] = "camera gate: held"
    found.look_after()  # the other may still be free
    publisher.held["yard"] = "camera yard: held"
    with pytest.raises(SinkError, match="no camera left to watch: camera gate: held"):
        found.look_after()


def test_a_run_does_not_end_when_a_camera_that_was_held_is_removed_with_the_others(cameras, of_run):
    publisher = Publisher("gate")
    found = of_run(publisher, cameras.camera("gate"), cameras.camera("yard"))
    publisher.held["yard"] = "camera yard: held"
    found.look_after()
    found.watch([])
    found.look_after()  # the publisher has not forgotten the yard yet
    assert publisher.removed == ["yard"]


def test_a_camera_that_is_refused_before_it_was_watched_is_set_aside(cameras, of_run):
    publisher = Publisher("gate")
    found = of_run(publisher, cameras.camera("gate"), cameras.camera("yard"))
    publisher.refused["yard"] = "camera yard: damaged"
    found.look_after()
    publisher.free.add("yard")
    found.look_after()
    assert [source.camera_id for source in cameras.opened] == ["gate"]
    only = of_run(publisher, cameras.camera("yard"))
    publisher.free.clear()
    with pytest.raises(SinkError, match="camera yard: damaged"):
        only.look_after()


def test_a_waiting_camera_that_is_not_wanted_any_more_is_not_waited_for(cameras, of_run):
    publisher = Publisher("gate")
    gate = cameras.camera("gate")
    found = of_run(publisher, gate, cameras.camera("yard"))
    found.look_after()
    found.watch([gate])
    found.look_after()
    assert publisher.removed == ["yard"]
    publisher.free.add("yard")
    found.look_after()
    assert cameras.of("yard") == []


def test_a_waiting_camera_is_connected_with_the_settings_of_the_last_reload(cameras, of_run):
    publisher = Publisher()
    found = of_run(publisher, cameras.camera("gate", source_settings="old"))
    found.look_after()
    found.watch([cameras.camera("gate", source_settings="new")])
    found.look_after()
    publisher.free.add("gate")
    found.look_after()
    (reader,) = found._readers.values()
    assert reader.camera.source_settings == "new"
    assert publisher.added == ["gate"]
    assert publisher.removed == []


def test_a_camera_that_is_refused_while_another_is_set_aside_is_set_aside_next():
    class RefusedMeanwhile(EndlessSource):
        def stop(self):
            super().stop()
            publisher.refused["yard"] = "camera yard: taken"

    publisher, batcher = Publisher("gate", "yard", "lot"), LatestFrameBatcher(4, 0.01)
    of_run = readers.Readers(batcher, publisher, CameraRecords(), lossless=False)
    of_run.watch(
        [Camera(name, partial(RefusedMeanwhile, name)) for name in ("gate", "yard", "lot")]
    )
    of_run.look_after()
    publisher.refused["gate"] = "camera gate: taken"
    of_run.look_after()
    of_run.look_after()
    assert set(of_run._readers) == {"lot"}
    of_run.stop(1)


# Readers without a pipeline


class FreePublisher(Publisher):
    """Lets every camera be watched."""

    def add_cameras(self, camera_ids):
        self.added.append(list(camera_ids))

    def may_watch(self, camera_id):
        return True


class SilentSource:
    """Gives no sign of life until it revives, and ends."""

    def __init__(self):
        self.due_at = 100.0
        self.thread = None
        self.revives = threading.Event()
        self.then = ()
        """What it gives when it revives; an error is raised."""

    def current_epoch(self):
        return 7

    def stop(self):
        pass

    def __iter__(self):
        self.thread = threading.current_thread()
        self.revives.wait(60)
        for item in self.then:
            if isinstance(item, Exception):
                raise item
            yield item


@pytest.fixture
def silent(monkeypatch):
    """Readers of one silent camera, looked after at the times that the test gives."""
    monkeypatch.setattr(readers, "CONFIRM_SECONDS", 1.0)
    of_test = Silent(monkeypatch)
    yield of_test
    for source in of_test.sources:
        source.revives.set()


class Silent:
    def __init__(self, monkeypatch):
        self.sources = []
        self.batcher = LatestFrameBatcher(4, 60)
        self.readers = readers.Readers(
            self.batcher, FreePublisher(), CameraRecords(), lossless=False
        )
        self.readers.watch([Camera("gate", self._open)])
        self._now = 0.0
        monkeypatch.setattr(readers.time, "monotonic", lambda: self._now)
        self.readers.look_after()

    def look(self, *times):
        """The state and reason of each item of the camera that looks at these times gave."""
        for self._now in times:
            self.readers.look_after()
        batch = self.batcher.next(0)
        return [(item.state, item.reason) for item in batch.items] if batch else []

    def _open(self):
        self.sources.append(SilentSource())
        return self.sources[-1]


def test_a_reader_hangs_once_it_is_overdue_for_so_long_over_several_looks(silent):
    assert silent.look(100, 100.5, 101, 101.25) == []
    assert silent.look(101.5) == [("down", "stall")]
    assert len(silent.sources) == 2


def test_a_process_that_was_stopped_does_not_take_its_readers_for_hanging(silent):
    assert silent.look(4000, 8000) == []
    assert silent.look(8000.25) == [("down", "stall")]


def test_a_sign_of_life_begins_the_time_anew(silent):
    assert silent.look(101, 101.75) == []
    silent.sources[0].due_at = 102.0
    assert silent.look(101.9) == []
    assert silent.look(103, 103.5, 103.75) == []
    assert silent.look(104) == [("down", "stall")]


def test_only_readers_that_hang_at_the_same_time_count_against_a_camera(silent):
    for _ in range(5):
        hung = silent.sources[-1]
        assert silent.look(1000, 1001, 1002) == [("down", "stall")]
        hung.revives.set()
        wait_until(lambda hung=hung: hung.thread and not hung.thread.is_alive())
    assert silent.look(1000, 1001, 1002) == [("down", "stall")]
    assert silent.look(1000, 1001, 1002) == [("down", "stall")]
    with pytest.raises(SinkError, match="3 of its readers hang"):
        silent.look(1000, 1001, 1002)


def revive(source, *then):
    source.then = then
    source.revives.set()
    wait_until(lambda: source.thread and not source.thread.is_alive())


def test_a_reader_whose_source_has_ended_does_not_hang(silent):
    revive(silent.sources[0])
    assert silent.look(1000, 1001, 1002, 1003) == []


def test_a_reader_that_was_abandoned_adds_neither_frames_nor_its_error(silent, caplog):
    for source, then in enumerate([frame("gate"), RuntimeError("a bug")]):
        assert silent.look(1000, 1001, 1002) == [("down", "stall")]
        revive(silent.sources[source], then)
        assert silent.batcher.next(0) is None
    assert "internal error" not in caplog.text


def test_a_reader_that_fails_ends_its_camera(silent, caplog):
    revive(silent.sources[0], RuntimeError("a bug"))
    (item,) = silent.batcher.next(0).items
    assert (item.camera_id, item.epoch, item.state) == ("gate", None, "ended")
    assert item.reason == "internal_error"
    assert "camera gate: internal error" in caplog.text


def test_a_reader_that_hangs_does_not_keep_the_process_from_ending(silent):
    wait_until(lambda: silent.sources[0].thread)
    assert silent.sources[0].thread.daemon


@pytest.mark.parametrize("then", [frame("gate"), RuntimeError("a bug")])
def test_what_a_source_gives_while_it_is_being_abandoned_waits_for_the_end_of_that(silent, then):
    wait_until(lambda: silent.sources[0].thread)
    reader = silent.readers._readers["gate"]
    with reader._lock:
        silent.sources[0].then = [then]
        silent.sources[0].revives.set()
        silent.sources[0].thread.join(0.1)
        assert silent.batcher.next(0) is None
        reader._abandoned = True
    silent.sources[0].thread.join(20)
    assert silent.batcher.next(0) is None


def test_a_reader_is_abandoned_once_what_its_source_gave_is_handed_over(silent):
    reader = silent.readers._readers["gate"]
    thread = threading.Thread(target=reader.abandon, daemon=True)
    with reader._lock:
        thread.start()
        thread.join(0.1)
        assert not reader._abandoned
    thread.join(20)
    assert reader._abandoned


class Watched:
    """Readers of silent cameras, and all that they are given and give."""

    def __init__(self, *cameras):
        self.sources = []
        self.batcher = LatestFrameBatcher(4, 60)
        self.publisher, self.records = FreePublisher(), CameraRecords()
        self.readers = readers.Readers(self.batcher, self.publisher, self.records, lossless=False)
        self.watch(*cameras)

    def camera(self, camera_id, **settings):
        def opened():
            self.sources.append((camera_id, SilentSource()))
            return self.sources[-1][1]

        return Camera(camera_id, opened, **settings)

    def watch(self, *cameras):
        self.readers.watch(
            [camera if isinstance(camera, Camera) else self.camera(camera) for camera in cameras]
        )
        self.readers.look_after()

    @property
    def opened(self):
        return [camera_id for camera_id, _ in self.sources]

    def given(self):
        batch = self.batcher.next(0)
        items = batch.items if batch else ()
        return [(item.camera_id, item.state, item.reason) for item in items]


@pytest.fixture
def watched():
    started = []

    def watched(*cameras):
        started.append(Watched(*cameras))
        return started[-1]

    yield watched
    for run in started:
        for _, source in run.sources:
            source.revives.set()


def test_a_stop_stops_every_source_and_waits_for_their_threads(watched):
    run = watched("gate", "yard")
    wait_until(lambda: all(source.thread for _, source in run.sources))
    for _, source in run.sources:  # each ends a while after it was asked to
        source.stop = threading.Timer(0.2, source.revives.set).start
    run.readers.stop(30)
    assert not any(source.thread.is_alive() for _, source in run.sources)
    assert run.batcher.put(frame("gate")) is False


def test_a_stop_does_not_wait_for_ever_for_threads_that_hang(watched):
    run = watched("gate", "yard")
    wait_until(lambda: all(source.thread for _, source in run.sources))
    run.readers.stop(0.05)
    assert all(source.thread.is_alive() for _, source in run.sources)


def test_a_refused_camera_is_set_aside_until_its_settings_change(watched):
    run = watched("gate", "yard")
    run.publisher.refused["yard"] = "camera yard: taken"
    run.readers.look_after()
    assert run.given() == [("yard", "ended", "refused")]
    run.publisher.refused.clear()
    run.watch("gate", "yard")
    assert run.opened == ["gate", "yard"]
    run.watch("gate", run.camera("yard", source_settings="another URL"))
    assert run.opened == ["gate", "yard", "yard"]
    assert run.publisher.added == [["gate", "yard"], [], ["yard"]]
    assert run.given() == []


def test_a_refused_camera_that_was_removed_is_opened_when_it_is_added_again(watched):
    run = watched("gate", "yard")
    run.publisher.refused["yard"] = "camera yard: taken"
    run.readers.look_after()
    run.publisher.refused.clear()
    run.watch("gate")
    run.watch("gate", "yard")
    assert run.opened == ["gate", "yard", "yard"]


def test_there_is_nothing_to_watch_once_every_camera_is_refused(watched):
    run = watched("gate")
    run.publisher.refused["gate"] = "camera gate: taken"
    with pytest.raises(SinkError, match="no camera left to watch: camera gate: taken"):
        run.readers.look_after()


def test_records_are_forgotten_once_their_camera_ended_and_is_not_wanted(watched):
    run = watched("gate", "ended", "under way", "down")
    for name in ("gate", "ended", "under way"):
        run.records.of(name).state = "ended"
    for name in ("ended", "under way", "down"):
        run.records.of(name).wanted = False
        run.readers._readers.pop(name)
    run.records.of("under way").last_item = StreamDown("under way", 7, "ended", "removed")
    run.watch("gate")
    assert {record.camera_id for record in run.records} == {"gate", "under way", "down"}
    assert [record.wanted for record in run.records] == [True, False, False]


def test_a_camera_with_the_same_source_settings_is_read_on_with_its_other_filter(watched):
    run = watched("gate")
    people = DetectionFilter(labels=frozenset({"Person"}))
    run.watch(run.camera("gate", filter=people))
    assert run.opened == ["gate"]
    assert run.records.of("gate").filter == people
    run.watch(run.camera("gate", source_settings="another URL"))
    assert run.opened == ["gate", "gate"]
    assert run.given() == [("gate", "down", "reconfigured")]
    assert run.records.of("gate").filter == DetectionFilter()


def test_a_removed_camera_ends_and_its_source_is_stopped(watched):
    run = watched("gate", "yard")
    run.sources[1][1].stop = run.sources[1][1].revives.set
    run.watch("gate")
    assert run.given() == [("yard", "ended", "removed")]
    assert run.sources[1][1].revives.is_set()
    assert run.records.of("yard").wanted is False


def test_a_camera_whose_filter_changed_before_it_was_refused_stays_set_aside(watched):
    run = watched("gate", "yard")
    people = DetectionFilter(labels=frozenset({"Person"}))
    run.watch("gate", run.camera("yard", filter=people))
    run.publisher.refused["yard"] = "camera yard: taken"
    run.readers.look_after()
    run.publisher.refused.clear()
    run.watch("gate", run.camera("yard", filter=people))
    assert run.opened == ["gate", "yard"]
