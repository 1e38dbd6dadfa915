"""What code leaves to Python's search for cycles.

A worker allocates so evenly that the full search comes once in hours. Until then, what is only part
of a cycle keeps its memory: of a lost connection, that is the pictures which a decoder refers to.
"""

import gc
from contextlib import contextmanager


@contextmanager
def no_search_for_cycles():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive(*types):
    """The objects of exactly these types, of those that can be part of a cycle."""
    return [found for found in gc.get_objects() if type(found) in types]
