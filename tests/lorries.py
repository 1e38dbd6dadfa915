"""Labelled images, made on the spot: bright rectangles of two classes on noise."""

import json

import numpy as np
from PIL import Image

COLOURS = {"Lorry": (230, 40, 40), "Van": (40, 90, 230)}


def write_data_set(folder, images=8, *, size=(96, 64), seed=0, name="labels.json", empty=0):
    """PNG files of ``size`` (width, height) and their COCO JSON, whose path is returned.

    Each image has one to three objects; ``empty`` more have none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    width, height = size
    coco = {
        "images": [],
        "annotations": [],
        "categories": [{"id": index, "name": label} for index, label in enumerate(COLOURS, 1)],
    }
    for number in range(1, images + empty + 1):
        pixels = random.integers(90, 140, (height, width, 3), dtype=np.uint8)
        file_name = f"{seed}-{number}.png"
        for _ in range(random.integers(1, 4) if number <= images else 0):
            category = int(random.integers(1, 3))
            w, h = (
                int(random.integers(width // 5, width // 2)),
                int(random.integers(height // 5, height // 2)),
            )
            x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
            pixels[y : y + h, x : x + w] = list(COLOURS.values())[category - 1]
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(folder / file_name)
        coco["images"].append(
            {"id": number, "file_name": file_name, "width": width, "height": height}
        )
    path = folder / name
    path.write_text(json.dumps(coco))
    return path
