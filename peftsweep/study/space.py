"""How a study file's search space becomes Optuna's distributions, and Optuna's parameters become hyperparameters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from peftsweep.config import SPECS, Range, StudyConfig, TrainConfig, number_type, unused_hyperparameters

Scalar = str | int | float | bool | None  # what Optuna stores


def distributions(study: StudyConfig) -> dict[str, BaseDistribution]:
    """The space's distributions by Optuna's parameter names.

    `rank: {low: 4, high: 64, log2: true}` becomes the integer `log2_rank` from 2 to 6. Unlike a list of choices, it may
    be widened when the study is resumed.
    """
    return {parameter(name, entry): _distribution(study, name, entry) for name, entry in study.space.items()}


def decode(study: StudyConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's hyperparameters from its Optuna parameters; parameters outside the space are ignored."""
    sampled = {}
    for name, entry in study.space.items():
        known = parameter(name, entry)
        if known in params:
            sampled[name] = _decoded(study, name, entry, params[known])
    return sampled


def candidates(study: StudyConfig, end: Literal["low", "high"] = "high") -> list[TrainConfig]:
    """Hyperparameters at the limits of the space: one end of every range, and every choice once."""
    ends: dict[str, Any] = {}
    for name, entry in study.space.items():
        kind = number_type(study.method, name)
        if not isinstance(entry, Range):
            ends[name] = entry[0]
        elif kind is not None:
            ends[name] = kind(getattr(entry, end))
    found = [study.hyperparameters(ends)]
    for name, entry in study.space.items():
        if not isinstance(entry, Range):
            found += [study.hyperparameters(ends | {name: choice}) for choice in entry[1:]]
    return found


def described(study: StudyConfig, params: TrainConfig) -> dict[str, Any]:
    """All hyperparameters of the study's method, sampled and fixed, as JSON values."""
    unused = unused_hyperparameters(study.method)
    named = {name: value for name, value in params.model_dump(mode="json").items() if name not in unused}
    # Call the method's own `derived`: a TrainConfig has the keys of all built-in methods.
    return named | SPECS[study.method].hyperparameters.derived(params)


def parameter(name: str, entry: Range | Sequence[Any]) -> str:
    """Optuna's name for a hyperparameter."""
    return f"log2_{name}" if isinstance(entry, Range) and entry.log2 else name


def _distribution(study: StudyConfig, name: str, entry: Range | Sequence[Any]) -> BaseDistribution:
    if not isinstance(entry, Range):
        return CategoricalDistribution([encoded(choice) for choice in entry])
    if entry.log2:
        return IntDistribution(exponent(entry.low), exponent(entry.high))
    if number_type(study.method, name) is int:
        return IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=int(entry.step or 1))
    step = None if entry.step is None else float(entry.step)
    return FloatDistribution(float(entry.low), float(entry.high), log=entry.log, step=step)


def exponent(power: float) -> int:
    return math.frexp(power)[1] - 1


def encoded(choice: Any) -> Any:
    """A choice as Optuna stores it: lists of module names as JSON text."""
    return json.dumps(list(choice)) if isinstance(choice, (list, tuple)) else choice


def _decoded(study: StudyConfig, name: str, entry: Range | Sequence[Any], value: Any) -> Any:
    if isinstance(entry, Range):
        number = 2.0**value if entry.log2 else value
        return int(number) if number_type(study.method, name) is int else float(number)
    choice = next((choice for choice in entry if encoded(choice) == value), value)
    return tuple(choice) if isinstance(choice, list) else choice
