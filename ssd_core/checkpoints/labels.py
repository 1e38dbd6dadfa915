"""Labels for weights that do not bring their own: a text file or a list in, one name per class out.

Knows neither tensors nor models.
"""

from collections.abc import Sequence
from pathlib import Path

from ssd_core.errors import CheckpointError

BACKGROUND = "background"
BACKGROUND_NAMES = {"background", "__background__", "???"}
"""Of class 0 in PASCAL VOC's lists, in torchvision's and in MediaPipe's."""
MOST_BYTES = 1 << 20


def read_labels(path: Path) -> tuple[str, ...]:
    """The lines of a UTF-8 file, one label each; empty lines at its end do not count.

    Raises CheckpointError.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            f"labels {path}: cannot be read ({error.strerror}): "
            "name a text file with one label per line"
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"labels {path}: not UTF-8: save it as UTF-8 text") from error
    if len(content) > MOST_BYTES or "\0" in text or not text.strip():
        raise CheckpointError(f"labels {path}: not a list of labels: expected one per line")
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if "" in lines:
        raise CheckpointError(
            f"labels {path}: line {lines.index('') + 1} is empty: give each class a line"
        )
    return tuple(lines)


def labels_for(classes: int, labels: Sequence[str]) -> tuple[str, ...]:
    """One label for each of ``classes``, the background's first, which ``labels`` may leave out.

    Raises CheckpointError where the numbers do not go together.
    """
    if len(labels) == classes:
        return tuple(labels)
    if len(labels) == classes - 1 and labels[0].lower() not in BACKGROUND_NAMES:
        return BACKGROUND, *labels
    raise CheckpointError(
        f"there are {len(labels)} labels, but {classes} classes, the background's among them: "
        "give one label per class in the order of training"
    )
