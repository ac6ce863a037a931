"""How is JSON read that anybody may have written? With limits on its size, depth and number of values."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peftsweep.system import plain_files

MOST = 1 << 26  # bytes; a tokenizer has some tens of millions
MOST_NODES = 2_000_000  # values; each takes about a hundred bytes of memory
TOO_DEEP = "nested too deeply"
STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
STRING_BYTES = re.compile(STRING.pattern.encode(), re.DOTALL)
LEVELS = 100  # few enough for functions that call themselves once per level


def read(file: Path) -> Any:
    """The value in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or not JSON.
    """
    return parse(plain_files.read(file, MOST))


def parse(text: str | bytes, *, once: bool = False) -> Any:
    """The value of a text.

    Args:
        once: refuse an object with the same key twice; Python would keep the last one.

    Raises:
        ValueError: it is not JSON, nested too deeply, or has too many values.
    """
    if _separators(text) > MOST_NODES:
        raise ValueError(f"more than {MOST_NODES:,} values")
    try:
        found = json.loads(text, object_pairs_hook=_once if once else None)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):  # Python would advise a programmer to call it
            raise ValueError(f"a whole number of more than {sys.get_int_max_str_digits():,} digits") from None
        raise
    level = [found]
    for _ in range(LEVELS):
        level = [child for each in level if isinstance(each, list | dict) for child in _children(each)]
        if not level:
            return found
    raise ValueError(TOO_DEEP)


def _separators(text: str | bytes) -> int:
    """Upper bound on the number of values: a comma or an opening bracket stands before each."""
    found = _count(text)
    if found <= MOST_NODES:
        return found
    return _count(STRING.sub("", text) if isinstance(text, str) else STRING_BYTES.sub(b"", text))


def _count(text: str | bytes) -> int:
    if isinstance(text, str):
        return sum(map(text.count, ",[{"))
    return sum(map(text.count, (b",", b"[", b"{")))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"one object has the key {name!r} twice")
        found[name] = value
    return found


def with_nulls(value: Any) -> Any:
    """The value with None in place of infinite numbers and NaN, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: with_nulls(each) for name, each in value.items()}
    return [with_nulls(each) for each in value] if isinstance(value, list | tuple) else value


def _children(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
