"""JSON that lies in a file or comes from a server, and may be anything by now; and values to be written as JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peftsweep.system import plain_files

MOST = 1 << 26  # bytes: a tokenizer has some tens of millions
MOST_NODES = 2_000_000  # values in it; each takes a hundred bytes of memory
TOO_DEEP = "nested too deeply"
STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
STRING_BYTES = re.compile(STRING.pattern.encode(), re.DOTALL)
LEVELS = 100  # so that whoever reads it may call itself for each of them


def read(file: Path) -> Any:
    """What a file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file, or has no JSON.
    """
    return parsed(plain_files.read(file, MOST))


def parsed(text: str | bytes, *, once: bool = False) -> Any:
    """What the text says.

    Args:
        once: whether no object may have a key twice, of which Python would keep the last.

    Raises:
        ValueError: it is no JSON, nested too deeply, or of too many values.
    """
    if _separators(text) > MOST_NODES:
        raise ValueError(f"more than {MOST_NODES:,} values")
    try:
        found = json.loads(text, object_pairs_hook=_once if once else None)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    level = [found]
    for _ in range(LEVELS):
        level = [child for each in level if isinstance(each, list | dict) for child in _children(each)]
        if not level:
            return found
    raise ValueError(TOO_DEEP)


def _separators(text: str | bytes) -> int:
    """How many values there are, at most: each has a comma, or what opens a list, before it."""
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
            raise ValueError(f"{name!r} stands twice in one object")
        found[name] = value
    return found


def with_nulls(value: Any) -> Any:
    """The value with None in place of numbers that are infinite or none at all, for which JSON has no word."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: with_nulls(each) for name, each in value.items()}
    return [with_nulls(each) for each in value] if isinstance(value, list | tuple) else value


def _children(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
