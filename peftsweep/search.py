"""A study file's search in Optuna's terms: distributions, samplers, the pruner. No I/O of its own."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from peftsweep.config import Range, StudyConfig, TrainConfig, number_type
from peftsweep.errors import StudyFileError

Scalar = str | int | float | bool | None  # what Optuna stores
LARGEST_GRID = 100_000


def distributions(study: StudyConfig) -> dict[str, BaseDistribution]:
    """The space by Optuna's parameter names, for `study.ask(fixed_distributions=…)`.

    `rank: {low: 4, high: 64, log2: true}` becomes the whole number `log2_rank` from 2 to 6: unlike a list of choices
    it may be made wider when the study goes on.
    """
    return {_parameter(name, entry): _distribution(name, entry) for name, entry in study.space.items()}


def decode(study: StudyConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of `TrainConfig` from a trial's Optuna parameters; others than the space's are ignored."""
    sampled = {}
    for name, entry in study.space.items():
        parameter = _parameter(name, entry)
        if parameter in params:
            sampled[name] = _decoded(name, entry, params[parameter])
    return sampled


def complete(trial: Trial, wanted: Mapping[str, BaseDistribution]) -> None:
    """Sample the parameters that a trial lacks: its process died between asking for it and sampling them all."""
    for name, distribution in wanted.items():
        if name in trial.params:
            continue
        if isinstance(distribution, FloatDistribution):
            trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
        elif isinstance(distribution, IntDistribution):
            trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
        elif isinstance(distribution, CategoricalDistribution):
            trial.suggest_categorical(name, distribution.choices)


