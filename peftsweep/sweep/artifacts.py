"""A trial's folder: its adapter and reports when it is complete, its checkpoints while it runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial
from safetensors.torch import load_file

from peftsweep.charts import confusion_png
from peftsweep.config import StudyConfig
from peftsweep.data import Dataset
from peftsweep.engine import Result, Trial
from peftsweep.methods import Method
from peftsweep.models import Base


def write(
    trial: Trial, result: Result, config: StudyConfig, method: Method, base: Base, data: Dataset
) -> dict[str, Path]:
    """Write the adapter of a complete trial and the reports on it, and name them by their place in MLflow.

    The adapter is written aside and renamed: a folder that is there is whole.
    """
    assert result.weights is not None and result.logits is not None
    adapter = trial.folder / "adapter"
    aside = trial.folder / f".adapter.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    method.export(
        aside, weights=load_file(result.weights), params=trial.params, source=base.source, revision=base.revision
    )
    shutil.rmtree(adapter, ignore_errors=True)
    aside.rename(adapter)
    labels = np.asarray(data.validation.labels)
    classes = trial.folder / "per_class.json"
    classes.write_text(json.dumps(data.task.per_class(result.logits, labels), indent=1) + "\n")
    picture = trial.folder / "confusion_matrix.png"
    confusion_png(data.task.confusion(result.logits, labels), data.task.labels, picture)
    study = trial.folder / "study.yaml"
    study.write_text(config.text())
    return {"adapter": adapter, "per_class.json": classes, "confusion_matrix.png": picture, "study.yaml": study}


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints, whole and half, of a trial that has ended."""
    for old in [*folder.glob("checkpoint-*"), *folder.glob(".*")]:
        shutil.rmtree(old, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def keep_best(folder: Path, ranked: Sequence[FrozenTrial], count: int) -> None:
    """Remove the adapters of all but the best `count` trials."""
    for trial in ranked[count:]:
        shutil.rmtree(folder / f"trial-{trial.number:04d}" / "adapter", ignore_errors=True)
