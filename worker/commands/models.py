"""`ssd-worker models`: the models, one line each."""


def print_models() -> int:
    """Names, input size, classes, weights and licence, on stdout."""
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
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0
