"""How does a message show a value from a file, a database or the command line? Short, escaped and without secrets."""

from __future__ import annotations

import reprlib
from typing import Any

from peftsweep.safe_text.secrets import masked, without_private_keys

MAX_VALUE = 80  # characters of a value
PATH = 240  # characters of a path, which people want to read completely
LINE, LINES = 1_000, 120  # limits of a message: characters of a line, number of lines
ENDS = 10_000  # characters at each end of a text in which secrets are masked, before the text is shortened


class _Writer(reprlib.Repr):
    """Like `repr`, but without the middle of long values."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = most
        self.maxlist = self.maxtuple = self.maxdict = 20

    def repr_str(self, x: str, level: int) -> str:
        return repr(shortened(x, self.maxstring - 2))  # for the quotation marks


def quoted(value: Any, most: int = MAX_VALUE) -> str:
    """A value as Python writes it, so that it stands out from the words around it. A long value loses its middle.

    Example:
        >>> quoted("\\x1b[31mred"), quoted("x" * 1000, 12), quoted([1, [2, [3]]])
        ("'\\\\x1b[31mred'", "'xxxxxxxx…xxx'", '[1, [2, [3]]]')
    """
    try:
        return shortened(_Writer(most).repr(value), 2 * most)
    except ValueError:  # Python refuses to write whole numbers of more than 4,300 digits
        return "a number of thousands of digits"


def shortened(text: str, most: int = MAX_VALUE) -> str:
    """The text without secrets. If it is longer than `most` characters: its two ends, and how much was left out."""
    text = without_private_keys(text)
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


def word(text: str, most: int = MAX_VALUE) -> str:
    """A name as it is if it is short and printable; otherwise as Python writes it."""
    return masked(text) if text.isprintable() and len(text) <= most else quoted(text, most)


def bounded(message: str) -> str:
    """A whole message without secrets, with limits on the number and length of its lines."""
    lines = without_private_keys(message).split("\n")
    more = len(lines) - LINES
    kept = lines if more <= 0 else [*lines[: LINES - 1], f"… ({more + 1:,} lines more)"]
    return "\n".join(shortened(line, LINE) for line in kept)
