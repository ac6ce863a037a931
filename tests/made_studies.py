"""Studies as sweeps leave them, with many trials, made without training: for the tests and the benchmark."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from peftsweep.storage import Studies
from peftsweep.study import results, trial_files
from peftsweep.task import Task
from tests.stored import DATA, add_study, frozen_trial

_FILE = Path(__file__).parents[1] / "benchmarks" / "comparison.py"
_spec = importlib.util.spec_from_file_location("comparison_benchmark", _FILE)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
fill: Any = _module.fill


def storage(folder: Path) -> str:
    return f"sqlite:///{folder}/studies.db"


def best_folder(url: str, name: str) -> Path:
    """Folder of the artifacts of the study's best trial."""
    studies = Studies(url)
    best = results.ranked(studies.load(name).records())[0]
    return trial_files.trial_folder(studies.artifacts / name, best.number)


def with_predictions(url: str, name: str, logits: np.ndarray, labels: np.ndarray) -> None:
    """Store these predictions as those of the best trial."""
    save_file({"logits": logits.astype(np.float32), "labels": labels}, best_folder(url, name) / trial_files.PREDICTIONS)


def predicted(url: str, name: str, task: Task, logits: np.ndarray, labels: np.ndarray) -> None:
    """Add a study of one trial with these predictions."""
    data = DATA | {"labels": list(task.labels) if task.multi_label else "topic"}
    study = add_study(url, name, labels=list(task.labels), config={"data": data, "space": {}})
    scores = task.scores(logits, labels)
    study.add_trial(frozen_trial(scores["macro_f1"], scores=scores))
    folder = trial_files.trial_folder(Studies(url).artifacts / name, 0)
    folder.mkdir(parents=True)
    save_file({"logits": logits.astype(np.float32), "labels": labels}, folder / trial_files.PREDICTIONS)
