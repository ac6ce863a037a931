"""Whether parameters that a person enqueued fit the study's space. Names may be the study file's or Optuna's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from peftsweep.config import Range, StudyConfig, number_type
from peftsweep.safe_text.quoting import quoted, word
from peftsweep.study.space import decode, described, encoded, exponent, parameter
from peftsweep.system.suggest import did_you_mean


def given(study: StudyConfig, named: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values that fit, as Optuna's parameters, and a reason for each value that does not.

    Args:
        named: values by Optuna's names (`log2_rank: 3`) or by those of the study file (`rank: 8`). Hyperparameters
            that are not searched may be included, with the value that all trials have.

    Example:
        >>> given(study, {"rank": 8, "dropout": 1.5})  # doctest: +SKIP
        ({'log2_rank': 3}, ['dropout: expected 0 to 0.3, got 1.5'])
    """
    names = {parameter(name, entry): name for name, entry in study.space.items()} | {name: name for name in study.space}
    found: dict[str, Any] = {}
    reasons: list[str] = []
    for key in names.keys() & named.keys():
        name, entry = names[key], study.space[names[key]]
        kind = number_type(study.method, name)
        value = _fitting(kind, entry, named[key], shown=key == name)
        own = parameter(name, entry)
        if value is NOTHING:
            expected = _expected(entry, shown=key == name)
            reasons.append(f"{key}: expected {expected}, got {quoted(named[key])}")
        elif found.setdefault(own, value) != value:
            reasons.append(f"{name} and {own} say different things: {quoted(named[name])} and {quoted(named[own])}")
    reasons += _others(study, found, {key: value for key, value in named.items() if key not in names})
    return found, sorted(reasons)


NOTHING = object()  # marks a value that does not fit; None may be a choice


def _fitting(kind: type[int | float] | None, entry: Range | Sequence[Any], value: Any, *, shown: bool) -> Any:
    """The value as Optuna stores it; `NOTHING` if it is not in the space.

    Args:
        kind: see `number_type`.
        shown: for a power of two: whether `value` is the number itself, not its exponent.
    """
    if not isinstance(entry, Range):
        same = (choice for choice in map(encoded, entry) if _same(choice, encoded(value)))
        return next(same, NOTHING)
    number = _number(value)
    if number is None:
        return NOTHING
    if entry.log2:
        if not shown:
            inside = number.denominator == 1 and exponent(entry.low) <= number <= exponent(entry.high)
            return int(number) if inside else NOTHING
        power = entry.low <= number <= entry.high and math.frexp(float(number))[0] == 0.5
        return exponent(float(number)) if power else NOTHING
    whole = kind is int
    if entry.step is not None or whole:
        low, step = Fraction(str(entry.low)), Fraction(str(entry.step or 1))
        steps = (number - low) / step
        if abs(steps - round(steps)) > Fraction(1, 10**8):  # Optuna's tolerance: 3 * 0.1 is not 0.3
            return NOTHING
        number = low + round(steps) * step
    if not Fraction(str(entry.low)) <= number <= Fraction(str(entry.high)):
        return NOTHING
    return int(number) if whole else float(number)


def _number(value: Any) -> Fraction | None:
    """The exact value; None if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
        return None
    return Fraction(value)


def _same(choice: Any, value: Any) -> bool:
    """1 and 1.0 are the same; 1 and True are not."""
    return bool(choice == value) and isinstance(choice, bool) == isinstance(value, bool)


def _expected(entry: Range | Sequence[Any], *, shown: bool) -> str:
    if not isinstance(entry, Range):
        return "one of " + ", ".join(str(encoded(choice)) for choice in entry)
    return str(entry) if shown or not entry.log2 else f"{exponent(entry.low)} to {exponent(entry.high)}"


def _others(study: StudyConfig, found: Mapping[str, Any], named: Mapping[str, Any]) -> list[str]:
    """What is wrong with values of hyperparameters that are not searched."""
    if not named:
        return []
    all_have = described(study, study.hyperparameters(decode(study, found)))
    reasons = []
    for key, value in named.items():
        if key not in all_have:
            hint = did_you_mean(key, [*study.space, *all_have], most=1)
            reasons.append(f"{word(key)}: this study has no such hyperparameter{hint}")
        elif not _same(all_have[key], list(value) if isinstance(value, tuple) else value):
            reasons.append(f"{key}: not searched, all trials have {quoted(all_have[key])}; got {quoted(value)}")
    return reasons
