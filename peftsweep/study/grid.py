"""The grid of a search space: its size, its points, and the sampler that takes each once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from peftsweep.config import Range, StudyConfig, number_type
from peftsweep.errors import StudyFileError
from peftsweep.study.space import Scalar, distributions, encoded, exponent, parameter

LARGEST_GRID = 100_000


def grid(study: StudyConfig) -> dict[str, list[Scalar]]:
    """The values of each parameter, by Optuna's name. The grid is their product.

    Raises:
        StudyFileError: a range has no finite number of values, or the grid has more than `LARGEST_GRID` points.
    """
    values = {parameter(name, entry): _values(study, name, entry) for name, entry in study.space.items()}
    if (size := math.prod(map(len, values.values()))) > LARGEST_GRID:
        raise StudyFileError(
            f"{study.path or study.name}: search.sampler: the grid has {size:,} points, more than {LARGEST_GRID:,}; "
            "give larger steps or shorter lists, or use random or tpe"
        )
    return values


def total(study: StudyConfig, trials: int | None) -> int:
    """Number of trials that a study shall have: as many as the grid has points, at most.

    Args:
        trials: as asked for in place of `search.trials`.
    """
    wanted = study.search.trials if trials is None else trials
    return wanted if study.search.sampler != "grid" else min(wanted, grid_size(study))


def grid_size(study: StudyConfig) -> int:
    """Number of points in the grid."""
    return math.prod(map(len, grid(study).values()))


def exhausted(study: StudyConfig, trials: Study) -> bool:
    """Whether every point of the grid has a trial, finished or running. Always False for other samplers."""
    if study.search.sampler != "grid":
        return False
    points = grid(study)
    taken = _taken(trials, sorted(points))
    return all(point in taken for point in itertools.product(*(points[name] for name in sorted(points))))


class GridSampler(BaseSampler):
    """Takes every point of the grid once, in an order shuffled with the study's seed.

    Optuna's own `GridSampler` calls `study.stop()`, which raises an error with ask and tell. It also numbers trials by
    their place in the grid, so a wider range would start over. This one looks at the parameters of existing trials.
    """

    def __init__(self, study: StudyConfig) -> None:
        points = grid(study)
        self._names = sorted(points)
        self._points = list(itertools.product(*(points[name] for name in self._names)))
        self._order = np.random.default_rng(study.train.seed).permutation(len(self._points))
        self._distributions = distributions(study)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The first point without a trial that agrees with the trial's known parameters. If each of these has a trial
        (see `exhausted`), the first of them; if no point agrees, the same among all points."""
        taken = _taken(study, self._names)
        points = [dict(zip(self._names, self._points[i], strict=True)) for i in self._order]
        agreeing = [point for point in points if point.items() >= trial.params.items()] or points
        return next((point for point in agreeing if tuple(point.values()) not in taken), agreeing[0])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"the grid has no parameter {param_name}")


def _values(study: StudyConfig, name: str, entry: Range | Sequence[Any]) -> list[Scalar]:
    if not isinstance(entry, Range):
        return [encoded(choice) for choice in entry]
    if entry.log2:
        return list(range(exponent(entry.low), exponent(entry.high) + 1))
    whole = number_type(study.method, name) is int
    if entry.log or (entry.step is None and not whole):
        raise StudyFileError(f"{study.path or study.name}: space.{name}: a grid needs step, log2 or a list of values")
    return [int(value) if whole else float(value) for value in _steps(entry)]


def _steps(entry: Range) -> Iterator[Fraction]:
    """low, low + step, …, high, in exact arithmetic: a wider range contains the same values."""
    low, high, step = (Fraction(str(number)) for number in (entry.low, entry.high, entry.step or 1))
    return (low + i * step for i in range(int((high - low) / step) + 1))


def _taken(study: Study, names: Sequence[str]) -> set[tuple[Any, ...]]:
    """The points that have a trial. A trial without parameters is at no point yet."""
    trials = study.get_trials(deepcopy=False)
    return {tuple(t.params[name] for name in names) for t in trials if all(name in t.params for name in names)}
