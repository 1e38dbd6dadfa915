"""COCO's data format: a JSON file of images, annotations and categories.

https://cocodataset.org/#format-data. Reads what labelling tools and ``ssd-worker replay`` write;
looks at no image.
"""

import json
import math
import re
import sys
from collections.abc import Hashable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from ssd_core.training.data_sets.annotated import AnnotatedImage, AnnotatedObject, Annotations
from ssd_core.training.data_sets.faults import Faults

PARTS = ("images", "annotations", "categories")
LABEL_STUDIO_NAME = re.compile(r"(?:.*/)?(?:upload/\d+/[0-9a-f]{8}-|[0-9a-f]{8}__)([^/]+)")
"""Images as Label Studio names them, uploaded to a project or downloaded for an export."""


def read_coco(path: Path, faults: Faults) -> Annotations | None:
    """The content of a COCO file; None for a file that is none, which is a fault."""
    content = _read_json(path, faults)
    if content is None:
        return None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), list) for part in PARTS
    ):
        is_results = isinstance(content, list)
        what = "has detections, not labelled images" if is_results else "is not COCO"
        faults.add_unusable(str(path), f"{what}: it has no lists {', '.join(PARTS)}")
        return None
    categories = _categories(content["categories"], path, faults)
    images = _images(content["images"], path, faults)
    _add_objects(content["annotations"], images, categories, path, faults)
    labels = list(dict.fromkeys(categories[each] for each in _in_order(categories)))
    return Annotations(path, labels, list(images.values()), _folders(path))


def _folders(path: Path) -> list[Path]:
    """Where tools put the images of a file, such as ``annotations/instances_SUBSET.json``.

    COCO itself has them in ``SUBSET/``, CVAT in ``images/SUBSET/``.
    """
    folder, subset = path.parent, path.stem.partition("_")[2]
    folders = [folder, folder / "images", folder.parent, folder.parent / "images"]
    return [*folders, *(each / subset for each in folders[2:] if subset)]


def _read_json(path: Path, faults: Faults) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        faults.add_unusable(str(path), f"cannot read it: {error.strerror}")
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        faults.add_unusable(str(path), f"is not JSON: {error}")
    return None


def _in_order(categories: dict[Hashable, str]) -> list[Hashable]:
    """Ids in order; text after numbers."""
    return sorted(categories, key=lambda each: (isinstance(each, str), each))


def _entries(items: list[Any], path: Path, what: str) -> Iterator[tuple[dict[str, Any], Any, str]]:
    """The entries of a list, each with its id and, for people, its place."""
    for number, item in enumerate(items, start=1):
        entry = item if isinstance(item, dict) else {}
        identity = entry.get("id")
        yield entry, identity, f"{path}, {what} {_shown(identity, number)}"


def _categories(items: list[Any], path: Path, faults: Faults) -> dict[Hashable, str]:
    """Names by id. Two ids may share a name: they are one class."""
    found: dict[Hashable, str] = {}
    for item, identity, place in _entries(items, path, "category"):
        name = item.get("name")
        if not _is_id(identity) or not isinstance(name, str) or not name.strip():
            faults.add(place, "category without id or name")
        elif identity in found:
            faults.add(place, "category id twice", f"{found[identity]}, {name}")
        else:
            found[identity] = name.strip()
    return found


def _images(items: list[Any], path: Path, faults: Faults) -> dict[Hashable, AnnotatedImage]:
    found: dict[Hashable, AnnotatedImage] = {}
    for item, identity, place in _entries(items, path, "image"):
        name = item.get("file_name")
        if not _is_id(identity) or not isinstance(name, str) or not name:
            faults.add(place, "image without id or file_name")
        elif identity in found:
            faults.add(f"{place} ({name})", "image id twice")
        else:
            size = _size(item.get("height")), _size(item.get("width"))
            stated = None if None in size else size
            found[identity] = AnnotatedImage(
                f"{place} ({name})",
                name,
                stated,  # type: ignore[arg-type]
                _stem_before_upload(name),
            )
    return found


def _stem_before_upload(file_name: str) -> str:
    """The stem that an image had before Label Studio put its prefix to it; "" without one."""
    path = PureWindowsPath(file_name)
    match = LABEL_STUDIO_NAME.fullmatch(path.as_posix())
    return PureWindowsPath(match[1]).stem if match else ""


def _add_objects(
    items: list[Any],
    images: dict[Hashable, AnnotatedImage],
    categories: dict[Hashable, str],
    path: Path,
    faults: Faults,
) -> None:
    seen: set[Hashable] = set()
    for item, identity, place in _entries(items, path, "annotation"):
        of = item.get("image_id")
        if _is_id(identity) and identity in seen:
            faults.add(place, "annotation id twice")
            continue
        seen.add(identity if _is_id(identity) else None)
        image = images.get(of) if _is_id(of) else None
        if image is None:
            faults.add(place, "annotation of no image", f"image_id {of!r}")
            continue
        place = f"{place} of {image.file_name}"
        category = item.get("category_id")
        label = categories.get(category) if _is_id(category) else None
        if label is None:
            faults.add(place, "unknown category", f"category_id {category!r}")
            continue
        box = _box(item, place, faults)
        if box is not None:
            is_ignored = bool(item.get("iscrowd")) or bool(item.get("ignore"))
            image.objects.append(
                AnnotatedObject(place, label, box, is_ignored, _area(item.get("area")))
            )


def _box(
    item: dict[str, Any], place: str, faults: Faults
) -> tuple[float, float, float, float] | None:
    """The box as xyxy; of an outline without a box, the box around it."""
    bbox = item.get("bbox") or _around(item.get("segmentation"))
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        faults.add(place, "no box", f"bbox {item.get('bbox')!r}")
        return None
    x, y, width, height = map(float, bbox)
    if not all(map(math.isfinite, (x, y, width, height))):
        faults.add(place, "box that is not finite", f"bbox {bbox}")
        return None
    if width <= 0 or height <= 0:
        faults.add(place, "box without size", f"bbox {bbox}")
        return None
    return x, y, x + width, y + height


def _around(segmentation: Any) -> list[float] | None:
    """The box (x, y, width, height) around polygons; None for anything else."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    xs: list[float] = []
    ys: list[float] = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(map(_is_number, polygon)) or len(polygon) % 2:
            return None
        xs += polygon[::2]
        ys += polygon[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] if xs else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and not abs(value) > sys.float_info.max  # of integers, which have no limit


def _shown(identity: Any, number: int) -> str:
    """An id, or the place in its list, counted from 1."""
    return str(identity) if _is_id(identity) else f"number {number}"


def _size(value: Any) -> int | None:
    """A stated size; tools write 0 for one that they do not know."""
    return int(value) if _is_number(value) and math.isfinite(value) and value > 0 else None


def _area(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) and value > 0 else None
