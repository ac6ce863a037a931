"""How trials are drawn: the same whenever, and by whichever process."""

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
    """A trial's own seed, below 2³²: the same in every process, unrelated between neighbouring trials and studies."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])


def replicate_seed(study_seed: int, replicate: int) -> int:
    """The seed of a configuration that is trained again, below 2³²: the same for all of them, and no trial's own.

    Args:
        replicate: counts from 1.
    """
    return int(np.random.SeedSequence([study_seed, replicate, 2]).generate_state(1)[0])


def sampler(study: StudyConfig, number: int) -> BaseSampler:
    """The sampler of the study file, for the trial of this number.

    It is a part of the seed, so that a study that goes on does not sample its first trials again, and what a trial
    draws does not depend on how often the study was stopped before.
    """
    if study.search.sampler == "grid":
        return GridSampler(study)
    # a stream of its own: trial seeds take [seed, number], those of `replicate_seed` end in 2
    seed = int(np.random.SeedSequence([study.train.seed, number, 1]).generate_state(1)[0])
    if study.search.sampler == "random":
        return RandomSampler(seed=seed)
    # Random trials before the model: a quarter of the study, for a pack of K begins with K of them anyway (running
    # trials have nothing to teach yet); never more than Optuna's own ten.
    startup = min(10, max(4, study.search.trials // 4))
    # A parameter whose range was made wider on the way leaves the joint model and is modelled alone from then on.
    return TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)


def drawn(
    study: StudyConfig, trials: Study, trial: FrozenTrial, known: Mapping[str, Any], fixed: Collection[str] = ()
) -> dict[str, Any]:
    """All parameters of a trial, in the order of the space: the known ones, and for the others what it draws.

    Everything is drawn again that a process drew before it died, from the trial's own random stream and in the same
    order, so that the rest comes out as it would have there. TPE draws by the results of other trials, too: none may
    have been told between the ask and this.

    Args:
        trials: the study that the trial is in, as its sampler may see it.
        known: parameters that stay as they are.
        fixed: the names of those among them that were not drawn, but given.
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
    """The value of a distribution that has no other."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low
