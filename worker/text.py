"""Text for people: what came from elsewhere made harmless, durations in words. A leaf."""


def printable(text: str) -> str:
    """Text without what would move a cursor or reorder a line: replaced, so that it is seen."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def in_words(seconds: float) -> str:
    """A duration in a few characters: 45 s, 12 min, 5 h, 3 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{int(seconds)} s"
