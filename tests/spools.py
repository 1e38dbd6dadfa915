"""Spools for tests: the real one on a small disk, and none."""

import tempfile
from pathlib import Path

from worker.publishing.spool import Spool

LARGE = 1 << 30


def spool_in(
    directory, cameras=("gate", "yard"), *, destination="here", max_bytes=LARGE, in_use=False
):
    return Spool(Path(directory), destination, cameras, max_bytes, in_use=in_use)


def no_spool():
    """For a sink that is always available: an empty spool in its own temporary folder."""
    return spool_in(tempfile.mkdtemp())
