"""Configurations over several seeds: mean and standard deviation of each score, and how surely the first leads."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from statistics import fmean, stdev
from typing import Any

from peftsweep.storage import StoredStudy, TrialRecord, TrialState

CONFIDENCE = 0.95


def summarised(study: StoredStudy, seeds: StoredStudy) -> list[dict[str, Any]]:
    """A row for each configuration, the best mean over the seeds that all have first. Those of which a seed failed, or
    fewer than two are complete, come after the others.

    Args:
        study: whose trials the configurations are.
        seeds: whose trials each have one of these configurations and a seed.

    Returns:
        Rows of plain values. `trial` is the study's, `picked` the score by which it was picked there; `seeds` counts
        those that are complete, over which `macro_f1_mean`, `macro_f1_std` and so on are; `shared` those by which the
        first was found; `behind` says how far it is behind the first, seed by seed (see `behind_first`); `test` has the
        same figures on the test split.
    """
    picked = {trial.number: trial for trial in complete(study.records())}
    groups: dict[int, list[TrialRecord]] = {}
    for seed in seeds_begun(seeds):
        if seed.retrains in picked:
            groups.setdefault(seed.retrains, []).append(seed)
    record, tested = study.record, seeds.record.test
    objective, space = record.objective, record.config.space
    rows: list[dict[str, Any]] = [
        {
            "trial": number,
            "params": (own := picked[number].params),
            "sampled": sorted(space.keys() & own.keys()),
            "objective": objective,
            "picked": picked[number].value,
            "seeds": len(done := complete(group)),
            "failed": sum(trial.state.finished for trial in group) - len(done),
            **means([seed.scores for seed in done]),
            "shared": 0,
            "behind": None,
            "test": tested.scores | {"seeds": tested.seeds} if tested and tested.trial == number else None,
        }
        for number, group in groups.items()
    ]
    by_seed = {number: _by_seed(group, objective) for number, group in groups.items()}
    late = {row["trial"]: row["failed"] > 0 or row["seeds"] < 2 for row in rows}
    seeds_of = [by_seed[number].keys() for number in by_seed if not late[number]]
    shared = set(seeds_of[0]).intersection(*seeds_of) if seeds_of else set()

    def mean(number: int) -> float:
        values = [value for seed, value in by_seed[number].items() if late[number] or seed in shared]
        return fmean(values) if values else -math.inf

    rows.sort(key=lambda row: (late[row["trial"]], -mean(row["trial"]), row["trial"]))
    for row in rows:
        row["shared"] = len(shared)
    ordered = [by_seed[row["trial"]] for row in rows]
    for row, behind in zip(rows[1:], behind_first(ordered), strict=True):
        row["behind"] = behind
    return rows


def seeds_begun(seeds: StoredStudy) -> list[TrialRecord]:
    """Those that wait were wanted by an earlier call; others that are no seeds did not come from one."""
    return [trial for trial in seeds.records() if trial.begun and is_seed(trial)]


def still_wanted(
    best: Sequence[TrialRecord], seeds: int, begun: Set[tuple[int | None, int | None]]
) -> tuple[Iterator[tuple[TrialRecord, int]], int]:
    """The seeds that are to begin, one of each configuration after the other, and how many they are, maybe millions.

    Args:
        seeds: for each of the best in all.
        begun: the configuration's trial and the seed's count of those that are there.
    """
    wanted = ((trial, replicate) for replicate in range(1, seeds + 1) for trial in best)
    numbers = {trial.number for trial in best}
    there = sum(number in numbers and replicate in range(1, seeds + 1) for number, replicate in begun)
    return (each for each in wanted if (each[0].number, each[1]) not in begun), seeds * len(best) - there


def is_seed(trial: TrialRecord) -> bool:
    """Whether a trial is a seed of a configuration."""
    return trial.retrains is not None and trial.replicate is not None


def complete(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def _by_seed(trials: Sequence[TrialRecord], objective: str) -> dict[int, float]:
    return {trial.replicate: trial.scores[objective] for trial in complete(trials) if trial.replicate is not None}


def means(scores: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """`macro_f1_mean` and `macro_f1_std` of the scores' `macro_f1`, and so on. The deviation is the sample's, None of
    one."""
    found: dict[str, float | None] = {}
    for name in [name for name in scores[0] if all(name in each for each in scores)] if scores else ():
        values = [each[name] for each in scores]
        found |= {f"{name}_mean": fmean(values), f"{name}_std": stdev(values) if len(values) > 1 else None}
    return found


def behind_first(configurations: Sequence[Mapping[int, float]]) -> list[dict[str, float] | None]:
    """How far each of the others is behind the first: the mean of the differences seed by seed, and its interval.

    The intervals are simultaneous: of each 100 tables, some interval misses its difference in five at most. They are
    those of paired t-tests, corrected by Bonferroni's method for all pairs of configurations. That many could have been
    looked at: which one is the first was found by the same seeds. Each pair's deviation is its own, for one
    configuration may vary more from seed to seed than another.

    Args:
        configurations: scores by seed of each, the first one first.

    Returns:
        Of each other one: mean, low, high, seeds (that both have), pairs (corrected for); None where they do not have
        two seeds in common.
    """
    if not configurations:
        return []
    first, *others = configurations
    shared = [[(first[seed], other[seed]) for seed in sorted(first.keys() & other.keys())] for other in others]
    count = sum(len(scores) > 1 for scores in shared)
    return [_interval(scores, count * (count + 1) // 2) for scores in shared]


def _interval(scores: Sequence[tuple[float, float]], pairs: int) -> dict[str, float] | None:
    """The interval of a paired t-test over (first, other) scores."""
    if len(scores) < 2:
        return None
    from scipy.stats import ttest_rel  # half a second, and only finished seeds need it

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # scores that differ by the same from seed to seed have no t; their interval is a point
        found = ttest_rel(*zip(*scores, strict=True)).confidence_interval(1 - (1 - CONFIDENCE) / pairs)
    mean = fmean(first - other for first, other in scores)
    return {"mean": mean, "low": float(found.low), "high": float(found.high), "seeds": len(scores), "pairs": pairs}
