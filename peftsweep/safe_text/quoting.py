"""Values from files, databases and the command line in messages: short, without secrets, and without anything that a
terminal would obey."""

from __future__ import annotations

import reprlib
from typing import Any

from peftsweep.safe_text.secrets import masked, without_keys

MOST = 80  # characters of a value
PATH = 240  # of a path, of which a person wants the whole
LINE, LINES = 1_000, 120  # of a message: characters of a line, and lines
ENDS = 10_000  # characters at each end of a text that are looked at: secrets are masked before anything is cut


class _Writer(reprlib.Repr):
    """Writes as Python does, the middle of what is long left out."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = most
        self.maxlist = self.maxtuple = self.maxdict = 20

    def repr_str(self, x: str, level: int) -> str:
        return repr(shortened(x, self.maxstring - 2))  # quotation marks


def quoted(value: Any, most: int = MOST) -> str:
    """A value as Python writes it, so that it can be told from the words around it; a long one loses its middle.

    Example:
        >>> quoted("\\x1b[31mred"), quoted("x" * 1000, 12), quoted([1, [2, [3]]])
        ("'\\\\x1b[31mred'", "'xxxxxxxx…xxx'", '[1, [2, [3]]]')
    """
    try:
        return shortened(_Writer(most).repr(value), 2 * most)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"


def shortened(text: str, most: int = MOST) -> str:
    """The text without secrets, at most so many characters of it: its two ends, and how much is left out between."""
    text = without_keys(text)
    whole = len(text)
    if whole <= 2 * ENDS:
        first = last = masked(text)
        whole = len(first)
        if whole <= most:
            return first
    else:
        first, last = masked(text[:ENDS]), masked(text[-ENDS:])
    mark = f"… ({whole - most:,} characters more) …"
    if len(mark) > most // 2:
        mark = "…"
    tail = (most - len(mark)) // 3
    return f"{first[: most - len(mark) - tail]}{mark}{last[len(last) - tail :]}"


def word(text: str, most: int = MOST) -> str:
    """A name as it is, if it can stand in a line; as Python writes it otherwise."""
    return masked(text) if text.isprintable() and len(text) <= most else quoted(text, most)


def bounded(message: str) -> str:
    """A whole message, however it was put together: without secrets, and with bounds on its lines."""
    lines = without_keys(message).split("\n")
    more = len(lines) - LINES
    kept = lines if more <= 0 else [*lines[: LINES - 1], f"… ({more + 1:,} lines more)"]
    return "\n".join(shortened(line, LINE) for line in kept)
