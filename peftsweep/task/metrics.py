"""How are predictions scored? A score needs a line in `Metrics.scores`, and its label in peftsweep/scores.py."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from peftsweep.task.thresholds import Logits, cross_fitted_predictions

if TYPE_CHECKING:  # torch takes two seconds, and a study's data is checked without it
    from torch import Tensor

Labels = NDArray[Any]  # float32 [n, C] of zeros and ones, or int64 [n]


class Metrics(ABC):
    """The scores of a task with C labels."""

    labels: tuple[str, ...]

    @property
    @abstractmethod
    def multi_label(self) -> bool: ...

    @abstractmethod
    def predictions(self, logits: Logits) -> NDArray[np.int64]: ...

    @abstractmethod
    def row_loss(self, logits: Tensor, labels: Tensor) -> Tensor: ...

    def scores(self, logits: Logits, labels: Labels) -> dict[str, float]:
        """macro_f1, micro_f1, accuracy, jaccard, loss and, for multi-label tasks, macro_f1_tuned.

        All are nan if any logit is not finite. Accuracy is the share of rows with every label right. Jaccard is
        averaged over rows (multi-label; a row without labels and predictions scores 0, as in scikit-learn) or over
        classes (single-label). macro_f1_tuned uses a threshold for each label, tuned on one half of the rows and
        scored on the other half, both ways.
        """
        from sklearn.metrics import accuracy_score, f1_score, jaccard_score

        predicted = self.predictions(logits)
        options: dict[str, Any] = {"labels": np.arange(len(self.labels)), "zero_division": 0}
        rows_or_classes = "samples" if self.multi_label else "macro"
        measures: dict[str, Callable[[], Any]] = {
            "macro_f1": lambda: self.macro_f1(labels, predicted),
            "micro_f1": lambda: f1_score(labels, predicted, average="micro", **options),
            "accuracy": lambda: accuracy_score(labels, predicted),
            "jaccard": lambda: jaccard_score(labels, predicted, average=rows_or_classes, **options),
            "loss": lambda: self._loss(logits, labels),
        }
        if self.multi_label:
            measures["macro_f1_tuned"] = lambda: self.macro_f1(labels, cross_fitted_predictions(logits, labels))
        if not np.isfinite(logits).all():
            return dict.fromkeys(measures, float("nan"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a label that no row has scores zero (zero_division)
            return {name: float(measure()) for name, measure in measures.items()}

    def _loss(self, logits: Logits, labels: Labels) -> float:
        import torch

        return float(self.row_loss(torch.from_numpy(logits), torch.from_numpy(np.asarray(labels))).double().mean())

    def macro_f1(self, labels: Labels, predicted: NDArray[np.int64]) -> float:
        """Macro-F1 of predictions, shaped as `predictions` returns them."""
        from sklearn.metrics import f1_score

        classes = np.arange(len(self.labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0))

    def per_class(self, logits: Logits, labels: Labels) -> list[dict[str, Any]]:
        """One row for each label: label, precision, recall, f1, support."""
        from sklearn.metrics import precision_recall_fscore_support

        columns = precision_recall_fscore_support(
            labels, self.predictions(logits), labels=np.arange(len(self.labels)), zero_division=0
        )
        return [
            {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "support": int(n)}
            for label, p, r, f, n in zip(self.labels, *columns, strict=True)
        ]

    def confusion(self, logits: Logits, labels: Labels) -> NDArray[np.int64]:
        """Counts [C, C] by true and predicted class (single-label), or [C, 2, 2] for each label, off before on."""
        from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

        predicted, classes = self.predictions(logits), np.arange(len(self.labels))
        count = multilabel_confusion_matrix if self.multi_label else confusion_matrix
        return np.asarray(count(labels, predicted, labels=classes), dtype=np.int64)
