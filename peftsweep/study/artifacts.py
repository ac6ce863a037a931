"""How a trial's folder is written and tidied: its checkpoints while it runs, then its adapter and reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from peftsweep.charts import confusion_png
from peftsweep.config import StudyConfig
from peftsweep.data import Dataset
from peftsweep.engine import Result, Trial
from peftsweep.methods import Method
from peftsweep.models import BaseInfo
from peftsweep.storage import TrialRecord
from peftsweep.study.trial_files import ADAPTER, CLASSES, PREDICTIONS, VALIDATION, trial_folder
from peftsweep.system import plain_files
from peftsweep.system.atomic_files import replaced
from peftsweep.system.folders import remove
from peftsweep.system.umask import umask_permissions
from peftsweep.tracking import now

PICTURE, STUDY = "confusion_matrix.png", "study.yaml"


def write(
    trial: Trial,
    result: Result,
    config: StudyConfig,
    method: Method,
    base: BaseInfo,
    data: Dataset,
    warn: Callable[[str], object],
    *,
    best: bool,
) -> Path | None:
    """Write the reports on a complete trial, and its study's files if somebody has deleted them.

    If it is among the best, also write its adapter and draw its confusion matrix. Both take long, and the adapter of
    any other trial would be removed at once.

    Args:
        warn: called with a line if the confusion matrix cannot be drawn, and so is skipped.

    Returns:
        The adapter's folder. It is written aside and renamed, so a folder that exists is whole.
    """
    assert result.logits is not None
    restore_study(trial.folder.parent, config, data)
    labels = np.asarray(data.validation.labels)
    if best:
        assert result.weights is not None
        with replaced(trial.folder / ADAPTER) as folder:
            weights = {key: torch.from_numpy(value) for key, value in result.weights.items()}
            method.export(folder, weights=weights, params=trial.params, source=base.source, revision=base.revision)
    kept = {"logits": result.logits, "labels": labels}
    with replaced(trial.folder / PREDICTIONS) as file, umask_permissions(file):
        save_file({name: np.ascontiguousarray(array) for name, array in kept.items()}, file)
    per_class = json.dumps(data.task.per_class(result.logits, labels), indent=1)
    _write_text(trial.folder / CLASSES, per_class + "\n")
    if best:
        try:
            confusion_png(data.task.confusion(result.logits, labels), data.task.labels, trial.folder / PICTURE)
        except Exception as error:  # libraries for pictures and fonts raise all kinds
            warn(f"trial {trial.number} has no {PICTURE}: it cannot be drawn ({type(error).__name__}: {error})")
    _write_text(trial.folder / STUDY, config.text())
    return trial.folder / ADAPTER if best else None


def _write_text(file: Path, text: str) -> None:
    """Write aside, then rename: a link in its place is replaced, not followed."""
    with replaced(file) as aside:
        aside.write_text(text, encoding="utf-8")


def keep_study(study: Path, config: StudyConfig, data: Dataset) -> None:
    """Keep the study file and the token ids of the validation rows, so that an export can be scored again even if the
    data has moved."""
    study.mkdir(parents=True, exist_ok=True)
    _write_text(study / STUDY, config.text())
    texts = data.validation.input_ids
    rows = {"tokens": np.concatenate(texts).astype(np.int32), "lengths": np.array([len(text) for text in texts])}
    with replaced(study / VALIDATION) as file, umask_permissions(file):
        save_file(rows, file, {"fingerprint": data.fingerprint})


def restore_study(study: Path, config: StudyConfig, data: Dataset) -> None:
    """Do what `keep_study` does, if a file is missing: no trial of the study can be exported without them."""
    if not all((study / name).is_file() for name in (STUDY, VALIDATION)):
        keep_study(study, config, data)


def files(study: Path, number: int) -> dict[str, Path]:
    """The files and folders of a complete trial that exist, by their place in the tracker."""
    folder = trial_folder(study, number)
    return {name: folder / name for name in (ADAPTER, CLASSES, PICTURE, PREDICTIONS, STUDY) if (folder / name).exists()}


def adapter_files(folder: Path) -> dict[str, bytes]:
    """The files of an adapter's folder, by name."""
    found: dict[str, bytes] = {}
    for file in sorted(folder.iterdir()):
        with plain_files.opened(file) as stream:
            found[file.name] = stream.read()
    return found


def pause(trial: TrialRecord, folder: Path) -> list[int]:
    """When a trial was last saved, and this moment, at which it goes on; in milliseconds since 1970."""
    kept = (int(1000 * checkpoint.stat().st_mtime) for checkpoint in folder.glob("checkpoint-*"))
    return [max(trial.began or 0, *kept, *(evaluation.at or 0 for evaluation in trial.evaluations), 0), now()]


def drop_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a trial that has ended, half-written ones too."""
    for old in [*folder.glob("checkpoint-*"), *folder.glob(".*")]:
        remove(folder.parent, old)
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


def remove_adapters(folder: Path, numbers: Iterable[int]) -> None:
    """Remove the adapters of trials.

    Args:
        folder: of the study.
    """
    for number in numbers:
        remove(folder, trial_folder(folder, number) / ADAPTER)
