"""Data sets: read as they are meant, and all faults told at once with their places."""

import json
import logging
import pickle

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ssd_core.errors import DataError
from ssd_core.training.data_sets.reading import read_data_set
from tests.labelled import coco, faults_of, painted, save, write

TWO = {
    "a.png": (40, 60, [("red", 5, 6, 25, 16), ("blue", 30, 20, 50, 38)]),
    "b.png": (50, 30, []),
}


def test_coco_is_read_with_its_boxes_classes_and_background_images(tmp_path):
    path, _ = coco(tmp_path, TWO)
    data_set = read_data_set([path])
    assert data_set.labels == ("__background__", "red", "green", "blue")
    first, second = data_set.images
    assert (first.name, first.height, first.width) == ("a.png", 40, 60)
    assert first.boxes.tolist() == [[5, 6, 25, 16], [30, 20, 50, 38]]
    assert first.classes.tolist() == [1, 3]
    assert first.areas.tolist() == [200, 360]
    assert first.read()[6, 5].tolist() == [255, 0, 0]
    assert second.boxes.shape == (0, 4)
    assert second.boxes.dtype == np.float32
    assert second.classes.dtype == np.int64


def test_a_data_set_travels_to_other_processes(tmp_path):
    path, _ = coco(tmp_path, TWO)
    copy = pickle.loads(pickle.dumps(read_data_set([path])))
    assert copy.images[0].read().shape == (40, 60, 3)


def test_ids_may_begin_at_0_have_gaps_and_be_text(tmp_path):
    path, content = coco(tmp_path, TWO)
    content["categories"] = [
        {"id": 9, "name": "red"}, {"id": 0, "name": "blue"}, {"id": 4, "name": "none of them"},
    ]  # fmt: skip
    content["annotations"][0].update(category_id=9, image_id="first")
    content["annotations"][1].update(category_id=0, image_id="first")
    content["images"][0]["id"] = "first"
    data_set = read_data_set([write(path, content)])
    assert data_set.labels == ("__background__", "blue", "none of them", "red")
    assert data_set.images[0].classes.tolist() == [3, 1]


def test_several_data_sets_are_merged_by_the_names_of_classes(tmp_path):
    one, _ = coco(tmp_path / "one", TWO, categories=("red", "blue"))
    two, _ = coco(
        tmp_path / "two",
        {"a.png": (30, 30, [("green", 1, 1, 9, 9), ("red", 10, 10, 20, 20)])},
        categories=("green", "red"),
    )
    data_set = read_data_set([one, two])
    assert data_set.labels == ("__background__", "red", "blue", "green")
    assert data_set.images[2].classes.tolist() == [3, 1]
    names = [image.name for image in data_set.images]
    assert len(set(names)) == 3
    assert names[2].endswith("a.png")


def test_labels_of_a_model_fix_the_numbers_of_classes(tmp_path):
    path, _ = coco(tmp_path, TWO)
    labels = ("???", "blue", "black", "red")
    data_set = read_data_set([path], labels=labels)
    assert data_set.labels == labels
    assert data_set.images[0].classes.tolist() == [3, 1]


def test_a_class_the_model_does_not_know_is_a_fault_where_it_is_used(tmp_path):
    path, _ = coco(tmp_path, TWO)
    lines = faults_of(path, labels=("__background__", "blue", "green"))
    assert lines[0].startswith("1 fault in the data set")
    assert "annotation 0 of a.png: unknown category ('red'" in lines[1]


def test_the_background_is_no_class_of_objects(tmp_path):
    path, content = coco(tmp_path, TWO)
    content["categories"][0]["name"] = "__background__"
    lines = faults_of(write(path, content))
    assert "is the background's name" in lines[1]
    del content["annotations"][0]
    assert read_data_set([write(path, content)]).labels == ("__background__", "green", "blue")


def every_fault(tmp_path):
    path, content = coco(tmp_path, TWO)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    save(painted(20, 20), tmp_path / "larger.png")
    content["images"] += [
        {"id": 7, "file_name": "gone.png", "height": 10, "width": 10},
        {"id": 8, "file_name": "broken.png", "height": 10, "width": 10},
        {"id": 9, "file_name": "larger.png", "height": 10, "width": 10},
        {"id": 0, "file_name": "b.png", "height": 50, "width": 30},
        {"id": 10, "file_name": "./a.png"},
        {"id": 11, "height": 50, "width": 30},
    ]
    content["categories"].append({"id": 1, "name": "yellow"})

    def annotation(identity, bbox, image_id=0, category_id=1, **more):
        return {
            "id": identity,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": bbox,
            **more,
        }

    content["annotations"] += [
        annotation(0, [1, 1, 5, 5]),
        annotation(20, [1, 1, 0, 5]),
        annotation(21, [1, float("nan"), 5, 5]),
        annotation(22, [70, 1, 5, 5]),
        annotation(23, [50, 1, 30, 5]),
        annotation(24, [1, 1, 5, 5], category_id=77),
        annotation(25, [1, 1, 5, 5], image_id=77),
        annotation(26, [1, 1, 5]),
        annotation(27, None),
    ]  # fmt: skip
    return write(path, content)


