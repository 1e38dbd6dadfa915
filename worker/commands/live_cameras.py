"""From the settings of cameras to cameras that the pipeline watches.

Reads arguments and files again with every call: at the start of a run, and for each reload.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from worker.commands.wiring import DetectorSetup
from worker.pipeline.cameras import Camera
from worker.pipeline.filtering import DetectionFilter
from worker.publishing.epochs import Epochs
from worker.publishing.spool import Spool
from worker.secrecy.names import fill_in
from worker.settings.cameras import CameraSettings, cameras_of
from worker.settings.fields import RunSettings
from worker.sinks.redis_stream import RedisStreamSink
from worker.sources.live import LiveSource
from worker.sources.recording import check_playable, probe_recording
from worker.sources.snapshots import SnapshotSettings


def settings_of_cameras(
    settings: RunSettings, known_labels: Collection[str] | None
) -> dict[str, CameraSettings]:
    """The cameras asked for; probes those that are files. Raises UsageError, SourceError."""
    cameras = cameras_of(settings, known_labels)
    for camera_id, camera in cameras.items():
        if "://" not in camera.source:
            check_playable(Path(camera.source))
            probe_recording(Path(camera.source), camera_id, settings.limits)
    return cameras


class LiveCameras:
    """The cameras of one run."""

    def __init__(
        self,
        settings: RunSettings,
        setup: DetectorSetup,
        make_sink: Callable[[], RedisStreamSink],
        make_spool: Callable[[Collection[str]], Spool],
    ) -> None:
        """``make_sink`` and ``make_spool`` serve queries: the publisher's own are its thread's."""
        self._settings = settings
        self._setup = setup
        self._make_sink = make_sink
        self._make_spool = make_spool
        self.epochs = Epochs()
        """Those of all cameras of the run."""
        self._last_read: Mapping[str, CameraSettings] = {}

    def read(self) -> list[Camera]:
        """The cameras that arguments and files name now. Raises UsageError, SourceError."""
        labels = self._setup.detector.labels[1:]
        return self.made_of(settings_of_cameras(self._settings, labels))

    def made_of(self, cameras: Mapping[str, CameraSettings]) -> list[Camera]:
        """Cameras with these settings; lets the detector run at the lowest threshold of them."""
        detector = self._setup.detector
        # Those that are connected anew: another worker may have had them meanwhile.
        before = self._last_read
        self._learn_epochs([name for name in cameras if cameras[name] != before.get(name)])
        made = [self._camera(camera) for camera in cameras.values()]
        thresholds = [camera.score_threshold for camera in cameras.values()]
        detector.score_threshold = detector.lowest_threshold(thresholds)
        self._last_read = cameras
        return made

    def _learn_epochs(self, camera_ids: Collection[str]) -> None:
        if not camera_ids:
            return
        with closing(self._make_sink()) as sink, closing(self._make_spool(camera_ids)) as spool:
            self.epochs.learn(camera_ids, sink, spool)

    def _camera(self, camera: CameraSettings) -> Camera:
        settings, detector = self._settings, self._setup.detector
        source = fill_in(camera.source, settings.secrets)
        threshold = camera.score_threshold
        snapshots = None
        if camera.snapshots != "off":
            snapshots = SnapshotSettings(
                settings.snapshot_seconds, settings.snapshot_width, blur=camera.snapshots == "blur"
            )
        return Camera(
            camera.camera_id,
            partial(
                LiveSource,
                camera.camera_id,
                source,
                detector.image_size,
                self.epochs.of(camera.camera_id),
                fps=camera.fps,
                loop=settings.loop,
                as_planes=detector.takes_planes,
                antialias=detector.antialias,
                gpu=self._setup.gpu,
                limits=settings.limits,
                allow_playlists=settings.allow_playlists,
                transport=camera.transport,
                snapshots=snapshots,
            ),
            source_settings=(source, camera.fps, camera.transport, snapshots),
            filter=DetectionFilter(
                None if camera.labels is None else frozenset(camera.labels),
                detector.default_threshold if threshold is None else threshold,
                camera.ignore,
                camera.anchor,
            ),
        )
