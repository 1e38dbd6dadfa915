"""Read a data set: annotation files of any format, and the images that they speak of.

Everything is checked at the start: each image is found and its header read, each box compared with
its size. Pixels are read later, one image at a time. Knows formats by their readers only, and video
by an object that it is given.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath

import numpy as np
import numpy.typing as npt

from ssd_core.errors import DataError
from ssd_core.training.data import DataSet, LabelledImage
from ssd_core.training.data_sets.annotated import AnnotatedImage, AnnotatedObject, Annotations
from ssd_core.training.data_sets.coco import read_coco
from ssd_core.training.data_sets.faults import Faults
from ssd_core.training.data_sets.frames import Frames, Recordings
from ssd_core.training.data_sets.image_files import ImageFile, find_image, open_image_file
from ssd_core.training.data_sets.voc import is_voc, read_voc

log = logging.getLogger(__name__)

BACKGROUND = "__background__"
"""The name of class 0, as torchvision has it."""
FRAME_NAME = re.compile(r"(.+)-(\d{6,})\.jpg")
"""A frame of a recording, as ``ssd-worker replay`` names it: camera id and index."""
FRAME_OF_ONLY_VIDEO = re.compile(r"frame_(\d{6,})(?:\.\w+)?")
"""The same, as CVAT names it for a task with a video: the index alone."""
ROUNDING_PX = 1.0
"""How far tools put boxes outside by rounding, or by counting pixels from 0 in place of 1."""
EXPECTED = "give a COCO file (.json), a folder with one, or a Pascal VOC folder (Annotations/*.xml)"


def read_data_set(
    paths: Sequence[Path],
    *,
    images: Path | None = None,
    labels: tuple[str, ...] | None = None,
    skip_invalid: bool = False,
    recordings: Recordings | None = None,
) -> DataSet:
    """The labelled images of COCO files and Pascal VOC folders, as one data set.

    ``images``: the folder of all images; None: beside the annotations. ``labels``: of a model,
    with the background's at 0; any other is then a fault. None: those of the files, merged by name
    in their order. ``recordings``: finds the frames of a replay's COCO output.

    A box is clipped to its image if it is outside by up to a pixel. With ``skip_invalid``, images
    and boxes with faults are left out and counted in the log; a box that is partly outside is
    clipped. Images without objects stay. Boxes refer to upright pictures, unless the annotated size
    says that a picture was labelled as it is stored: they are then turned with it.

    Raises DataError with all faults, and for a data set without objects.
    """
    faults = Faults(skip_invalid)
    annotations = [each for path in paths for each in _read(path, faults)]
    names = _labels(annotations, labels)
    sources = _Sources(images, recordings, faults)
    found: list[LabelledImage] = []
    used: set[str] = set()
    for part in annotations:
        for annotated, source in sources.of(part):
            name = annotated.file_name
            if name in used:
                name = f"{part.path}/{name}"
            used.add(name)
            found.append(_labelled(name, annotated, source, names, faults))
    faults.finish()
    if all(image.is_ignored.all() for image in found):
        raise DataError(f"{_shown(paths)}: no object is labelled: there is nothing to learn")
    _warn_of_missing_classes(names, found)
    return DataSet(names, tuple(found), _digest(names, found))


@dataclass(frozen=True)
class _Source:
    """Where the pixels of an image come from."""

    read: Callable[[], npt.NDArray[np.uint8]]
    size: tuple[int, int]
    file: ImageFile | None = None
    recording: str = ""
    together: str = ""


class _Sources:
    """Finds the images of annotations: files, or frames of recordings."""

    def __init__(self, images: Path | None, recordings: Recordings | None, faults: Faults) -> None:
        self._images = images
        self._recordings = recordings
        self._faults = faults
        self._seen: dict[tuple[Path, int], str] = {}

    def of(self, part: Annotations) -> Iterator[tuple[AnnotatedImage, _Source]]:
        """Images that can be read, in their order; of the others a fault each."""
        folders = part.folders if self._images is None else [self._images]
        paths = [find_image(image.file_name, image.stem, folders) for image in part.images]
        wanted = [
            None if path else _frame(image) for image, path in zip(part.images, paths, strict=True)
        ]
        frames = self._frames([each for each in wanted if each], folders)
        for image, path, frame in zip(part.images, paths, wanted, strict=True):
            source = None
            if path is not None:
                source = self._file(image, path)
            elif frame is None or self._recordings is None:
                self._faults.add(image.place, "no such image", self._where(part))
            elif (found := frames.get(frame[0])) is not None:
                source = self._frame(image, *found, frame[1])
            elif frame[0] not in frames:
                video = f"a video {frame[0]}" if frame[0] else "one video"
                where = f"{self._where(part)}, also for {video}"
                self._faults.add(image.place, "no such image", where)
            if source is not None and self._fits(image, source):
                yield image, source

    def _where(self, part: Annotations) -> str:
        if self._images is None:
            return f"looked around {part.folders[0]}: --images DIR says where"
        return f"looked in {self._images}"

    def _frames(
        self, wanted: list[tuple[str, int]], folders: Sequence[Path]
    ) -> dict[str, tuple[Path, Frames] | None]:
        """Recordings by camera id, as far as they are needed; None: its fault has been told."""
        last: dict[str, int] = {}
        for camera_id, index in wanted:
            last[camera_id] = max(index, last.get(camera_id, 0))
        found: dict[str, tuple[Path, Frames] | None] = {}
        for camera_id, index in last.items():
            if self._recordings is None:
                break
            try:
                path = self._recordings.find(camera_id, folders)
                if path is not None:
                    found[camera_id] = path, self._recordings.frames(path, index)
            except DataError as error:
                self._faults.add_unusable(f"recording {camera_id}".rstrip(), str(error))
                found[camera_id] = None
        return found

    def _file(self, image: AnnotatedImage, path: Path) -> _Source | None:
        if not self._is_new(image, path, -1):
            return None
        try:
            file = open_image_file(path)
        except DataError as error:
            self._faults.add(image.place, "image that cannot be decoded", f"{path}: {error}")
            return None
        return _Source(file, file.size, file)

    def _frame(
        self, image: AnnotatedImage, path: Path, frames: Frames, index: int
    ) -> _Source | None:
        if index >= frames.count:
            detail = f"{path} has {frames.count} frames"
            self._faults.add(image.place, "no such frame", detail)
            return None
        if not self._is_new(image, path, index):
            return None
        read = partial(frames.read, index)
        together = frames.together(index)
        return _Source(read, frames.size(index), recording=str(path), together=together)

    def _is_new(self, image: AnnotatedImage, path: Path, index: int) -> bool:
        key = path.resolve(), index
        if key in self._seen:
            self._faults.add(image.place, "image twice", f"{path}, as {self._seen[key]}")
            return False
        self._seen[key] = image.place
        return True

    def _fits(self, image: AnnotatedImage, source: _Source) -> bool:
        as_stored = source.file is not None and image.size == (
            source.file.height,
            source.file.width,
        )
        if image.size is None or image.size == source.size or as_stored:
            return True
        (height, width), (stated_height, stated_width) = source.size, image.size
        detail = f"{width}x{height}, annotated as {stated_width}x{stated_height}"
        self._faults.add(image.place, "image of another size", detail)
        return False


def _read(path: Path, faults: Faults) -> list[Annotations]:
    if not path.exists():
        faults.add_unusable(str(path), "no such file or folder")
    elif is_voc(path):
        return [read_voc(path, faults)]
    elif path.is_dir():
        files = sorted(path.glob("*.json")) or sorted(path.glob("annotations/*.json"))
        if len(files) == 1:
            return [each for each in [read_coco(files[0], faults)] if each]
        faults.add_unusable(str(path), f"{len(files)} JSON files in it: {EXPECTED}")
    elif path.suffix.lower() == ".json":
        return [each for each in [read_coco(path, faults)] if each]
    else:
        faults.add_unusable(str(path), f"is not a data set: {EXPECTED}")
    return []


def _frame(image: AnnotatedImage) -> tuple[str, int] | None:
    """Camera id ("" for that of the only recording) and index, if the name is that of a frame."""
    name = PureWindowsPath(image.file_name).name
    for each in (f"{image.stem}.jpg", name):
        if match := FRAME_NAME.fullmatch(each):
            return match[1], int(match[2])
    match = FRAME_OF_ONLY_VIDEO.fullmatch(name)
    return ("", int(match[1])) if match else None


def _labels(annotations: Sequence[Annotations], labels: tuple[str, ...] | None) -> tuple[str, ...]:
    if labels is not None:
        return labels
    found = dict.fromkeys(label for part in annotations for label in part.labels)
    found.pop(BACKGROUND, None)
    return (BACKGROUND, *found)


def _labelled(
    name: str,
    annotated: AnnotatedImage,
    source: _Source,
    labels: tuple[str, ...],
    faults: Faults,
) -> LabelledImage:
    boxes, classes, is_ignored, areas = [], [], [], []
    height, width = source.size
    index = {label: number for number, label in enumerate(labels) if number > 0}
    for item in annotated.objects:
        number = index.get(item.label)
        if number is None:
            known = "is the background's name" if item.label in labels else "not one of the labels"
            faults.add(item.place, "unknown category", f"{item.label!r}: {known}")
            continue
        box = _inside(_upright(item, annotated, source), item.place, width, height, faults)
        if box is None:
            continue
        boxes.append(box)
        classes.append(number)
        is_ignored.append(item.is_ignored)
        is_possible = item.area is not None and item.area <= width * height
        areas.append(item.area if is_possible else (box[2] - box[0]) * (box[3] - box[1]))
    return LabelledImage(
        name=name,
        read=source.read,
        width=width,
        height=height,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.array(classes, np.int64),
        is_ignored=np.array(is_ignored, np.bool_),
        areas=np.array(areas, np.float32),
        recording=source.recording,
        together=source.together,
    )


def _upright(item: AnnotatedObject, image: AnnotatedImage, source: _Source) -> tuple[float, ...]:
    """The box in the upright picture."""
    file = source.file
    if file is None or not file.is_turned or image.size in (None, file.size):
        return item.box
    return file.upright_box(item.box)


def _inside(
    box: tuple[float, ...], place: str, width: int, height: int, faults: Faults
) -> tuple[float, ...] | None:
    """The box, clipped to its image; None if nothing of it is inside."""
    x1, y1, x2, y2 = box
    clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    shown = f"{' '.join(f'{each:g}' for each in box)} in {width}x{height}"
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        faults.add(place, "box outside the image", shown)
        return None
    outside = max(abs(a - b) for a, b in zip(box, clipped, strict=True))
    if outside > ROUNDING_PX:
        faults.add(place, "box partly outside the image", f"by {outside:g} pixels: {shown}")
    return clipped


def _warn_of_missing_classes(labels: tuple[str, ...], images: Sequence[LabelledImage]) -> None:
    counts = Counter(
        number for image in images for number in image.classes[~image.is_ignored].tolist()
    )
    missing = [label for number, label in enumerate(labels) if number and not counts[number]]
    if missing:
        log.warning("classes without an example: %s", ", ".join(missing))


def _digest(labels: tuple[str, ...], images: Sequence[LabelledImage]) -> str:
    digest = hashlib.sha256("\0".join(labels).encode("utf-8", "surrogatepass"))
    for image in images:
        digest.update(
            f"\n{image.name}\0{image.width}x{image.height}\0{len(image.boxes)}\0".encode(
                "utf-8", "surrogatepass"
            )
        )
        for array in (image.boxes, image.classes, image.is_ignored, image.areas):
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _shown(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
