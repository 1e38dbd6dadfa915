"""`ssd-worker models`: the models, one line each."""

from worker.commands.tables import print_table


def print_models() -> int:
    """Print names, input size, classes, weights and licence to stdout."""
    from ssd_core import MODELS

    rows = [("NAME", "INPUT", "CLASSES", "WEIGHTS", "LICENCE")]
    for spec in MODELS.values():
        height, width = spec.image_size
        if spec.weights:
            weights = "in the package"
        else:
            weights = "--weights coco or FILE" if spec.downloadable else "--weights FILE"
        rows.append(
            (spec.name, f"{width}x{height}", str(spec.num_classes - 1), weights, spec.licence)
        )
    print_table(rows)
    return 0
