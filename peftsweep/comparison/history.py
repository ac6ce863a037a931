"""How did a study go: its trials in columns, their curves, the best value so far, the hyperparameters' importance?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from peftsweep.comparison.study_data import StudyData
from peftsweep.config import Range
from peftsweep.storage import TrialRecord
from peftsweep.trial_state import TrialState

ENOUGH = 4  # complete trials; fewer have no best tenth


@dataclass(frozen=True)
class Axis:
    """A hyperparameter.

    Attributes:
        scale: `linear` or `log` for numbers, `log2` for powers of two, `choice` for anything else.
        low, high: bounds from the study file, wider if trials have values beyond them.
        values: one for each trial, None if the trial has none; for a choice, its place in `choices`.
    """

    name: str
    scale: str
    low: float
    high: float
    choices: list[str]
    values: list[float | None]


@dataclass(frozen=True)
class History:
    """A study's trials, in the order of their numbers. A `value` is the score that the study maximises.

    Attributes:
        numbers, states, values, seconds: one entry for each trial. The value of a trial that is not complete is the
            best of its curve.
        ended: seconds until each trial ended, without the pauses between runs.
        ladders: the different lists of epochs at which trials were evaluated.
        ladder: for each trial, the place of its epochs in `ladders`.
        curves: each trial's values at those epochs.
        best_by_trial: (number of the trial, best value so far) at each new best, and at the end.
        best_by_time: the same, with the seconds of `ended` in place of numbers.
        importance: share of each hyperparameter by PED-ANOVA over the complete trials, the highest first. They add up
            to 1.
        unimportant: why there is no importance; empty if there is one.
    """

    study: str
    objective: str
    numbers: list[int]
    states: list[TrialState]
    values: list[float | None]
    ended: list[float | None]
    seconds: list[float | None]
    ladders: list[list[float]]
    ladder: list[int]
    curves: list[list[float | None]]
    best_by_trial: list[tuple[int, float]]
    best_by_time: list[tuple[float, float]]
    axes: list[Axis]
    importance: dict[str, float]
    unimportant: str


def history(study: StudyData) -> History:
    trials = [trial for trial in study.trials if trial.state != TrialState.WAITING]
    ladders: dict[tuple[float, ...], int] = {}
    ladder, curves = [], []
    for trial in trials:
        epochs = tuple(round(evaluation.epoch, 3) for evaluation in trial.evaluations)
        ladder.append(ladders.setdefault(epochs, len(ladders)))
        curves.append([short(evaluation.scores.get(study.objective)) for evaluation in trial.evaluations])
    ended = ends(trials)
    importance, reason = importances(study)
    return History(
        study=study.name,
        objective=study.objective,
        numbers=[trial.number for trial in trials],
        states=[trial.state for trial in trials],
        values=[_value(trial, curve) for trial, curve in zip(trials, curves, strict=True)],
        ended=ended,
        seconds=[short(trial.seconds) for trial in trials],
        ladders=[list(epochs) for epochs in ladders],
        ladder=ladder,
        curves=curves,
        best_by_trial=best_so_far((trial.number, trial) for trial in trials),
        best_by_time=best_so_far(
            sorted(((at, t) for at, t in zip(ended, trials, strict=True) if at is not None), key=itemgetter(0))
        ),
        axes=[axis(name, entry, trials) for name, entry in study.space.items()],
        importance=importance,
        unimportant=reason,
    )


def best_so_far(points: Iterable[tuple[Any, TrialRecord]]) -> list[tuple[Any, float]]:
    """Points (place on the axis, best value so far) of trials in this order: one at each new best of a complete trial,
    and one at the end."""
    found: list[tuple[Any, float]] = []
    last = None
    for last, trial in points:
        if trial.value is not None and (not found or trial.value > found[-1][1]):
            found.append((last, trial.value))
    shown = [(place, round(value, 5)) for place, value in found]
    return [*shown, (last, shown[-1][1])] if shown else []


def ends(trials: Sequence[TrialRecord]) -> list[float | None]:
    """Seconds until each trial ended. Only time in which at least one trial ran counts; pauses are left out."""
    joined = busy([span for trial in trials for span in spans(trial)])
    starts = np.array([start for start, _ in joined])
    lengths = np.array([end - start for start, end in joined])
    ended = [trial.ended for trial in trials]
    return [None if at is None else round(float(np.clip(at - starts, 0, lengths).sum()) / 1000, 1) for at in ended]


def spans(trial: TrialRecord) -> list[tuple[int, int]]:
    """When a trial ran, in milliseconds since 1970: from its start to its end, without its pauses. A pause lasts from
    the last evaluation or checkpoint that was kept until the trial went on."""
    paused = [at for pause in trial.pauses for at in pause]
    marks = [at for at in (trial.began, *paused, trial.ended) if at is not None]
    pairs = zip(marks[::2], marks[1::2], strict=False)  # a running trial has no end
    return [(start, max(start, end)) for start, end in pairs]  # not negative, even if the clock was set back


def busy(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of the spans, in order."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def axis(name: str, entry: Range | Sequence[Any], trials: Sequence[TrialRecord]) -> Axis:
    values = [trial.params.get(name) for trial in trials]
    if isinstance(entry, Range):
        scale = "log2" if entry.log2 else "log" if entry.log else "linear"
        numbers = [short(value) if isinstance(value, int | float) else None for value in values]
        known = [float(number) for number in (entry.low, entry.high, *numbers) if number is not None]
        return Axis(name, scale, min(known), max(known), [], numbers)
    choices = [_text(choice) for choice in entry]
    choices += sorted({_text(value) for value in values if value is not None} - set(choices))
    places = {choice: place for place, choice in enumerate(choices)}
    at = [None if value is None else float(places[_text(value)]) for value in values]
    return Axis(name, "choice", 0.0, len(choices) - 1.0, choices, at)


def _text(choice: Any) -> str:
    return ", ".join(map(str, choice)) if isinstance(choice, list | tuple) else str(choice)


def importances(study: StudyData) -> tuple[dict[str, float], str]:
    """How much each hyperparameter distinguishes the best tenth of the complete trials; or nothing, and why."""
    values = [trial.value for trial in study.trials if trial.state == TrialState.COMPLETE]
    if len(values) < ENOUGH:
        return {}, f"complete trials so far: {len(values)}; importance is worth a look from {ENOUGH} on"
    if len(set(values)) == 1:  # then all are the best tenth, and all shares are equal
        return {}, "the complete trials do not differ"
    # Not before it is needed: it takes two seconds to import, since it brings scikit-learn.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns if the best tenth is all trials
        found = get_param_importances(study.stored, evaluator=PedAnovaImportanceEvaluator())
    if not any(found.values()):
        return {}, "the complete trials do not differ enough"
    names = {f"log2_{name}": name for name in study.space} | {name: name for name in study.space}
    return {names.get(name, name): round(value, 4) for name, value in found.items()}, ""


def _value(trial: TrialRecord, curve: Sequence[float | None]) -> float | None:
    if trial.state == TrialState.COMPLETE:
        return short(trial.value)
    return max((value for value in curve if value is not None), default=None)


def short(value: Any) -> float | None:
    """The number in five digits, so that a page can hold 20,000 trials; None if it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
