"""How configurations did over several seeds: means, standard deviations, and intervals of the differences."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from statistics import fmean, stdev

from peftsweep.storage import Behind, Retrained, StoredStudy, TrialRecord
from peftsweep.trial_state import TrialState

CONFIDENCE = 0.95


def summarised(study: StoredStudy, seeds: StoredStudy) -> list[Retrained]:
    """Each configuration over its seeds. The best mean over the seeds that all of them have comes first; configurations
    with a failed seed, or with fewer than two complete ones, come last.

    Args:
        study: the configurations are trials of it.
        seeds: each trial of it has one of these configurations and a seed.
    """
    picked = {trial.number: trial for trial in complete(study.records())}
    groups: dict[int, list[TrialRecord]] = {}
    for seed in seeds_begun(seeds):
        if seed.retrains in picked:
            groups.setdefault(seed.retrains, []).append(seed)
    record, tested = study.record, seeds.record.test
    done = {number: complete(group) for number, group in groups.items()}
    failed = {number: sum(t.state.finished for t in group) - len(done[number]) for number, group in groups.items()}
    by_seed = {number: _by_seed(trials, record.objective) for number, trials in done.items()}
    late = {number: failed[number] > 0 or len(done[number]) < 2 for number in groups}
    seeds_of = [by_seed[number].keys() for number in groups if not late[number]]
    shared = set(seeds_of[0]).intersection(*seeds_of) if seeds_of else set()

    def mean(number: int) -> float:
        values = [value for seed, value in by_seed[number].items() if late[number] or seed in shared]
        return fmean(values) if values else -math.inf

    order = sorted(groups, key=lambda number: (late[number], -mean(number), number))
    behind = [None, *behind_first([by_seed[number] for number in order])]
    return [
        Retrained(
            trial=number,
            params=(own := picked[number]).params,
            sampled=sorted(record.config.space.keys() & own.params.keys()),
            objective=record.objective,
            picked=own.values[0],
            seeds=len(done[number]),
            failed=failed[number],
            figures=means([seed.scores for seed in done[number]]),
            shared=len(shared),
            behind=behind[place],
            test={**tested.scores, "seeds": tested.seeds} if tested and tested.trial == number else None,
        )
        for place, number in enumerate(order)
    ]


def seeds_begun(seeds: StoredStudy) -> list[TrialRecord]:
    """Trials of seeds that have begun. Waiting ones are leftovers of an earlier call; others are not seeds."""
    return [trial for trial in seeds.records() if trial.begun and is_seed(trial)]


def still_wanted(
    best: Sequence[TrialRecord], seeds: int, begun: Set[tuple[int | None, int | None]]
) -> tuple[Iterator[tuple[TrialRecord, int]], int]:
    """The seeds that are still to be trained, in turns of one for each configuration; and how many, maybe millions.

    Args:
        seeds: total number for each of the best.
        begun: the seeds that exist: number of the configuration's trial, and which seed it is.
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
    return {trial.replicate: trial.scores[objective] for trial in trials if trial.replicate is not None}


def means(scores: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Mean and standard deviation of each score: `macro_f1_mean`, `macro_f1_std` and so on. The deviation is the
    sample's; None for a single value. Both are None if a value is not finite."""
    found: dict[str, float | None] = {}
    for name in [name for name in scores[0] if all(name in each for each in scores)] if scores else ():
        values = [each[name] for each in scores]
        finite = all(map(math.isfinite, values))
        found[f"{name}_mean"] = fmean(values) if finite else None
        found[f"{name}_std"] = stdev(values) if finite and len(values) > 1 else None
    return found


def behind_first(configurations: Sequence[Mapping[int, float]]) -> list[Behind | None]:
    """How far each other configuration is behind the first: the mean difference seed by seed, and its interval.

    The intervals are simultaneous: at most five of 100 tables have an interval that misses its difference. They come
    from paired t-tests with Bonferroni's correction for all pairs of configurations, because the first one was chosen
    by the same seeds and so any pair could have been compared. Each pair has its own deviation, because one
    configuration may vary more between seeds than another.

    Args:
        configurations: scores by seed, the first configuration first.

    Returns:
        For each other configuration; None if it has fewer than two seeds in common with the first.
    """
    if not configurations:
        return []
    first, *others = configurations
    shared = [[(first[seed], other[seed]) for seed in sorted(first.keys() & other.keys())] for other in others]
    count = sum(len(scores) > 1 for scores in shared)
    return [_interval(scores, count * (count + 1) // 2) for scores in shared]


def _interval(scores: Sequence[tuple[float, float]], pairs: int) -> Behind | None:
    """The interval of a paired t-test over (first, other) scores."""
    if len(scores) < 2:
        return None
    from scipy.stats import ttest_rel  # half a second, and only finished seeds need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a difference that never varies has no t; its interval is a point
        found = ttest_rel(*zip(*scores, strict=True)).confidence_interval(1 - (1 - CONFIDENCE) / pairs)
    mean = fmean(first - other for first, other in scores)
    return Behind(mean=mean, low=float(found.low), high=float(found.high), seeds=len(scores), pairs=pairs)
