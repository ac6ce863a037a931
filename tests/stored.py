"""Add studies and trials to a storage as sweeps store them, without a base and without training."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from peftsweep.storage import StoredStudy, Studies, TrialRecord, fresh
from peftsweep.storage.attributes import read_trial

DATA = {"train": "train.csv", "validation": "dev.csv", "text": "text", "labels": "topic"}
CONFIG: dict[str, Any] = {"model": {"id": "base"}, "method": "lora", "data": DATA, "space": {"rank": [4, 8]}}


def add_study(url: str, name: str, **attrs: Any) -> StoredStudy:
    """Add a study without trials. `config` is merged into a small default."""
    studies = Studies(url)
    study = studies.create(name)
    known: dict[str, Any] = {"fingerprint": "rows", "experiment": "rows", "metric": "macro_f1", "labels": ["a", "b"]}
    config = CONFIG | attrs.pop("config", {})
    key, bound = fresh(name, studies.place)
    known |= {"key": key, "bound": bound.model_dump()}
    for key, value in {**known, **attrs, "config": config}.items():
        study.set_user_attr(key, value)
    return studies.load(name)


def trial_attrs(value: float | None, **attrs: Any) -> dict[str, Any]:
    """The attributes that a sweep stores with a trial of this macro-F1 (None: it was pruned or failed)."""
    scores = {} if value is None else {"macro_f1": value, "micro_f1": 0.8, "accuracy": 0.6, "jaccard": 0.5, "loss": 0.3}
    return {"params": {"rank": 8}, "seed": 0, "scores": scores, "step": 10, "parameters": 1, "reason": ""} | attrs


def evaluated(*scores: float) -> list[dict[str, Any]]:
    """Evaluations with these macro-F1 scores, one per epoch."""
    same = {"train_loss": 0.4, "learning_rate": 1e-3}
    return [
        {"index": i, "step": 10 * i, "epoch": float(i), "scores": {"macro_f1": score}, **same}
        for i, score in enumerate(scores, 1)
    ]


def retrained(trial: int, mean: float | None, std: float | None = 0.01, **changes: Any) -> dict[str, Any]:
    """A row that `retrain` stores in the study."""
    row = {"trial": trial, "params": {"rank": 8}, "sampled": ["rank"], "objective": "macro_f1", "picked": 0.7}
    row |= {"seeds": 3, "failed": 0, "shared": 3, "behind": None, "test": None}
    return row | {"macro_f1_mean": mean, "macro_f1_std": std} | changes


def add_trial(study: optuna.Study, value: float | None, state: TrialState = TrialState.COMPLETE, **attrs: Any) -> int:
    """Add a finished trial; returns its number."""
    trial = study.ask()
    for key, attr in trial_attrs(value, **attrs).items():
        trial.set_user_attr(key, attr)
    study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)
    return trial.number


def frozen_trial(value: float | None = None, state: TrialState | None = None, **attrs: Any) -> FrozenTrial:
    """A trial for `Study.add_trial`; by default complete if it has a value, else pruned."""
    if state is None:
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    return create_trial(state=state, value=value, user_attrs=trial_attrs(value, **attrs))


def record(trial: FrozenTrial) -> TrialRecord:
    trial.number = max(0, trial.number)  # a trial that is in no study yet has the number -1
    return read_trial(trial, "macro_f1")