def test_all_faults_are_listed_at_once_with_their_places(tmp_path):
    lines = faults_of(every_fault(tmp_path))
    assert lines[0] == "16 faults in the data set (--skip-invalid goes on without them):"
    told = [line.strip().removeprefix(f"{tmp_path}/data.json, ") for line in lines[1:]]
    expected = [
        "category 1: category id twice (red, yellow)",
        "image 0 (b.png): image id twice",
        "image 11: image without id or file_name",
        "annotation 0: annotation id twice",
        "annotation 20 of a.png: box without size (bbox [1, 1, 0, 5])",
        "annotation 21 of a.png: box that is not finite (bbox [1, nan, 5, 5])",
        "annotation 24 of a.png: unknown category (category_id 77)",
        "annotation 25: annotation of no image (image_id 77)",
        "annotation 26 of a.png: no box (bbox [1, 1, 5])",
        "annotation 27 of a.png: no box (bbox None)",
        f"image 7 (gone.png): no such image (looked around {tmp_path}: --images DIR says where)",
        f"image 8 (broken.png): image that cannot be decoded ({tmp_path}/broken.png: cannot be "
        "decoded (not an image of a known format))",
        "image 9 (larger.png): image of another size (20x20, annotated as 10x10)",
        f"image 10 (./a.png): image twice ({tmp_path}/a.png, as {tmp_path}/data.json, image 0 "
        "(a.png))",
        "annotation 22 of a.png: box outside the image (70 1 75 6 in 60x40)",
        "annotation 23 of a.png: box partly outside the image (by 20 pixels: 50 1 80 6 in 60x40)",
    ]
    assert sorted(told) == sorted(expected)


def test_skip_invalid_goes_on_without_them_and_says_how_many_of_what(tmp_path, caplog):
    data_set = read_data_set([every_fault(tmp_path)], skip_invalid=True)
    assert [image.name for image in data_set.images] == ["a.png", "b.png"]
    boxes = data_set.images[0].boxes.tolist()
    assert boxes == [[5, 6, 25, 16], [30, 20, 50, 38], [50, 1, 60, 6]]
    assert "2 x no box" in caplog.text
    assert "1 x image of another size" in caplog.text


def test_of_many_faults_the_first_are_listed(tmp_path):
    path, content = coco(tmp_path, TWO)
    content["images"] += [{"id": n, "file_name": f"{n}.png"} for n in range(100, 135)]
    lines = faults_of(write(path, content))
    assert lines[0].startswith("35 faults")
    assert len(lines) == 22
    assert lines[-1] == "  and 15 more"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("\x00\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "is not COCO"),
        ('{"images": [], "annotations": {}, "categories": []}', "is not COCO"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "has detections, not labelled"),
        ("7", "is not COCO"),
    ],
)
@pytest.mark.parametrize("skip_invalid", [False, True])
def test_a_file_that_is_not_coco_is_told_in_one_line(tmp_path, text, told, skip_invalid):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    (line,) = faults_of(path, skip_invalid=skip_invalid)
    assert line.startswith(f"{path}: ")
    assert told in line


@pytest.mark.parametrize("items", [[7], ["x"], [None], [[]], [{}], [{"id": True, "name": "red"}]])
@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_items_of_any_kind_are_faults_and_never_tracebacks(tmp_path, part, items):
    path, content = coco(tmp_path, TWO)
    content[part] += items
    lines = faults_of(write(path, content))
    assert lines[0].startswith("1 fault")


@pytest.mark.parametrize("number", ["1e999", "-Infinity", "9" * 400, '"5"', "true", "[1]"])
def test_numbers_of_any_kind_are_faults_and_never_tracebacks(tmp_path, number):
    path, content = coco(tmp_path, TWO)
    text = json.dumps(content).replace('"bbox": [5, ', f'"bbox": [{number}, ')
    path.write_text(text)
    lines = faults_of(path)
    assert "annotation 0 of a.png: " in lines[1]


