"""One name for each spelling of a class, the order of classes, and the labels that a cell holds."""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np

from peftsweep import jsonfile

QUOTES = ("'", '"')
BOOLEANS = ("false", "true")
WHOLE = re.compile(r"([+-]?\d+)\.0+")
LARGE = re.compile(r"-?\d+(\.\d+)?[eE]\+\d+")  # as programs write numbers from 1e+16 on; `1E6` may be a code


def class_name(value: Any, *, older: bool = False) -> str | None:
    """The class that a cell names; None where it names none. A class has one name whatever the file's format is.

    So what CSV can only spell has the name of what other formats have a type for: 1, 1.0 and "1.0" are `1`; true,
    "True" and "TRUE" are `true`.

    Args:
        older: as version 0.1 named it, to which true was `1`, and "True" a name like any other.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return _name_of_text(value.strip(), older=older)
    if isinstance(value, bool) and not older:
        return BOOLEANS[value]
    if isinstance(value, int):
        return str(int(value))
    if not isinstance(value, float | Decimal) or not math.isfinite(value):
        return None
    if value == int(value):
        return str(int(value))
    return None if older else str(value)


def _name_of_text(text: str, *, older: bool) -> str | None:
    if not text or not is_whole(text):
        return None
    name = WHOLE.sub(r"\1", text) if WHOLE.fullmatch(text) else text
    if name == "-0" and (name != text or not older):
        return "0"
    if older:
        return name
    if name.lower() in BOOLEANS:
        return name.lower()
    number = float(name) if LARGE.fullmatch(name) else math.inf
    return str(int(number)) if math.isfinite(number) and number == int(number) else name


def is_whole(text: str) -> bool:
    """Whether it has no half of a surrogate pair. JSON can spell one, bytes of a command that are no UTF-8 become some,
    and no tokenizer and no file takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def order(name: str) -> tuple[bool, float, str]:
    """Whole numbers by value, then names by letters. No two names are equal: `1` stands before `01`… in any process."""
    number = name.removeprefix("-").isdecimal()
    return not number, float(name) if number else 0.0, name


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: CSV has no other word for it, pandas writes NaN."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value


def labels_in(value: Any, separator: str | None) -> list[str] | None:
    """The labels of a cell that holds all labels of a text, none twice; None where it cannot be read so.

    Args:
        separator: what parts them in a text; without it, the text is a list as Python, JSON or numpy writes it.
    """
    if is_missing(value):
        return []
    if isinstance(value, str):
        parts: Any = listed(value) if separator is None or any(mark in value for mark in QUOTES) else None
        if separator is not None and parts is None:
            parts = value.split(separator)
    else:
        parts = [value] if separator is not None and not isinstance(value, list | tuple) else value
    if not isinstance(parts, list | tuple):
        return None
    names = [class_name(part) for part in parts if not is_missing(part)]
    return None if None in names else list(dict.fromkeys(name for name in names if name is not None))


def listed(text: str) -> list[Any] | None:
    """The entries of a list that is written out; None where the text is none."""
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "()", "{}"):
        return None
    try:
        found = jsonfile.parsed(text)
        return found if isinstance(found, list) else None
    except ValueError:
        pass
    inside = text[1:-1]
    if text[0] == "[" and "," in inside and not any(mark in inside for mark in (*QUOTES, *"[](){}")):
        return inside.split(",")  # bare words, as Java writes them
    try:
        # not by literal_eval of it all: what numpy writes without commas, ['joy' 'anger'], would be one text
        tokens = [token.string for token in tokenize.generate_tokens(io.StringIO(inside).readline)]
        return _entries(token for token in tokens if token.strip() and token != ",")
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
        return None


def _entries(tokens: Iterator[str]) -> list[Any]:
    """Raises:
    ValueError, SyntaxError: a token that is no text, no number and no word for a missing one.
    """
    signed = (token + next(tokens, "") if token == "-" else token for token in tokens)
    return [None if token == "nan" else ast.literal_eval(token) for token in signed]
