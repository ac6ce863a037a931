"""How are numbers and hyperparameters written for people?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftsweep.storage import Behind


_SHORT = {"learning_rate": "lr", "weight_decay": "wd", "batch_size": "batch", "scheduler": "", "optimizer": ""}


def hyperparameters(params: Mapping[str, Any]) -> str:
    """`lr 3.1e-4 rank 16 dropout 0.05 wd 0.01 cosine`"""
    named = ((_SHORT.get(name, name.replace("_", " ")), _value(value)) for name, value in params.items())
    return " ".join(f"{name} {value}".strip() for name, value in named)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def number(value: float) -> str:
    """Two or three significant digits: `3.1e-4`, `0.05`, `16`."""
    if value and abs(value) < 0.001:
        digits, _, exponent = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def amount(count: int) -> str:
    """`980`, `73.7 k`, `22.6 M`, `1.24 B`"""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def gib(count: int) -> str:
    """Bytes in GiB: `79.1`."""
    return f"{count / 2**30:.1f}"


def duration(seconds: float) -> str:
    """`45s`, `3m20s`, `1h02m`. `--timeout` accepts the same form."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def spread(figures: Mapping[str, Any], name: str) -> str:
    """`0.712 ± 0.008`: mean and standard deviation of a score over seeds."""
    mean, deviation = figures.get(f"{name}_mean"), figures.get(f"{name}_std")
    return score(mean) + ("" if deviation is None else f" ± {deviation:.3f}")


def interval(behind: Behind | None) -> str:
    """`0.007 (-0.004 to 0.018)`: a mean difference and its 95 % interval."""
    return "" if behind is None else f"{behind.mean:.3f} ({behind.low:.3f} to {behind.high:.3f})"
