"""Which class does a cell name, however it is spelled, and how are classes ordered?"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np

from peftsweep.safe_text.escaping import INVISIBLE_CATEGORIES, INVISIBLE_OTHERS
from peftsweep.safe_text.quoting import quoted

BOOLEANS = ("false", "true")
FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}
WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")
OLDER = re.compile(r"([+-]?\d+)\.0+")
LARGE = re.compile(r"[+-]?\d+(\.\d+[eE]\+?|[eE]\+)\d+")  # as programs write large numbers; `1E6` may be a code

SPACES = "\t\n\r\v\f"
DIFFERENCE = "case, spaces or characters that look alike"


def class_name(value: Any, *, as_0_1: bool = False) -> str | None:
    """The class that a cell names; None if it names none. The name does not depend on the format of the file.

    CSV holds text only, so texts get the same names as the values of other formats: 1, 1.0, "1.0" and "+1" are `1`;
    true, "True" and "TRUE" are `true`; 1e16, "1e+16" and "1.0E16" are `10000000000000000`. A text that may be a code
    stays as it is: "007", "1E6", "1_000".

    Args:
        as_0_1: name it as version 0.1 did, where true was `1` and "True" an ordinary name.
    """
    if isinstance(value, np.generic):
        value = float(str(value)) if isinstance(value, np.floating) else value.item()  # 0.1 in 32 bits stays 0.1
    if isinstance(value, str):
        return _name_of_text(value.strip(), as_0_1=as_0_1)
    if isinstance(value, bool) and not as_0_1:
        return BOOLEANS[value]
    if isinstance(value, int):
        return str(int(value))
    if not isinstance(value, float | Decimal) or not math.isfinite(value):
        return None
    if value == int(value):
        return str(int(value))
    return None if as_0_1 else str(value)


def _name_of_text(text: str, *, as_0_1: bool) -> str | None:
    if not text or not is_valid_unicode(text):
        return None
    if as_0_1:
        name = OLDER.sub(r"\1", text) if OLDER.fullmatch(text) else text
        return "0" if name == "-0" != text else name
    if text.lower() in BOOLEANS:
        return text.lower()
    if whole := WHOLE.fullmatch(text):
        return whole[1] if text[0] != "-" or whole[1] == "0" else f"-{whole[1]}"
    number = float(text) if LARGE.fullmatch(text) else math.inf
    return str(int(number)) if math.isfinite(number) and number == int(number) else text


def is_valid_unicode(text: str) -> bool:
    """Whether the text has no lone surrogate. JSON may contain one, and command-line bytes that are not UTF-8 become
    some, but neither tokenizers nor files accept them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def visible_form(name: str) -> str:
    """The name without what a person hardly sees: case, extra spaces, encodings of letters, invisible characters."""
    letters = unicodedata.normalize("NFKC", name).casefold()
    plain = (" " if letter in SPACES or unicodedata.category(letter)[0] == "Z" else letter for letter in letters)
    return " ".join("".join(letter for letter in plain if not _is_invisible(letter)).split())


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) in INVISIBLE_CATEGORIES or INVISIBLE_OTHERS.match(letter) is not None


def distinguishable(names: Iterable[str]) -> str:
    """The names for a message, with escapes if they would look the same."""
    names = list(names)
    shown = " and ".join(map(quoted, names))
    same = len({INVISIBLE_OTHERS.sub("", unicodedata.normalize("NFC", name)) for name in names}) < len(names)
    return shown.encode("ascii", "backslashreplace").decode() if same else shown


def sort_key(name: str) -> tuple[bool, float, str]:
    """Sorts whole numbers by value, then other names by letters. No two names are equal (`01` comes before `1`), so the
    order is the same in every process."""
    number = name.removeprefix("-").isdecimal()
    return not number, float(name) if number else 0.0, name


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, a blank text as in CSV, or NaN as from pandas."""
    return value is None or (isinstance(value, str) and not value.strip()) or value != value
