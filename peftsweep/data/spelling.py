"""One name for each spelling of a class, the order of classes, and the labels that a cell holds."""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np

from peftsweep import jsonfile

QUOTES = ("'", '"')
WORDS = {"false": "0", "true": "1"}


def class_name(value: Any) -> str | None:
    """The class that a cell names: 1, 1.0, true and "1.0" are `1`. None where it names none.

    A word that spells a boolean keeps its name here: see `booleans`.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        name = re.sub(r"^([+-]?\d+)\.0+$", r"\1", text := value.strip())
        if name == "-0" != text:
            return "0"
        return name if name and is_whole(name) else None
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return None


def is_whole(text: str) -> bool:
    """Whether it has no half of a surrogate pair. JSON can spell one, bytes of a command that are no UTF-8 become some,
    and no tokenizer and no file takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def booleans(names: Iterable[str]) -> bool:
    """Whether these classes are true and false, spelled in words: they are `1` and `0` then, as in JSON and Parquet."""
    spelled = {name.lower() for name in names}
    return bool(spelled & WORDS.keys()) and spelled <= {*WORDS, *WORDS.values()}


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
        return [ast.literal_eval(token) for token in tokens if token.strip() and token != ","]
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
        return None
