"""Which parameters a trial gets: those that a person gave it, those it drew, or drew again after a process died."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from peftsweep.config import StudyConfig, TrainConfig
from peftsweep.errors import StorageError
from peftsweep.safe_text.quoting import quoted
from peftsweep.storage import Studies, TrialRecord, enqueued_with
from peftsweep.study import enqueued, samplers, space

MOST = 4  # reasons named in one line


class UntrainableError(Exception):
    """Why a trial cannot be trained, in a line."""

    def __init__(self, reasons: list[str]) -> None:
        more = f"; and {len(reasons) - MOST} more" if len(reasons) > MOST else ""
        super().__init__("; ".join(reasons[:MOST]) + more)


def complete(studies: Studies, config: StudyConfig, trial: optuna.Trial, known: Mapping[str, Any]) -> dict[str, Any]:
    """Give a trial the parameters that it lacks, store them, and return all.

    Args:
        known: hyperparameters that an earlier process recorded.

    Raises:
        UntrainableError: it was enqueued, or made by another program, with parameters outside the space.
    """
    stored = trial.storage.get_trial(trial._trial_id)
    queued = enqueued_with(stored)
    if not isinstance(queued, dict):
        raise UntrainableError([f"it was enqueued with {quoted(queued)} in place of parameters by name"])
    fixed, wrong = enqueued.given(config, queued)
    own, others = enqueued.given(config, stored.params)
    differing = [name for name in fixed.keys() & own.keys() if fixed[name] != own[name]]
    reasons = wrong + others + [f"{name}: enqueued with {fixed[name]}, stored with {own[name]}" for name in differing]
    if reasons:
        raise UntrainableError(list(dict.fromkeys(reasons)))
    before, _ = enqueued.given(config, {name: known[name] for name in config.space if name in known})
    params = samplers.drawn(config, trial.study, stored, before | fixed | own, fixed)
    for name, distribution in space.distributions(config).items():
        if name not in stored.params:
            studies.give(trial, name, params[name], distribution)
    return params


def trained(config: StudyConfig, trial: TrialRecord) -> TrainConfig:
    """The hyperparameters of a trial that has been trained.

    Raises:
        StorageError: the parameters in the database are not in the study's space.
    """
    params, wrong = enqueued.given(config, trial.drawn)
    sampled = space.decode(config, params)
    wrong += [f"{name}: missing" for name in config.space if name not in sampled and not wrong]
    if wrong:
        raise StorageError(
            f"study {quoted(config.name)}: the parameters of trial {trial.number} cannot be read "
            f"({UntrainableError(wrong)}); restore the database from a copy"
        )
    return config.hyperparameters(sampled)
