"""Small labelled data sets, made on the spot: coloured rectangles on grey, with their boxes."""

import json

import numpy as np
import pytest
from PIL import Image

from ssd_core.errors import DataError
from ssd_core.training.data_sets.reading import read_data_set

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def painted(height, width, objects=(), grey=96):
    """An image with rectangles: (label, x1, y1, x2, y2) in whole pixels."""
    image = np.full((height, width, 3), grey, np.uint8)
    for label, x1, y1, x2, y2 in objects:
        image[y1:y2, x1:x2] = COLOURS[label]
    return image


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def coco(folder, images, *, name="data.json", categories=tuple(COLOURS), first_id=1):
    """Write a COCO file and its images: ``images`` is {file name: (height, width, objects)}."""
    content = {
        "images": [], "annotations": [],
        "categories": [{"id": n, "name": each} for n, each in enumerate(categories, first_id)],
    }  # fmt: skip
    for number, (file_name, (height, width, objects)) in enumerate(images.items()):
        save(painted(height, width, objects), folder / file_name)
        content["images"].append(
            {"id": number, "file_name": file_name, "height": height, "width": width}
        )
        for label, x1, y1, x2, y2 in objects:
            content["annotations"].append({
                "id": len(content["annotations"]), "image_id": number,
                "category_id": first_id + list(categories).index(label),
                "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0,
            })  # fmt: skip
    return write(folder / name, content), content


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


VOC_OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def voc_xml(path, file_name, height, width, objects):
    """``objects``: (label, difficult, xmin, ymin, xmax, ymax), as VOC counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(VOC_OBJECT.format(*each) for each in objects)
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    path.write_text(
        f"<annotation><filename>{file_name}</filename>{size}{items}</annotation>", encoding="utf-8"
    )
    return path


def faults_of(*paths, **options):
    """The lines of the error that reading a data set raises."""
    with pytest.raises(DataError) as caught:
        read_data_set(paths, **options)
    return str(caught.value).split("\n")
