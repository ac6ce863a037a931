"""How a trial's seed and hyperparameters are drawn: always the same, whichever process draws them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from peftsweep.config import StudyConfig
from peftsweep.study.grid import GridSampler
from peftsweep.study.space import distributions


def trial_seed(study_seed: int, number: int) -> int:
    """The seed of a trial, below 2³²: the same in every process, and unrelated to those of other trials and studies."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])


def replicate_seed(study_seed: int, replicate: int) -> int:
    """The seed of a retrained configuration, below 2³²: the same for all configurations, and no trial has it.

    Args:
        replicate: counts from 1.
    """
    return int(np.random.SeedSequence([study_seed, replicate, 2]).generate_state(1)[0])


def sampler(study: StudyConfig, number: int) -> BaseSampler:
    """The study file's sampler, for the trial with this number.

    The number is part of the seed. So a resumed study does not draw its first trials again, and a trial's draw does not
    depend on how often the study was stopped.
    """
    if study.search.sampler == "grid":
        return GridSampler(study)
    # a stream of its own: `trial_seed` takes [seed, number], and `replicate_seed` ends in 2
    seed = int(np.random.SeedSequence([study.train.seed, number, 1]).generate_state(1)[0])
    if study.search.sampler == "random":
        return RandomSampler(seed=seed)
    # Random trials before TPE's model: a quarter of the study, at most Optuna's default of ten. A pack of K starts with
    # K random trials anyway, because running trials have no results to learn from yet.
    startup = min(10, max(4, study.search.trials // 4))
    # A parameter whose range was widened later leaves the joint model, and is modelled alone from then on.
    return TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)


def drawn(
    study: StudyConfig, trials: Study, trial: FrozenTrial, known: Mapping[str, Any], fixed: Collection[str] = ()
) -> dict[str, Any]:
    """All parameters of a trial in the order of the space: known ones as they are, the others drawn.

    What a process drew before it died is drawn again, from the trial's own random stream and in the same order, so that
    the rest comes out as it would have there. TPE also draws by other trials' results: none may have been told to the
    study since the trial was asked for.

    Args:
        trials: the study, as the sampler may see it.
        known: parameters that stay as they are.
        fixed: names of known parameters that were given, not drawn.
    """
    wanted = distributions(study)
    if wanted.keys() <= known.keys():
        return {name: known[name] for name in wanted}
    drawing, blank = sampler(study, trial.number), copy.copy(trial)
    blank.params = dict(known)
    together = drawing.sample_relative(trials, blank, drawing.infer_relative_search_space(trials, blank))
    found: dict[str, Any] = {}
    for name, distribution in wanted.items():
        if name in fixed:
            continue
        if distribution.single():
            found[name] = _only(distribution)
        elif name in together:
            found[name] = together[name]
        else:
            found[name] = drawing.sample_independent(trials, blank, name, distribution)
    return {name: known[name] if name in known else found[name] for name in wanted}


def _only(distribution: BaseDistribution) -> Any:
    """The only value of a distribution that has one."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low
