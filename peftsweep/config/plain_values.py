"""Which values can be recorded with a trial? Texts, numbers and lists of these, within limits.

Commands add them up, draw them and print them, whoever wrote the database.
"""

from __future__ import annotations

import math
from typing import Any

WORDS = 10_000  # characters of a text
ITEMS = 10_000  # of a list
LARGEST = 2.0**128  # of numbers: losses are computed in float32, which knows none above
EXACT = 2**53  # of whole numbers: JSON's readers keep no larger one exactly


def plain(value: Any) -> Any:
    """The value itself.

    Raises:
        ValueError: it cannot be recorded.
    """
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > ITEMS:
        raise ValueError(f"expected at most {ITEMS:,} values in a list, got {len(items):,}")
    for item in items:
        if isinstance(item, str):
            if len(item) > WORDS:
                raise ValueError(f"expected at most {WORDS:,} characters in a text, got {len(item):,}")
            if not item.isascii():
                item.encode()
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError("expected a finite number")
            if abs(item) > LARGEST:
                raise ValueError(f"expected a number up to {LARGEST:.2g}, got {item:.2g}")
        elif isinstance(item, int):
            if abs(item) > EXACT:
                raise ValueError(f"expected a whole number up to {EXACT:,}")
        elif item is not None:
            raise ValueError("expected a number, a text or a list of these")
    return value
