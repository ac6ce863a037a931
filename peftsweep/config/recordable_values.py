"""Which values can be recorded with a trial? Texts, numbers and lists of these, within limits.

Commands add them up, draw them and print them, whoever wrote the database.
"""

from __future__ import annotations

import math
from typing import Any

MAX_CHARACTERS = 10_000
MAX_ITEMS = 10_000
MAX_NUMBER = 2.0**128  # losses are computed in float32, which has none above
MAX_WHOLE_NUMBER = 2**53  # many JSON readers round larger ones


def recordable(value: Any) -> Any:
    """The value, unchanged.

    Raises:
        ValueError: it cannot be recorded.
    """
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > MAX_ITEMS:
        raise ValueError(f"expected at most {MAX_ITEMS:,} values in a list, got {len(items):,}")
    for item in items:
        if isinstance(item, str):
            if len(item) > MAX_CHARACTERS:
                raise ValueError(f"expected at most {MAX_CHARACTERS:,} characters in a text, got {len(item):,}")
            if not item.isascii():
                item.encode()
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError("expected a finite number")
            if abs(item) > MAX_NUMBER:
                raise ValueError(f"expected a number up to {MAX_NUMBER:.2g}, got {item:.2g}")
        elif isinstance(item, int):
            if abs(item) > MAX_WHOLE_NUMBER:
                raise ValueError(f"expected a whole number up to {MAX_WHOLE_NUMBER:,}")
        elif item is not None:
            raise ValueError("expected a number, a text or a list of these")
    return value
