"""Pascal VOC's format: a folder with an XML file for each image.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/. A folder ``Annotations`` with the images in
``JPEGImages`` beside it, or images and XML files together, as labelling tools write them. A list of
``ImageSets`` in place of the folder chooses some. Looks at no image.
"""

import math
from pathlib import Path
from xml.etree import ElementTree

from ssd_core.training.data_sets.annotated import AnnotatedImage, AnnotatedObject, Annotations
from ssd_core.training.data_sets.faults import Faults

FIRST_PIXEL = 1
"""The number of the leftmost column and the top row: VOC counts from 1 and includes the last."""


def is_voc(path: Path) -> bool:
    """Whether a folder has annotations of this format, or a file is one or a list of them."""
    if path.is_dir():
        return bool(_folder_of_annotations(path))
    return path.suffix.lower() == ".xml" or (path.suffix == ".txt" and _root_of_list(path))


def read_voc(path: Path, faults: Faults) -> Annotations:
    """The annotations at ``path``: a folder, a list in ``ImageSets/Main``, or one XML file."""
    root = path
    if path.is_dir():
        files = sorted((_folder_of_annotations(path) or path).glob("*.xml"))
    elif path.suffix.lower() == ".xml":
        files, root = [path], path.parent
    else:
        root = path.parent.parent.parent
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        files = [root / "Annotations" / f"{line.split()[0]}.xml" for line in lines if line.strip()]
    if root.name == "Annotations":
        root = root.parent
    images = [image for file in files if (image := _read_xml(file, faults)) is not None]
    labels = sorted({each.label for image in images for each in image.objects})
    folders = [root / "JPEGImages", root / "images", root, root / "Annotations"]
    return Annotations(path, labels, images, folders)


def _folder_of_annotations(folder: Path) -> Path | None:
    for each in (folder / "Annotations", folder):
        if next(each.glob("*.xml"), None):
            return each
    return None


def _root_of_list(path: Path) -> bool:
    return path.parent.parent.name == "ImageSets"


def _read_xml(path: Path, faults: Faults) -> AnnotatedImage | None:
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        faults.add(str(path), "annotations that cannot be read", str(error.strerror))
        return None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        faults.add(str(path), "is not XML", str(error))
        return None
    if root.tag != "annotation":
        faults.add(str(path), "is not VOC", f"its element is {root.tag!r}, not 'annotation'")
        return None
    height, width = (_number(root.findtext(f"size/{side}")) for side in ("height", "width"))
    stated = (int(height), int(width)) if height and width and height > 0 < width else None
    name = (root.findtext("filename") or "").strip() or path.stem
    image = AnnotatedImage(str(path), name, stated, stem=path.stem)
    for number, item in enumerate(root.findall("object"), start=1):
        found = _object(item, f"{path}, object {number}", faults)
        if found is not None:
            image.objects.append(found)
    return image


def _object(item: ElementTree.Element, place: str, faults: Faults) -> AnnotatedObject | None:
    label = (item.findtext("name") or "").strip()
    if not label:
        faults.add(place, "object without name")
        return None
    sides = [_number(item.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    numbers = [each for each in sides if each is not None]
    if len(numbers) < 4:
        faults.add(place, "no box")
        return None
    shown = " ".join(f"{each:g}" for each in numbers)
    if not all(map(math.isfinite, numbers)):
        faults.add(place, "box that is not finite", shown)
        return None
    x1, y1, x2, y2 = numbers
    if x2 <= x1 or y2 <= y1:
        faults.add(place, "box without size", shown)
        return None
    is_ignored = (item.findtext("difficult") or "").strip() == "1"
    box = (x1 - FIRST_PIXEL, y1 - FIRST_PIXEL, x2, y2)
    return AnnotatedObject(place, label, box, is_ignored, None)


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