def trial_seed(study_seed: int, number: int) -> int:
    """A trial's own seed, below 2³²: the same in every process, unrelated between neighbouring trials and studies."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])


def replicate_seed(study_seed: int, replicate: int) -> int:
    """The seed of a configuration that is trained again, below 2³²: the same for all of them, and no trial's own.

    Args:
        replicate: counts from 1.
    """
    return int(np.random.SeedSequence([study_seed, replicate, 2]).generate_state(1)[0])


def sampler(study: StudyConfig, seen: int) -> BaseSampler:
    """The sampler of the study file.

    Args:
        seen: how many trials the study has already: the number of the trial to come. A part of the seed, so that a
            study that goes on does not sample its first trials again.
    """
    if study.search.sampler == "grid":
        return GridSampler(study)
    # a stream of its own: trial seeds take [seed, number], those of `replicate_seed` end in 2
    seed = int(np.random.SeedSequence([study.train.seed, seen, 1]).generate_state(1)[0])
    if study.search.sampler == "random":
        return RandomSampler(seed=seed)
    # Random trials before the model: a quarter of the study, for a pack of K begins with K of them anyway (running
    # trials have nothing to teach yet); never more than Optuna's own ten.
    startup = min(10, max(4, study.search.trials // 4))
    # A parameter whose range was made wider on the way leaves the joint model and is modelled alone from then on.
    return TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)


def grid(study: StudyConfig) -> dict[str, list[Scalar]]:
    """The values of each parameter, in Optuna's terms. Their product is the grid.

    Raises:
        StudyFileError: a range has no finite number of values, or the grid has more than `LARGEST_GRID` points.
    """
    values = {_parameter(name, entry): _values(study, name, entry) for name, entry in study.space.items()}
    if (size := math.prod(map(len, values.values()))) > LARGEST_GRID:
        raise StudyFileError(
            f"{study.path or study.name}: search.sampler: the grid has {size:,} points, more than {LARGEST_GRID:,}; "
            "give larger steps or shorter lists, or use random or tpe"
        )
    return values


def grid_size(study: StudyConfig) -> int:
    """How many points the grid has."""
    return math.prod(map(len, grid(study).values()))


def exhausted(study: StudyConfig, trials: Study) -> bool:
    """Whether every point of a grid has a trial, finished or running. Other samplers never end."""
    if study.search.sampler != "grid":
        return False
    points = grid(study)
    taken = _taken(trials, sorted(points))
    return all(point in taken for point in itertools.product(*(points[name] for name in sorted(points))))


class GridSampler(BaseSampler):
    """Every point of the grid once, in an order shuffled by the study's seed.

    Optuna's own calls `study.stop()`, which raises under ask-and-tell, and counts trials by their place in the grid, so
    that a range made wider would begin anew. This one looks at the parameters of the trials that exist.
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
        """The first point without a trial; the very first once there is none (ask `exhausted` before)."""
        taken = _taken(study, self._names)
        points = [self._points[i] for i in self._order]
        point = next((point for point in points if point not in taken), points[0])
        return dict(zip(self._names, point, strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"the grid has no parameter {param_name}")


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving (Li et al., 2020, https://arxiv.org/abs/1810.05934) for slots that run in step.

    At the evaluations `min_evals · reductionⁱ`, the rungs, a trial goes on if its score is among the best
    `max(1, n // reduction)` of the n that have come to this rung so far; equal scores go on together. Optuna's own
    pruner compares a trial with those that asked before it, so that in a pack the order of the calls would decide.

    Example:
        >>> [index for index in range(1, 30) if Halving(reduction=3, min_evals=1).is_rung(index)]
        [1, 3, 9, 27]
    """

    reduction: int = 3
    min_evals: int = 1

    def is_rung(self, index: int) -> bool:
        """Whether trials are pruned at the index-th evaluation (from 1)."""
        rung = self.min_evals
        while rung < index:
            rung *= self.reduction
        return rung == index

    def decide(self, at: Mapping[int, tuple[int, float]], study: Study) -> dict[int, bool]:
        """Which trials go on.

        Args:
            at: trial number -> (index of the evaluation it has just had, macro-F1), for all slots that were evaluated
                in this step and are to be decided about.
            study: where the values of all of them have been reported already.

        Returns:
            True for each trial that goes on. A score that is not finite never does.
        """
        rungs = {index for index, _ in at.values() if self.is_rung(index)}
        bars = {index: self._bar(index, study) for index in rungs}
        return {
            number: math.isfinite(score) and score >= bars.get(index, -math.inf)
            for number, (index, score) in at.items()
        }

    def _bar(self, index: int, study: Study) -> float:
        """The lowest score that passes the rung."""
        states = (TrialState.RUNNING, TrialState.PRUNED, TrialState.COMPLETE)
        trials = study.get_trials(deepcopy=False, states=states)
        reported = [t.intermediate_values[index] for t in trials if index in t.intermediate_values]
        scores = sorted((score if math.isfinite(score) else -math.inf for score in reported), reverse=True)
        return scores[max(1, len(scores) // self.reduction) - 1] if scores else -math.inf


def _parameter(name: str, entry: Range | Sequence[Any]) -> str:
    return f"log2_{name}" if isinstance(entry, Range) and entry.log2 else name


def _distribution(name: str, entry: Range | Sequence[Any]) -> BaseDistribution:
    if not isinstance(entry, Range):
        return CategoricalDistribution([_encoded(choice) for choice in entry])
    if entry.log2:
        return IntDistribution(_exponent(entry.low), _exponent(entry.high))
    if number_type(name) is int:
        return IntDistribution(int(entry.low), int(entry.high), log=entry.log, step=int(entry.step or 1))
    step = None if entry.step is None else float(entry.step)
    return FloatDistribution(float(entry.low), float(entry.high), log=entry.log, step=step)


def _values(study: StudyConfig, name: str, entry: Range | Sequence[Any]) -> list[Scalar]:
    if not isinstance(entry, Range):
        return [_encoded(choice) for choice in entry]
    if entry.log2:
        return list(range(_exponent(entry.low), _exponent(entry.high) + 1))
    whole = number_type(name) is int
    if entry.log or (entry.step is None and not whole):
        raise StudyFileError(f"{study.path or study.name}: space.{name}: a grid needs step, log2 or a list of values")
    return [int(value) if whole else float(value) for value in _steps(entry)]


def _steps(entry: Range) -> Iterator[Fraction]:
    """low, low + step, …, high, without the rounding of floats: a wider range has the same values."""
    low, high, step = (Fraction(str(number)) for number in (entry.low, entry.high, entry.step or 1))
    return (low + i * step for i in range(int((high - low) / step) + 1))


def _exponent(power: float) -> int:
    return math.frexp(power)[1] - 1


def _encoded(choice: Any) -> Scalar:
    """A choice as Optuna stores it: lists of module names as JSON text."""
    return json.dumps(list(choice)) if isinstance(choice, (list, tuple)) else choice


def _decoded(name: str, entry: Range | Sequence[Any], value: Any) -> Any:
    if isinstance(entry, Range):
        number = 2.0**value if entry.log2 else value
        return int(number) if number_type(name) is int else float(number)
    if isinstance(value, str) and value.startswith("["):
        return tuple(json.loads(value))
    return value


def _taken(study: Study, names: Sequence[str]) -> set[tuple[Any, ...]]:
    """The points that have a trial; one that was created and has no parameters yet has none."""
    trials = study.get_trials(deepcopy=False)
    return {tuple(t.params[name] for name in names) for t in trials if all(name in t.params for name in names)}


def candidates(study: StudyConfig, end: Literal["low", "high"] = "high") -> list[TrainConfig]:
    """Hyperparameters that bound what trials may ask for: one end of every range, with every choice once."""
    ends: dict[str, Any] = {}
    for name, entry in study.space.items():
        kind = number_type(name)
        if not isinstance(entry, Range):
            ends[name] = entry[0]
        elif kind is not None:
            ends[name] = kind(getattr(entry, end))
    bounds = [study.hyperparameters(ends)]
    for name, entry in study.space.items():
        if not isinstance(entry, Range):
            bounds += [study.hyperparameters(ends | {name: choice}) for choice in entry[1:]]
    return bounds
