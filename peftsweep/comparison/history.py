"""How a study went: its trials in columns, curves, the best value so far, what mattered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from peftsweep.comparison.reading import Held

WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
ENOUGH = 4  # complete trials, below which importance would be noise


@dataclass(frozen=True)
class Axis:
    """A hyperparameter: `linear` or `log` for numbers, `log2` for powers of two, `choice` for anything else.

    Attributes:
        values: of each trial; None for one that does not have it. For a choice, its place in `choices`.
    """

    name: str
    scale: str
    choices: list[str]
    values: list[float | None]


@dataclass(frozen=True)
class History:
    """A study's trials, in the order of their numbers. `value` is that of the objective.

    Attributes:
        numbers, states, values, seconds: one entry a trial; the value of one that was pruned is its last.
        ladders: the epochs at which trials were evaluated, once for all trials with the same ones.
        ladder: which of them a trial has.
        curves: its values at those epochs.
        best_by_trial: (number of the trial, best value so far) at each new best, and at the end.
        best_by_time: the same over seconds in which trials were running; pauses are left out.
        importance: of each hyperparameter, by PED-ANOVA over the complete trials, adding up to 1, highest first.
        unimportant: why there is none.
    """

    study: str
    objective: str
    numbers: list[int]
    states: list[str]
    values: list[float | None]
    seconds: list[float | None]
    ladders: list[list[float]]
    ladder: list[int]
    curves: list[list[float | None]]
    best_by_trial: list[tuple[int, float]]
    best_by_time: list[tuple[float, float]]
    axes: list[Axis]
    importance: dict[str, float]
    unimportant: str


def history(held: Held) -> History:
    trials = [trial for trial in held.trials if trial.state != TrialState.WAITING]
    ladders: dict[tuple[float, ...], int] = {}
    ladder, curves = [], []
    for trial in trials:
        evaluations = trial.user_attrs.get("evaluations", [])
        epochs = tuple(round(float(evaluation["epoch"]), 3) for evaluation in evaluations)
        ladder.append(ladders.setdefault(epochs, len(ladders)))
        curves.append([short(evaluation["scores"].get(held.objective)) for evaluation in evaluations])
    importance, reason = importances(held)
    return History(
        study=held.name,
        objective=held.objective,
        numbers=[trial.number for trial in trials],
        states=[WORDS.get(trial.state, "running") for trial in trials],
        values=[_value(trial, curve) for trial, curve in zip(trials, curves, strict=True)],
        seconds=[short(trial.user_attrs.get("seconds")) for trial in trials],
        ladders=[list(epochs) for epochs in ladders],
        ladder=ladder,
        curves=curves,
        best_by_trial=[(number, round(value, 5)) for number, value in best_so_far(trials)],
        best_by_time=[(round(at, 1), round(value, 5)) for at, value in best_over_time(trials)],
        axes=[axis(name, entry, trials) for name, entry in held.space.items()],
        importance=importance,
        unimportant=reason,
    )


def best_so_far(trials: Sequence[FrozenTrial]) -> list[tuple[int, float]]:
    """The best value up to each trial by number: a point at each new best, and one at the last trial."""
    found: list[tuple[int, float]] = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE and (not found or trial.values[0] > found[-1][1]):
            found.append((trial.number, trial.values[0]))
    return [*found, (trials[-1].number, found[-1][1])] if found else []


def best_over_time(trials: Sequence[FrozenTrial]) -> list[tuple[float, float]]:
    """The same over seconds, by when trials ended."""
    spans = busy([(trial.datetime_start, trial.datetime_complete) for trial in trials])
    ended = [(trial.datetime_complete, trial) for trial in trials if trial.datetime_complete is not None]
    found: list[tuple[float, float]] = []
    for moment, trial in sorted(ended, key=itemgetter(0)):
        if trial.state == TrialState.COMPLETE and (not found or trial.values[0] > found[-1][1]):
            found.append((_busy_until(spans, moment), trial.values[0]))
    return [*found, (_busy_until(spans, max(ended, key=itemgetter(0))[0]), found[-1][1])] if found else []


def busy(spans: Sequence[tuple[datetime | None, datetime | None]]) -> list[tuple[datetime, datetime]]:
    """When at least one of them was under way: their union, in order."""
    joined: list[tuple[datetime, datetime]] = []
    for start, end in sorted((start, end) for start, end in spans if start is not None and end is not None):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _busy_until(spans: Sequence[tuple[datetime, datetime]], moment: datetime) -> float:
    return sum(max(0.0, (min(end, moment) - start).total_seconds()) for start, end in spans)


def axis(name: str, entry: Any, trials: Sequence[FrozenTrial]) -> Axis:
    values = [trial.user_attrs.get("params", {}).get(name) for trial in trials]
    if isinstance(entry, dict):
        scale = "log2" if entry.get("log2") else "log" if entry.get("log") else "linear"
        return Axis(name, scale, [], [short(value) for value in values])
    choices = [_text(choice) for choice in entry]
    choices += sorted({_text(value) for value in values if value is not None} - set(choices))
    places = {choice: place for place, choice in enumerate(choices)}
    return Axis(name, "choice", choices, [None if value is None else places[_text(value)] for value in values])


def _text(choice: Any) -> str:
    return ", ".join(map(str, choice)) if isinstance(choice, list | tuple) else str(choice)


def importances(held: Held) -> tuple[dict[str, float], str]:
    """How much each hyperparameter had to do with the best tenth of the complete trials; or none, and why."""
    complete = sum(trial.state == TrialState.COMPLETE for trial in held.trials)
    if complete < ENOUGH:
        return {}, f"there are {complete} complete trials; importance is worth a look from {ENOUGH} on"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where the best tenth is all there is
        found = get_param_importances(held.study, evaluator=PedAnovaImportanceEvaluator())
    if not any(found.values()):
        return {}, "the complete trials do not differ enough"
    names = {f"log2_{name}": name for name in held.space} | {name: name for name in held.space}
    return {names.get(name, name): round(value, 4) for name, value in found.items()}, ""


def _value(trial: FrozenTrial, curve: Sequence[float | None]) -> float | None:
    if trial.state == TrialState.COMPLETE:
        return short(trial.values[0])
    return next((value for value in reversed(curve) if value is not None), None)


def short(value: Any) -> float | None:
    """Five digits, which a page of 20,000 trials can hold; None of what is no finite number."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
