"""Studies of the same data, which alone can be compared: how surely, class by class, at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from peftsweep.comparison.reading import Held, Predicted
from peftsweep.report import task_of
from peftsweep.task import resampled_macro_f1

SEED = 20260101  # the same page for the same studies
DRAWS = 50_000_000  # of rows at most: seconds
LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass(frozen=True)
class Pair:
    """The best trials of two studies on the same validation rows, by the paired bootstrap.

    Attributes:
        difference: of `score`, the first study's less the second's; `low` and `high` bound its 95 % interval.
        p: that they differ by chance, two-sided: twice the share of resamples in which the sign is the other one.
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
    """Studies on the same rows.

    Attributes:
        score: by which they are compared: `macro_f1`, or `macro_f1_tuned` where it is the objective of all.
        studies: with a complete trial, best first.
        rows: validation rows.
        resamples: that the intervals and tests are made of.
        intervals: of `macro_f1`, 95 %, by study.
        pairs: all tested ones, the better study first, the best ones first.
        untested: why a study with a complete trial is in no pair.
        per_class: F1 of each label, by study.
        cheapest, smallest: studies that no other beats in both score and seconds, or score and trainable parameters.
    """

    data: str | None
    fingerprint: str | None
    kind: str | None
    score: str
    studies: list[str]
    rows: int | None
    resamples: int
    intervals: dict[str, tuple[float, float]]
    pairs: list[Pair]
    untested: dict[str, str]
    labels: list[str]
    per_class: dict[str, list[float | None]]
    cheapest: list[str]
    smallest: list[str]


def group(helds: Sequence[Held]) -> Group:
    """What there is to say of studies with one fingerprint."""
    objectives = {held.objective for held in helds}
    score = objectives.pop() if len(objectives) == 1 else "macro_f1"
    best = {held.name: own.user_attrs["scores"][score] for held in helds if (own := held.best) is not None}
    ranks = sorted(best, key=lambda name: (-best[name], name))
    by_name = {held.name: held for held in helds}
    ranked = [by_name[name] for name in ranks]
    usable, untested = _usable(ranked)
    intervals, pairs, count = _tested(usable, score, best)
    known = next((held for held in helds if held.known), None)
    labels = [] if known is None else list(known.attrs["labels"])
    per_class = {held.name: held.per_class for held in ranked}
    seconds = {held.name: sum(float(t.user_attrs.get("seconds", 0)) for t in held.trials) for held in ranked}
    sizes = {held.name: float(held.best.user_attrs["parameters"]) for held in ranked if held.best is not None}
    return Group(
        data=None if known is None else known.attrs.get("experiment"),
        fingerprint=None if known is None else known.fingerprint,
        kind=None if known is None else task_of(known.attrs).kind,
        score=score,
        studies=ranks,
        rows=next((len(predicted.truth) for predicted in usable.values()), None),
        resamples=count,
        intervals=intervals,
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
    usable: Mapping[str, Predicted], score: str, best: Mapping[str, float]
) -> tuple[dict[str, tuple[float, float]], list[Pair], int]:
    if not usable:
        return {}, [], 0
    truth = next(iter(usable.values())).truth
    count = resamples(len(truth))
    plain = resampled_macro_f1(truth, [found.guesses["macro_f1"] for found in usable.values()], count, SEED)
    intervals = {name: interval(scores) for name, scores in zip(usable, plain, strict=True)}
    if len(usable) < 2:
        return intervals, [], count
    drawn = plain
    if score != "macro_f1":
        drawn = resampled_macro_f1(truth, [found.guesses[score] for found in usable.values()], count, SEED)
    pairs = [
        _pair(first, second, score, best[first] - best[second], one - other)
        for (first, one), (second, other) in combinations(zip(usable, drawn, strict=True), 2)
    ]
    corrected = holm([pair.p for pair in pairs])
    return intervals, [replace(pair, p_holm=p) for pair, p in zip(pairs, corrected, strict=True)], count


def _pair(first: str, second: str, score: str, difference: float, drawn: NDArray[np.float64]) -> Pair:
    low, high = interval(drawn)
    p = p_value(drawn)
    return Pair(first, second, score, float(difference), low, high, p, p)


def resamples(rows: int) -> int:
    """Ten thousand, with which p-values of 0.0002 can be told; fewer where the rows are many."""
    return int(min(10_000, max(1_000, DRAWS // rows)))


def interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(drawn, LEVEL)
    return float(low), float(high)


def p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided, of differences over resamples. Never nought: the sample itself counts as one more resample."""
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(differences) + 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of p-values that are looked at together."""
    corrected = [0.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected
