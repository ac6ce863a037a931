"""How do studies with the same validation rows compare in score, significance, F1 of each class, and cost?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from peftsweep.comparison.significance import Counted, difference, interval
from peftsweep.comparison.study_data import Predicted, StudyData
from peftsweep.study.best_rows import common_objective
from peftsweep.study.results import task_of

TUNED = "macro_f1_tuned"
FEW = 3  # rows of a class; with fewer, intervals and tests were not measured to hold (benchmarks/intervals.py)


@dataclass(frozen=True)
class Pair:
    """The best trials of two studies on the same validation rows.

    Attributes:
        difference: the first study's `score` less the second's; `low` and `high` bound its 95 % interval.
        p: two-sided p-value of the difference; see `significance.difference`.
        p_holm: p, corrected by Holm's method for all pairs of the group.
    """

    first: str
    second: str
    score: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Group:
    """Studies on the same validation rows.

    Attributes:
        data: names of their data; several if they were trained or tested on different rows.
        score: the score that compares them: `macro_f1`, or `macro_f1_tuned` if that is the objective of all.
        studies: those with a complete trial, the best first.
        rows: number of validation rows.
        intervals: 95 % intervals by score and study.
        rare: labels that fewer than three validation rows have.
        pairs: all pairs that were tested, the better study first in each.
        untested: for each study with a complete trial that is in no pair, the reason.
        per_class: F1 of each label, by study.
        cheapest, smallest: the Pareto fronts of score and seconds, and of score and trainable parameters.
    """

    data: list[str]
    validation_fingerprint: str
    kind: str | None
    score: str
    studies: list[str]
    rows: int | None
    intervals: dict[str, dict[str, tuple[float, float]]]
    rare: list[str]
    pairs: list[Pair]
    untested: dict[str, str]
    labels: list[str]
    per_class: dict[str, list[float | None]]
    cheapest: list[str]
    smallest: list[str]


def group(studies: Sequence[StudyData]) -> Group:
    """Compare studies whose validation rows have the same fingerprint."""
    score = common_objective(study.objective for study in studies)
    scores = {study.name: own.scores for study in studies if (own := study.best) is not None}
    best = {name: own[score] for name, own in scores.items()}
    ranks = sorted(best, key=lambda name: (-best[name], name))
    by_name = {study.name: study for study in studies}
    ranked = [by_name[name] for name in ranks]
    usable, untested = _usable(ranked)
    intervals, pairs = _tested(usable, score, scores)
    known = by_name[next(iter(usable))].record if usable else studies[0].record
    labels = list(known.labels)
    truth = next((predicted.truth for predicted in usable.values()), None)
    per_class = {study.name: study.per_class for study in ranked}
    seconds = {study.name: sum(trial.seconds or 0.0 for trial in study.trials) for study in ranked}
    sizes = {study.name: float(study.best.parameters) for study in ranked if study.best and study.best.parameters}
    return Group(
        data=sorted({study.record.data for study in studies}),
        validation_fingerprint=studies[0].validation_fingerprint,
        kind=task_of(known).kind,
        score=score,
        studies=ranks,
        rows=None if truth is None else len(truth),
        intervals=intervals,
        rare=[] if truth is None else [label for label, n in zip(labels, truth.sum(axis=0), strict=True) if n < FEW],
        pairs=pairs,
        untested=untested,
        labels=labels,
        per_class={name: [f1.get(label) for label in labels] for name, f1 in per_class.items() if f1 is not None},
        cheapest=front(seconds, best),
        smallest=front(sizes, best),
    )


def front(costs: Mapping[str, float], scores: Mapping[str, float]) -> list[str]:
    """The Pareto front: names that no other beats in both cost and score, the cheapest first, with all equal ones."""
    found: list[str] = []
    bar = -np.inf
    for name in sorted(costs, key=lambda name: (costs[name], -scores[name])):
        equal = bool(found) and (costs[name], scores[name]) == (costs[found[-1]], scores[found[-1]])
        if scores[name] > bar or equal:
            found.append(name)
            bar = scores[name]
    return found


def _usable(ranked: Sequence[StudyData]) -> tuple[dict[str, Predicted], dict[str, str]]:
    """The studies' predictions of the same rows, and for each other study why it has none."""
    usable: dict[str, Predicted] = {}
    untested: dict[str, str] = {}
    for study in ranked:
        found = study.predicted
        if isinstance(found, str):
            untested[study.name] = found
        elif usable and not np.array_equal(found.truth, next(iter(usable.values())).truth):
            untested[study.name] = "its validation rows are in another order, or have other labels"
        else:
            usable[study.name] = found
    return usable, untested


def _tested(
    usable: Mapping[str, Predicted], score: str, scores: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, dict[str, tuple[float, float]]], list[Pair]]:
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    for name, found in usable.items():
        for each, guess in found.guesses.items():
            own = interval(Counted.of(found.truth, guess), tuned=each == TUNED)
            intervals.setdefault(each, {})[name] = own
    counted = {name: Counted.of(found.truth, found.guesses[score]) for name, found in usable.items()}
    pairs = []
    for one, other in combinations(usable, 2):
        low, high, p = difference(counted[one], counted[other], tuned=score == TUNED)
        pairs.append(Pair(one, other, score, float(scores[one][score] - scores[other][score]), low, high, p, p))
    corrected = holm([pair.p for pair in pairs])
    return intervals, [replace(pair, p_holm=p) for pair, p in zip(pairs, corrected, strict=True)]


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) for several p-values."""
    corrected = [0.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected
