"""Text from elsewhere (names in files and messages) as it may be printed."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""`str(text)` as one line of visible characters: whatever a terminal could act upon is escaped.

    Control characters, line breaks, invisible and direction-changing characters and lone surrogates become \x1b, \u202e
    and so on. Letters of any script stay as they are.

    >>> printable("cam\x1b[2J")
    'cam\\x1b[2J'
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
