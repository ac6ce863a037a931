"""Which known name did a person probably mean?"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peftsweep.safe_text.quoting import PATH, word


def nearest(name: Any, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant; None if none is near, or the name is no text.

    Args:
        cutoff: similarity, 0 to 1, that the known name must have.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff) if isinstance(name, str) else []
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """`; did you mean a, b?` with the nearest known names; empty if none is near.

    Example:
        >>> did_you_mean("rnak", ["rank", "alpha"]), did_you_mean("x", ["rank"])
        ('; did you mean rank?', '')
    """
    near = difflib.get_close_matches(name, list(known), n=most)
    return f"; did you mean {', '.join(map(word, near))}?" if near else ""


def did_you_mean_file(path: Path, *, endings_to_skip: tuple[str, ...] = ()) -> str:
    """`; did you mean a, b?` with the nearest names in the folder of a missing file. If the folder is missing too, it
    says that."""
    try:
        there = [entry.name for entry in path.parent.iterdir() if not entry.name.endswith(endings_to_skip)]
    except OSError:
        return f"; the folder {word(str(path.parent), PATH)} is not there" if path.parent.name else ""
    return did_you_mean(path.name, there)
