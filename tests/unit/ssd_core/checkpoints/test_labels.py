import pytest

from ssd_core.checkpoints.labels import labels_for, read_labels
from ssd_core.errors import CheckpointError


def read(tmp_path, content):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    return read_labels(path)


@pytest.mark.parametrize(
    "content",
    [
        b"Cat\nHot dog\n",
        b"Cat\nHot dog",
        b"Cat\r\nHot dog\r\n\r\n",
        b"\xef\xbb\xbfCat \n\tHot dog\n\n",
    ],
    ids=["Unix", "no last newline", "Windows", "byte order mark and blanks"],
)
def test_each_line_is_a_label(tmp_path, content):
    assert read(tmp_path, content) == ("Cat", "Hot dog")


def test_labels_are_utf_8(tmp_path):
    assert read(tmp_path, "Møwe\n猫\n".encode()) == ("Møwe", "猫")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a list of labels: expected one per line"),
        (b"\n \n", "not a list of labels: expected one per line"),
        (b"Cat\0Dog", "not a list of labels: expected one per line"),
        (b"a\n" * (1 << 20), "not a list of labels: expected one per line"),
        (b"Cat\n\nDog\n", "line 2 is empty: give each class a line"),
        (b"\nCat\n", "line 1 is empty: give each class a line"),
        (b"K\xe4se\n", "not UTF-8: save it as UTF-8 text"),
    ],
    ids=["empty", "blank", "binary", "huge", "hole", "hole at the start", "Latin-1"],
)
def test_what_is_no_list_of_labels_is_refused_in_one_line(tmp_path, content, reason):
    with pytest.raises(CheckpointError) as error:
        read(tmp_path, content)
    assert str(error.value) == f"labels {tmp_path / 'labels.txt'}: {reason}"


@pytest.mark.parametrize("name", ["absent.txt", ""])
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(
        CheckpointError, match=r"labels .*: cannot be read \(.*\): name a text file"
    ):
        read_labels(tmp_path / name)


def test_the_first_of_as_many_labels_as_classes_is_the_backgrounds():
    assert labels_for(3, ["Hintergrund", "Cat", "Dog"]) == ("Hintergrund", "Cat", "Dog")


def test_the_background_may_be_left_out():
    assert labels_for(3, ["Cat", "Dog"]) == ("background", "Cat", "Dog")


@pytest.mark.parametrize("background", ["background", "__background__", "Background", "???"])
def test_with_the_background_a_label_too_few_is_refused(background):
    with pytest.raises(CheckpointError, match="there are 2 labels, but 3 classes"):
        labels_for(3, [background, "Cat"])


@pytest.mark.parametrize("count", [0, 1, 4])
def test_another_number_of_labels_is_refused(count):
    with pytest.raises(CheckpointError) as error:
        labels_for(3, ["Cat"] * count)
    assert str(error.value) == (
        f"there are {count} labels, but 3 classes, the background's among them: "
        "give one label per class in the order of training"
    )
