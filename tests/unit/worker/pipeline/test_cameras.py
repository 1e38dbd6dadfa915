from worker.frames import StreamLate
from worker.pipeline.cameras import Camera, CameraRecord, CameraRecords
from worker.pipeline.filtering import DetectionFilter


def test_a_new_epoch_counts_from_zero_and_keeps_what_was_not_reported():
    record = CameraRecord(
        "gate", epoch=1, next_seq=9, frames=50, dropped=3, unreported_dropped=2,
        unreported_skipped=4,
    )  # fmt: skip
    record.begin(2)
    assert (record.epoch, record.next_seq, record.frames, record.dropped) == (2, 0, 0, 0)
    assert (record.unreported_dropped, record.unreported_skipped) == (2, 4)


def test_what_was_not_analysed_adds_up():
    record = CameraRecord("gate", dropped=1, unreported_dropped=10, unreported_skipped=100)
    record.count(StreamLate("gate", 1, 1.5, skipped=2, dropped=3))
    record.count(StreamLate("gate", 1, 1.5, skipped=4, dropped=5))
    assert (record.dropped, record.unreported_dropped, record.unreported_skipped) == (9, 18, 106)


def test_a_camera_has_one_record_until_it_is_forgotten():
    records = CameraRecords()
    gate = records.of("gate")
    assert records.of("gate") is gate
    assert [record.camera_id for record in records] == ["gate"]
    records.forget("gate")
    assert "gate" not in records
    assert records.of("gate") is not gate


def test_records_can_be_forgotten_while_they_are_looked_at():
    records = CameraRecords()
    for name in ("gate", "yard"):
        records.of(name)
    for record in records:
        records.forget(record.camera_id)
    assert list(records) == []


def test_cameras_are_equal_if_their_settings_are_however_they_are_opened():
    def camera(**settings):
        return Camera("gate", lambda: None, **settings)

    assert camera(source_settings="a") == camera(source_settings="a")
    assert camera(source_settings="a") != camera(source_settings="b")
    assert camera() != camera(filter=DetectionFilter(score_threshold=0.5))
