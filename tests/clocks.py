"""A clock for tests, which only they move."""


class Clock:
    """In the place of the module ``time``."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        assert seconds >= 0
        self.now += seconds
