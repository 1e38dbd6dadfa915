"""A detector over a whole data set: every detection that AP looks at.

Images are read ahead in threads, whole batches go to the detector, the next while the last is
computed. Holds the images of a few batches at a time. The low threshold costs next to nothing:
decode_nms takes 0.10 ms of a core's time for an image in place of 0.02 at 0.4, and the network 15
(bundled model in bf16, a street, 100 detections an image, AMD EPYC, torch 2.15.0).
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt

from ssd_core.cores import usable_cores
from ssd_core.detector import Detector
from ssd_core.errors import EvaluationError
from ssd_core.found import Detections
from ssd_core.training.data import DataSet, LabelledImage

DETECTION_THRESHOLD = 0.01
"""The paper's for AP (section 3.1): a detector in use runs at 0.4 or so."""
BATCHES_AHEAD = 2


def detect_all(
    detector: Detector,
    data_set: DataSet,
    *,
    batch: int | None = None,
    score_threshold: float = DETECTION_THRESHOLD,
    on_progress: Callable[[int], None] = lambda images: None,
) -> list[Detections]:
    """The detections of each image, in the order of the data set, above a low threshold.

    ``batch``: images at once; default: the detector's own. Results do not depend on the number of
    cores. ``on_progress`` gets the number of images done. The detector has its own threshold again
    afterwards, but goes on computing alike on any number of cores. Raises what reading an image
    raises (DataError), and EvaluationError for an image of another size than its labels are for.
    """
    batch = batch or detector.default_batch
    detector.compute_alike(batch)
    own_threshold = detector.score_threshold
    detector.score_threshold = score_threshold
    detections: list[Detections] = []
    waiting: deque[Callable[[], list[Detections]]] = deque()

    def finish_one() -> None:
        detections.extend(waiting.popleft()())
        on_progress(len(detections))

    try:
        images = _read_ahead(data_set, BATCHES_AHEAD * batch)
        while together := list(islice(images, batch)):
            waiting.append(detector.submit(together))
            if len(waiting) > 1:
                finish_one()
        while waiting:
            finish_one()
    finally:
        detector.score_threshold = own_threshold
    return detections


def _read_ahead(data_set: DataSet, ahead: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The images in their order, ``ahead`` of them read already.

    Frames of a video one by one: its decoder is not for several threads, and goes forward.
    """
    with (
        ThreadPoolExecutor(usable_cores(), "read") as files,
        ThreadPoolExecutor(1, "read-frames") as frames,
    ):
        reading: deque[Future[npt.NDArray[np.uint8]]] = deque()
        try:
            for image in data_set.images:
                reading.append((frames if image.together else files).submit(_read, image))
                if len(reading) > ahead:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()
        finally:
            for future in reading:
                future.cancel()


def _read(image: LabelledImage) -> npt.NDArray[np.uint8]:
    pixels = image.read()
    height, width = pixels.shape[:2]
    if (width, height) != (image.width, image.height):
        raise EvaluationError(
            f"{image.name} is {width}x{height}, its labels are for {image.width}x{image.height}: "
            "give the images that were labelled"
        )
    return pixels
