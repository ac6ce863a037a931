"""What comparing needs to know about a study, read from its storage and its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from peftsweep.config import Range
from peftsweep.storage import StoredStudy, StudyRecord, TrialRecord
from peftsweep.study.results import ranked, task_of
from peftsweep.study.trial_files import ADAPTER, CLASSES, predictions, trial_folder
from peftsweep.system import json_files
from peftsweep.task import cross_fitted_predictions


@dataclass(frozen=True)
class Predicted:
    """A trial's predictions of the validation rows.

    Attributes:
        truth: zeros and ones [n, C].
        guesses: the same of the predictions, by score: at a probability of one half (`macro_f1`), and multi-label with
            thresholds tuned on rows that were not scored (`macro_f1_tuned`).
    """

    truth: NDArray[np.int64]
    guesses: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class StudyData:
    """A study, read once.

    Attributes:
        record: the study's own data in the storage.
        folder: where its artifacts are.
        validation_fingerprint: studies with the same one can be compared.
    """

    name: str
    stored: StoredStudy
    record: StudyRecord
    trials: Sequence[TrialRecord]
    folder: Path
    validation_fingerprint: str

    @cached_property
    def best(self) -> TrialRecord | None:
        return next(iter(ranked(self.trials)), None)

    @property
    def objective(self) -> str:
        return self.record.objective

    @property
    def space(self) -> Mapping[str, Range | list[Any]]:
        return self.record.config.space

    @cached_property
    def predicted(self) -> Predicted | str:
        """The best trial's predictions, or in a few words what is wrong with their file."""
        if self.best is None:
            return "no trial is complete yet"
        task = task_of(self.record)
        try:
            logits, labels = predictions(trial_folder(self.folder, self.best.number))
            guesses = {"macro_f1": task.one_hot(task.predictions(logits))}
            if "macro_f1_tuned" in self.best.scores:
                guesses["macro_f1_tuned"] = cross_fitted_predictions(logits, labels)
            found = Predicted(task.one_hot(labels), guesses)
        except (OSError, SafetensorError, KeyError, ValueError, IndexError):
            return f"the predictions of its best trial ({self.best.number}) are gone or cannot be read"
        if not len(labels) or any(guess.shape != found.truth.shape for guess in guesses.values()):
            return f"the predictions of its best trial ({self.best.number}) are not those of its labels"
        return found

    @cached_property
    def per_class(self) -> dict[str, float] | None:
        """F1 of each label at the best trial; None if the file is missing or broken."""
        if self.best is None:
            return None
        try:
            rows = json_files.read(trial_folder(self.folder, self.best.number) / CLASSES)
            return {str(row["label"]): float(row["f1"]) for row in rows}
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None

    @cached_property
    def adapter_bytes(self) -> int | None:
        """Size of all files in the best trial's adapter folder; None if it is missing."""
        if self.best is None:
            return None
        try:
            sizes = [file.stat().st_size for file in (trial_folder(self.folder, self.best.number) / ADAPTER).iterdir()]
        except OSError:
            return None
        return sum(sizes)
