"""Parameters of tests."""

import pytest


def mostly_long(*values, fast=1):
    """The first so many in `make test`, the others `long`: for cases that differ little."""
    return [
        *values[:fast],
        *(
            pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.long)
            for value in values[fast:]
        ),
    ]
