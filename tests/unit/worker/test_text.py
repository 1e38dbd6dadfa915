"""Durations in words."""

import pytest

from worker.text import in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (2e6, "23 d")],
)
def test_durations_fit_a_column(seconds, words):
    assert in_words(seconds) == words
