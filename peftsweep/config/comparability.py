"""Whether two studies' trials may stand side by side, and what differs if not."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from peftsweep.config.sections import Range
from peftsweep.config.yaml_lines import MOST_LEVELS, Key, dotted
from peftsweep.safe_text.quoting import quoted


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps the trials of two studies from standing side by side, a line per dotted key.

    Args:
        old: `StudyConfig.identity()` as the storage has it, which may be anything by now.
        new: the same of the study file. A numeric range may be wider there than in the storage.
    """
    before, after = _flat(old), _flat(new)
    lines = []
    for key in before | after:
        a, b = before.get(key), after.get(key)  # a key that the storage does not know yet is as one left out
        if a != b and not (isinstance(a, Range) and isinstance(b, Range) and _widened(a, b)):
            lines.append(f"{dotted(key)}: {_shown(a)} in the storage, {_shown(b)} in the file")
    return lines


def _flat(value: Any, key: Key = ()) -> dict[Key, Any]:
    if len(key) == 2 and key[0] == "space":
        return {key: _entry(value)}
    if isinstance(value, Mapping) and len(key) < MOST_LEVELS:
        return {k: v for name, child in value.items() for k, v in _flat(child, (*key, name)).items()}
    return {key: value}


def _entry(value: Any) -> Any:
    """A range or choices, or what the storage has in their place."""
    try:
        return Range.model_validate(value) if isinstance(value, Mapping) else tuple(value)
    except (ValidationError, TypeError):
        return value


def _widened(old: Range, new: Range) -> bool:
    same_kind = (old.log, old.log2, old.step) == (new.log, new.log2, new.step)
    shift = Fraction(str(old.low)) - Fraction(str(new.low))
    on_the_grid = old.step is None or shift % Fraction(str(old.step)) == 0
    return same_kind and on_the_grid and new.low <= old.low and new.high >= old.high


def _shown(value: Any) -> str:
    if value is None or isinstance(value, Range):
        return "nothing" if value is None else str(value)
    return quoted(list(value) if isinstance(value, tuple) else value)
