"""Limits for values read from a database, whoever wrote them: commands add them up, draw them and print them."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field

WORDS = 10_000  # characters of a text
ITEMS = 10_000  # of a list
LARGEST = 2.0**128  # of numbers: losses are computed in float32, which knows none above
EXACT = 2**53  # of whole numbers: JSON's readers keep no larger one exactly


def _plain(value: Any) -> Any:
    """Raises:
    ValueError: it is no text, no number, no list of these, or too large a one.
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
            if not math.isfinite(item) or abs(item) > LARGEST:
                raise ValueError("expected a finite number")
        elif isinstance(item, int):
            if abs(item) > EXACT:
                raise ValueError("expected a smaller number")
        elif item is not None:
            raise ValueError("expected a number, a text or a list of these")
    return value


Text = Annotated[str, Field(max_length=WORDS)]
Value = Annotated[Any, AfterValidator(_plain)]  # of a hyperparameter, or of what all trials share
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=EXACT)]
Moment = Annotated[int, Field(ge=0, lt=253_402_300_800_000)]  # milliseconds since 1970, before the year 10000
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]  # three centuries
