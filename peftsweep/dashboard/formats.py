"""How does the page write numbers?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NONE = "–"


def score(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def p_is(value: float) -> str:
    return f"p {p_value(value)}" if value < 0.001 else f"p = {p_value(value)}"


def count(value: float | None) -> str:
    """1234567 as 1.23 M."""
    if value is None:
        return NONE
    value = float(f"{value:.3g}") if value >= 1000 else value  # 999,999 is a million by then
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g}"


def size(value: int | None) -> str:
    return NONE if value is None else f"{count(value)}B" if value >= 1000 else f"{value} B"


def seconds(value: float | None) -> str:
    if value is None:
        return NONE
    if value < 60:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def number(value: Any) -> str:
    """A hyperparameter."""
    if value is None:
        return NONE
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def sortable(value: float | None) -> str:
    """The value that a column is sorted by; empty if unknown, which comes last."""
    return "" if value is None else str(value)


def heading(text: str) -> str:
    """With a capital letter, the rest as it is."""
    return text[:1].upper() + text[1:]


FILTERS: dict[str, Callable[..., str]] = {
    "score": score,
    "signed": signed,
    "p_value": p_value,
    "p_is": p_is,
    "count": count,
    "size": size,
    "seconds": seconds,
    "number": number,
    "heading": heading,
}
