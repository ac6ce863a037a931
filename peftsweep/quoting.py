"""Values from files in messages: short, and without anything that a terminal would obey."""

from __future__ import annotations

import reprlib
from typing import Any

MOST = 80  # characters


def quoted(value: Any, most: int = MOST) -> str:
    """A value as Python writes it, so that it can be told from the words around it; a long one loses its middle.

    Example:
        >>> quoted("\\x1b[31mred"), quoted("x" * 1000, 12), quoted([1, [2, [3]]])
        ("'\\\\x1b[31mred'", "'xxx...xxxx'", '[1, [2, [3]]]')
    """
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = writer.maxlong = most
    writer.maxlist = writer.maxtuple = writer.maxdict = 20
    try:
        return shortened(writer.repr(value), 2 * most)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"


def shortened(text: str, most: int = MOST) -> str:
    """The text, or its two ends."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def word(text: str, most: int = MOST) -> str:
    """A name as it is, if it can stand in a line; as Python writes it otherwise."""
    return text if text.isprintable() and len(text) <= most else quoted(text, most)
