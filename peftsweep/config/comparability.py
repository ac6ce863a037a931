"""May the trials of two studies be compared, and if not, what differs?"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from peftsweep.config.sections import Range
from peftsweep.config.yaml_lines import MOST_LEVELS, Key, dotted
from peftsweep.safe_text.quoting import quoted


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The reasons why the trials of two studies cannot be compared, one line for each dotted key.

    Args:
        old: `StudyConfig.identity()` as the storage holds it. Others may have changed it, so it can be any mapping.
        new: `StudyConfig.identity()` of the study file. Its numeric ranges may be wider than the stored ones.
    """
    before, after = _flat(old), _flat(new)
    lines = []
    for key in before | after:
        a, b = before.get(key), after.get(key)  # a key that is newer than the stored study counts as absent
        if a != b and not (isinstance(a, Range) and isinstance(b, Range) and _contains(b, a)):
            lines.append(f"{dotted(key)}: {_described(a)} in the storage, {_described(b)} in the file")
    return lines


def _flat(value: Any, key: Key = ()) -> dict[Key, Any]:
    if len(key) == 2 and key[0] == "space":
        return {key: _parsed_entry(value)}
    if isinstance(value, Mapping) and len(key) < MOST_LEVELS:
        return {k: v for name, child in value.items() for k, v in _flat(child, (*key, name)).items()}
    return {key: value}


def _parsed_entry(value: Any) -> Any:
    """A range, a tuple of choices, or the value unchanged if it is neither."""
    try:
        return Range.model_validate(value) if isinstance(value, Mapping) else tuple(value)
    except (ValidationError, TypeError):
        return value


def _contains(new: Range, old: Range) -> bool:
    """Whether every value of the old range is also one of the new range."""
    same_kind = (old.log, old.log2, old.step) == (new.log, new.log2, new.step)
    shift = Fraction(str(old.low)) - Fraction(str(new.low))
    on_the_grid = old.step is None or shift % Fraction(str(old.step)) == 0
    return same_kind and on_the_grid and new.low <= old.low and new.high >= old.high


def _described(value: Any) -> str:
    if value is None or isinstance(value, Range):
        return "nothing" if value is None else str(value)
    return quoted(list(value) if isinstance(value, tuple) else value)
