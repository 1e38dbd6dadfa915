"""Pascal VOC: folders, lists and single files, as its tools and others write them."""

import pytest

from ssd_core.training.data_sets.reading import read_data_set
from tests.labelled import coco, faults_of, painted, save, voc_xml


def voc(root):
    save(painted(40, 60), root / "JPEGImages" / "a.png")
    save(painted(50, 30), root / "JPEGImages" / "b.png")
    voc_xml(root / "Annotations" / "a.xml", "a.png", 40, 60, [
        ("red", 0, 1, 1, 20, 10), ("blue", 1, 31, 21, 60, 40),
    ])  # fmt: skip
    voc_xml(root / "Annotations" / "b.xml", "b.png", 50, 30, [])
    return root


def test_voc_counts_pixels_from_1_and_includes_the_last(tmp_path):
    data_set = read_data_set([voc(tmp_path)])
    assert data_set.labels == ("__background__", "blue", "red")
    first, second = data_set.images
    assert first.boxes.tolist() == [[0, 0, 20, 10], [30, 20, 60, 40]]
    assert first.classes.tolist() == [2, 1]
    assert first.is_ignored.tolist() == [False, True]
    assert first.areas.tolist() == [200, 600]
    assert len(second.boxes) == 0


@pytest.mark.parametrize("where", [".", "Annotations", "Annotations/a.xml"])
def test_voc_may_be_given_as_its_folder_or_what_is_in_it(tmp_path, where):
    data_set = read_data_set([voc(tmp_path) / where])
    assert data_set.images[0].read().shape == (40, 60, 3)
    assert len(data_set.images) == (1 if where.endswith("xml") else 2)


def test_a_list_of_image_sets_chooses_images(tmp_path):
    main = voc(tmp_path) / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("a  1\n\n")
    assert [image.name for image in read_data_set([main / "train.txt"]).images] == ["a.png"]
    (main / "train.txt").write_text("a\nc\n")
    assert "c.xml: annotations that cannot be read" in faults_of(main / "train.txt")[1]


def test_voc_beside_its_images_with_names_that_are_wrong(tmp_path):
    save(painted(40, 60), tmp_path / "renamed.JPG")
    voc_xml(tmp_path / "renamed.xml", "IMG_0001.jpg", 0, 0, [("red", 0, 0, 0, 20, 10)])
    (image,) = read_data_set([tmp_path]).images
    assert image.boxes.tolist() == [[0, 0, 20, 10]]


def test_faults_of_voc_are_listed_with_file_and_object(tmp_path):
    voc(tmp_path)
    annotations = tmp_path / "Annotations"
    voc_xml(annotations / "a.xml", "a.png", 40, 60, [
        ("red", 0, 1, 1, 20, 10), ("red", 0, 5, 5, 5, 9), ("", 0, 1, 1, 5, 5),
        ("red", 0, 1, "nan", 5, 5), ("red", 0, 1, "", 5, 5), ("red", 0, 100, 1, 120, 5),
    ])  # fmt: skip
    (annotations / "c.xml").write_text("<annotation>")
    (annotations / "d.xml").write_text("<html/>")
    voc_xml(annotations / "e.xml", "e.png", 40, 60, [])
    lines = [line.replace(f"{annotations}/", "").strip() for line in faults_of(tmp_path)]
    assert sorted(line.partition(" (")[0] for line in lines[1:]) == [
        "a.xml, object 2: box without size",
        "a.xml, object 3: object without name",
        "a.xml, object 4: box that is not finite",
        "a.xml, object 5: no box",
        "a.xml, object 6: box outside the image",
        "c.xml: is not XML",
        "d.xml: is not VOC",
        "e.xml: no such image",
    ]
    data_set = read_data_set([tmp_path], skip_invalid=True)
    assert data_set.images[0].boxes.tolist() == [[0, 0, 20, 10]]


def test_coco_and_voc_are_one_data_set(tmp_path):
    path, _ = coco(
        tmp_path / "coco", {"a.png": (40, 60, [("red", 5, 6, 25, 16)]), "b.png": (50, 30, [])}
    )
    data_set = read_data_set([path, voc(tmp_path / "voc")])
    assert len(data_set.images) == 4
    assert data_set.images[2].classes.tolist() == [1, 3]
    assert data_set.labels == ("__background__", "red", "green", "blue")