def test_a_missing_path_and_other_files_are_told(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    lines = faults_of(tmp_path / "gone.json", tmp_path / "x.txt", tmp_path / "empty")
    assert "gone.json: no such file" in lines[1]
    assert "x.txt: is not a data set: give a COCO file" in lines[2]
    assert "empty: 0 JSON files in it" in lines[3]


def test_a_folder_with_one_coco_file_stands_for_it(tmp_path):
    coco(tmp_path, TWO, name="_annotations.coco.json")
    assert len(read_data_set([tmp_path]).images) == 2


def test_a_data_set_without_objects_is_refused(tmp_path):
    path, content = coco(tmp_path, TWO)
    content["annotations"] = []
    (line,) = faults_of(write(path, content))
    assert line == f"{path}: no object is labelled: there is nothing to learn"


def test_a_class_without_examples_is_a_warning(tmp_path, caplog):
    path, _ = coco(tmp_path, TWO)
    read_data_set([path])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == ["classes without an example: green"]


def test_crowds_are_kept_and_marked(tmp_path):
    path, content = coco(tmp_path, TWO)
    content["annotations"][1] |= {
        "iscrowd": 1, "segmentation": {"counts": [0, 5, 2395], "size": [40, 60]}, "area": 5,
    }  # fmt: skip
    image = read_data_set([write(path, content)]).images[0]
    assert image.is_ignored.tolist() == [False, True]
    assert image.areas.tolist() == [200, 5]


def test_crowds_alone_are_nothing_to_learn_and_no_examples(tmp_path, caplog):
    path, content = coco(tmp_path, TWO)
    content["annotations"][1]["iscrowd"] = 1
    read_data_set([write(path, content)])
    assert caplog.messages == ["classes without an example: green, blue"]
    content["annotations"][0]["iscrowd"] = 1
    assert "no object is labelled" in faults_of(write(path, content))[0]


def test_one_file_under_two_names_is_a_fault(tmp_path):
    path, content = coco(tmp_path, TWO)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    content["images"].append({"id": 5, "file_name": "link.png"})
    assert "image 5 (link.png): image twice" in faults_of(write(path, content))[1]


def test_an_outline_without_a_box_gets_the_box_around_it(tmp_path):
    path, content = coco(tmp_path, TWO)
    del content["annotations"][0]["bbox"]
    content["annotations"][0]["segmentation"] = [[5, 6, 25, 6, 25, 10], [9, 10, 20, 16, 9, 12]]
    image = read_data_set([write(path, content)]).images[0]
    assert image.boxes[0].tolist() == [5, 6, 25, 16]


def test_a_box_outside_by_rounding_is_clipped(tmp_path):
    path, content = coco(tmp_path, TWO)
    content["annotations"][0]["bbox"] = [-0.4, -1, 60.9, 42]
    image = read_data_set([write(path, content)]).images[0]
    assert image.boxes[0].tolist() == [0, 0, 60, 40]


@pytest.mark.parametrize(
    "name", ["sub\\a.png", "C:\\data\\sub\\a.png", "/elsewhere/a.png", "sub/a.png", "../../a.png"]
)
@pytest.mark.parametrize("with_images", [False, True])
def test_paths_of_other_systems_lead_to_the_image(tmp_path, name, with_images):
    path, content = coco(tmp_path, TWO)
    place = tmp_path / "elsewhere" if with_images else tmp_path / "sub"
    place.mkdir()
    (tmp_path / "a.png").rename(place / "a.png")
    if with_images:
        (tmp_path / "b.png").rename(place / "b.png")
    elif name in ("/elsewhere/a.png", "../../a.png"):
        (place / "a.png").rename(tmp_path / "a.png")
    content["images"][0]["file_name"] = name
    images = place if with_images else None
    if with_images or name != "C:\\data\\sub\\a.png":
        data_set = read_data_set([write(path, content)], images=images)
        assert data_set.images[0].read().shape == (40, 60, 3)
    else:
        assert "no such image" in faults_of(write(path, content))[1]


def test_an_absolute_path_of_this_machine_is_taken(tmp_path):
    path, content = coco(tmp_path / "labels", TWO)
    moved = save(painted(40, 60), tmp_path / "elsewhere" / "a.png")
    (tmp_path / "labels" / "a.png").unlink()
    content["images"][0]["file_name"] = str(moved)
    assert read_data_set([write(path, content)]).images[0].read().shape == (40, 60, 3)


def test_images_in_the_folders_of_coco_are_found(tmp_path):
    (tmp_path / "annotations").mkdir()
    _, content = coco(tmp_path / "images", TWO)
    path = write(tmp_path / "annotations" / "instances.json", content)
    assert len(read_data_set([path]).images) == 2


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_names_with_accents_and_any_letters_are_found(tmp_path, stored, written):
    from unicodedata import normalize

    path, content = coco(tmp_path, {"b.png": TWO["b.png"], "a.png": TWO["a.png"]})
    (tmp_path / "a.png").rename(tmp_path / normalize(stored, "Zür%20 é 東京.png"))
    content["images"][1]["file_name"] = normalize(written, "Zür%20 é 東京.png")
    content["categories"][0]["name"] = "Fußgänger 人"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    data_set = read_data_set([path])
    assert data_set.labels[1] == "Fußgänger 人"
    assert data_set.images[1].boxes.shape == (2, 4)


def test_the_digest_changes_with_all_that_is_annotated_and_nothing_else(tmp_path):
    path, content = coco(tmp_path, TWO)
    same = read_data_set([path]).digest
    other, _ = coco(tmp_path / "copy", TWO)
    assert read_data_set([other]).digest == same
    digests = {same}
    for change in (
        lambda c: c["annotations"][0].update(bbox=[5, 6, 20, 11]),
        lambda c: c["annotations"][0].update(category_id=2),
        lambda c: c["annotations"][0].update(iscrowd=1),
        lambda c: c["annotations"][0].update(area=100),
        lambda c: c["categories"][0].update(name="rot"),
        lambda c: c["annotations"].pop(),
        lambda c: c["images"].pop(),
    ):
        changed = json.loads(json.dumps(content))
        change(changed)
        digests.add(read_data_set([write(path, changed)]).digest)
    assert len(digests) == 8


def test_what_labelling_tools_write_is_read(tmp_path):
    save(painted(40, 60), tmp_path / "images" / "cb0618f6-a.png")
    label_studio = {
        "info": {"version": "1.0", "contributor": "Label Studio"},
        "categories": [{"id": 0, "name": "red"}],
        "images": [{
            "width": 60, "height": 40, "id": 0,
            "file_name": "..\\..\\label-studio\\media\\upload\\4\\cb0618f6-a.png",
        }],
        "annotations": [{
            "id": 0, "image_id": 0, "category_id": 0, "segmentation": [], "ignore": 0,
            "bbox": [5.000000000000001, 6.0, 20.000000000000004, 10.0], "iscrowd": 0, "area": 200.0,
        }],
    }  # fmt: skip
    (image,) = read_data_set([write(tmp_path / "result.json", label_studio)]).images
    assert image.boxes.tolist() == [[5, 6, 25, 16]]
    cvat = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "year": ""},
        "categories": [{"id": 1, "name": "red", "supercategory": ""}],
        "images": [{
            "id": 1, "width": 60, "height": 40, "file_name": "images/cb0618f6-a.png",
            "license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0,
        }],
        "annotations": [{
            "id": 1, "image_id": 1, "category_id": 1, "segmentation": [], "area": 200.0,
            "bbox": [5.0, 6.0, 20.0, 10.0], "iscrowd": 0, "attributes": {"occluded": False},
        }],
    }  # fmt: skip
    (tmp_path / "annotations").mkdir()
    path = write(tmp_path / "annotations" / "instances_default.json", cvat)
    (image,) = read_data_set([path]).images
    assert image.boxes.tolist() == [[5, 6, 25, 16]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    return coco(tmp_path_factory.mktemp("unchanged"), TWO)


@settings(max_examples=40)
@given(
    part=st.sampled_from(["images", "annotations", "categories"]),
    field=st.sampled_from(
        ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "file_name",
         "width", "height", "name"]
    ),
    value=JSON,
    skip_invalid=st.booleans(),
)  # fmt: skip
def test_a_field_with_anything_in_it_is_read_or_told(unchanged, part, field, value, skip_invalid):
    path, content = unchanged
    changed = json.loads(json.dumps(content))
    changed[part][0][field] = value
    try:
        data_set = read_data_set([write(path, changed)], skip_invalid=skip_invalid)
    except DataError:
        return
    for image in data_set.images:
        assert np.isfinite(image.boxes).all()
        assert (image.boxes[:, 2:] > image.boxes[:, :2]).all()
        assert (image.classes >= 1).all()
        assert (image.classes < len(data_set.labels)).all()
        assert np.isfinite(image.areas).all()
