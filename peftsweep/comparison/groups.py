"""Studies with the same validation rows, which alone can be compared: how surely, class by class, at what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from peftsweep.comparison.reading import Held, Predicted
from peftsweep.report import common_objective, task_of
from peftsweep.task import resampled_macro_f1

SEED = 20260101  # the same page for the same studies
DRAWS = 50_000_000  # of rows at most: seconds
LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
FEW = 10  # rows of a class, below which a resample often has none


@dataclass(frozen=True)
class Pair:
    """The best trials of two studies on the same validation rows, by the paired bootstrap.

    Attributes:
        difference: of `score`, the first study's less the second's; `low` and `high` bound its 95 % interval.
        p: that they differ by chance, two-sided: see `p_value`.
        p_holm: corrected by Holm's method for all pairs of these studies.
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
        data: what their data is called: several names where they were trained, or tested, on different rows.
        score: by which they are compared: `macro_f1`, or `macro_f1_tuned` where it is the objective of all.
        studies: with a complete trial, best first.
        rows: validation rows.
        resamples: that the intervals and tests are made of.
        intervals: 95 %, by score and study.
        rare: labels that fewer than ten validation rows have: the resamples say little of those.
        pairs: all tested ones, the better study first, the best ones first.
        untested: why a study with a complete trial is in no pair.
        per_class: F1 of each label, by study.
        cheapest, smallest: studies that no other beats in both score and seconds, or score and trainable parameters.
    """

    data: list[str]
    validation_fingerprint: str
    kind: str | None
    score: str
    studies: list[str]
    rows: int | None
    resamples: int
    intervals: dict[str, dict[str, tuple[float, float]]]
    rare: list[str]
    pairs: list[Pair]
    untested: dict[str, str]
    labels: list[str]
    per_class: dict[str, list[float | None]]
    cheapest: list[str]
    smallest: list[str]


def group(helds: Sequence[Held]) -> Group:
    """What there is to say of studies whose validation rows have one fingerprint."""
    score = common_objective(held.objective for held in helds)
    scores = {held.name: own.scores for held in helds if (own := held.best) is not None}
    best = {name: own[score] for name, own in scores.items()}
    ranks = sorted(best, key=lambda name: (-best[name], name))
    by_name = {held.name: held for held in helds}
    ranked = [by_name[name] for name in ranks]
    usable, untested = _usable(ranked)
    intervals, pairs, count = _tested(usable, score, scores)
    known = by_name[next(iter(usable))].record if usable else helds[0].record
    labels = list(known.labels)
    truth = next((predicted.truth for predicted in usable.values()), None)
    per_class = {held.name: held.per_class for held in ranked}
    seconds = {held.name: sum(trial.seconds or 0.0 for trial in held.trials) for held in ranked}
    sizes = {held.name: float(held.best.parameters) for held in ranked if held.best and held.best.parameters}
    return Group(
        data=sorted({held.record.experiment for held in helds}),
        validation_fingerprint=helds[0].validation_fingerprint,
        kind=task_of(known).kind,
        score=score,
        studies=ranks,
        rows=None if truth is None else len(truth),
        resamples=count,
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
    """Those that no other beats: the Pareto front, cheapest first. Of equals in both, all."""
    found: list[str] = []
    bar = -np.inf
    for name in sorted(costs, key=lambda name: (costs[name], -scores[name])):
        equal = bool(found) and (costs[name], scores[name]) == (costs[found[-1]], scores[found[-1]])
        if scores[name] > bar or equal:
            found.append(name)
            bar = scores[name]
    return found


def _usable(ranked: Sequence[Held]) -> tuple[dict[str, Predicted], dict[str, str]]:
    """Predictions of the same rows, by study; and why the others have none."""
    usable: dict[str, Predicted] = {}
    untested: dict[str, str] = {}
    for held in ranked:
        found = held.predicted
        if isinstance(found, str):
            untested[held.name] = found
        elif usable and not np.array_equal(found.truth, next(iter(usable.values())).truth):
            untested[held.name] = "its validation rows are in another order, or have other labels"
        else:
            usable[held.name] = found
    return usable, untested


def _tested(
    usable: Mapping[str, Predicted], score: str, scores: Mapping[str, Mapping[str, float]]
) -> tuple[dict[str, dict[str, tuple[float, float]]], list[Pair], int]:
    if not usable:
        return {}, [], 0
    truth = next(iter(usable.values())).truth
    count = resamples(len(truth))
    drawn: dict[str, dict[str, NDArray[np.float64]]] = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    every = set.intersection(*(set(found.guesses) for found in usable.values()))
    for each in sorted(every):
        guesses = [found.guesses[each] for found in usable.values()]
        drawn[each] = dict(zip(usable, resampled_macro_f1(truth, guesses, count, SEED), strict=True))
        intervals[each] = {name: interval(drawn[each][name], scores[name][each]) for name in usable}
    pairs = [
        _pair(one, other, score, scores[one][score] - scores[other][score], drawn[score][one] - drawn[score][other])
        for one, other in combinations(usable, 2)
    ]
    corrected = holm([pair.p for pair in pairs])
    return intervals, [replace(pair, p_holm=p) for pair, p in zip(pairs, corrected, strict=True)], count


def _pair(first: str, second: str, score: str, difference: float, drawn: NDArray[np.float64]) -> Pair:
    low, high = interval(drawn, difference, bounds=(-1, 1))
    p = p_value(drawn, difference)
    return Pair(first, second, score, float(difference), low, high, p, p)


def resamples(rows: int) -> int:
    """Ten thousand, with which p-values of 0.0002 can be told; fewer where the rows are many."""
    return int(min(10_000, max(1_000, DRAWS // rows)))


def interval(drawn: NDArray[np.float64], found: float, bounds: tuple[float, float] = (0, 1)) -> tuple[float, float]:
    """The basic bootstrap interval (Davison and Hinkley, 1997, section 5.2), widened to hold what was found.

    A class that is in no row of a resample counts as nought there, so with rare classes all resamples score too low.
    Percentiles of them would be as much too low; mirrored at what was found, they allow for it.
    """
    low, high = 2 * found - np.percentile(drawn, LEVEL[::-1])
    return float(max(bounds[0], min(low, found))), float(min(bounds[1], max(high, found)))


def p_value(drawn: NDArray[np.float64], found: float) -> float:
    """Two-sided, of a difference, from its resamples less itself: the same mirror as that of the interval.

    Where no resample is as far from it as nought, their number alone would bound p, too high to be corrected for many
    pairs; the tail of a normal distribution with their spread takes its place. Without a spread, the bound stays.
    """
    below, above = int((drawn <= 2 * found).sum()), int((drawn >= 2 * found).sum())
    beyond, error = min(below, above), float(drawn.std())
    bound = min(1.0, 2 * (beyond + 1) / (len(drawn) + 1))
    return bound if beyond or not error else min(bound, math.erfc(abs(found) / error / math.sqrt(2)))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of p-values that are looked at together."""
    corrected = [0.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected
