"""What is predicted, what is its loss, and how is it scored?

Multi-label: each of C labels is on if its logit is above a threshold, by default zero (a probability of 0.5).
Single-label: one of C classes, by argmax.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from peftsweep.task.thresholds import Logits, cross_fitted_predictions

Labels = NDArray[Any]  # float32 [n, C] of zeros and ones, or int64 [n]


@dataclass(frozen=True)
class Task:
    """The kind of task and the names of its C labels, in the order of the logits."""

    kind: Literal["multi-label", "single-label"]
    labels: tuple[str, ...]

    @property
    def multi_label(self) -> bool:
        return self.kind == "multi-label"

    def row_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss [n] of each row of logits [n, C], in fp32: cross-entropy, or binary cross-entropy averaged over labels.

        The mean over a batch is the loss that the heads of `transformers` compute.
        """
        if self.multi_label:
            return nn.functional.binary_cross_entropy_with_logits(
                logits.float(), labels.float(), reduction="none"
            ).mean(dim=1)
        return nn.functional.cross_entropy(logits.float(), labels, reduction="none")

    def predictions(self, logits: Logits, thresholds: NDArray[np.floating[Any]] | float = 0.0) -> NDArray[np.int64]:
        """Zeros and ones [n, C], or class indices [n].

        Args:
            thresholds: the logits [C] above which labels are on.
        """
        if self.multi_label:
            return np.asarray(logits > thresholds, dtype=np.int64)
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)

    def one_hot(self, labels: Labels) -> NDArray[np.int64]:
        """Labels or predictions as zeros and ones [n, C]."""
        if self.multi_label:
            return np.asarray(labels, dtype=np.int64)
        return np.asarray(np.asarray(labels)[:, None] == np.arange(len(self.labels)), dtype=np.int64)

    def scores(self, logits: Logits, labels: Labels) -> dict[str, float]:
        """macro_f1, micro_f1, accuracy, jaccard, loss and, for multi-label tasks, macro_f1_tuned.

        All are nan if any logit is not finite. Accuracy is the share of rows with every label right. Jaccard is
        averaged over rows (multi-label; a row without labels and predictions scores 0, as in scikit-learn) or over
        classes (single-label). macro_f1_tuned uses a threshold for each label, tuned on one half of the rows and
        scored on the other half, both ways.
        """
        import torch
        from sklearn.metrics import accuracy_score, f1_score, jaccard_score

        if not np.isfinite(logits).all():
            names = ("macro_f1", "micro_f1", "accuracy", "jaccard", "loss")
            return dict.fromkeys(names + (("macro_f1_tuned",) if self.multi_label else ()), float("nan"))
        predicted, classes = self.predictions(logits), np.arange(len(self.labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a label that no row has scores zero (zero_division)
            options: dict[str, Any] = {"labels": classes, "zero_division": 0}
            scores = {
                "macro_f1": self.macro_f1(labels, predicted),
                "micro_f1": f1_score(labels, predicted, average="micro", **options),
                "accuracy": accuracy_score(labels, predicted),
                "jaccard": jaccard_score(
                    labels, predicted, average="samples" if self.multi_label else "macro", **options
                ),
            }
            if self.multi_label:
                scores["macro_f1_tuned"] = self.macro_f1(labels, cross_fitted_predictions(logits, labels))
        loss = self.row_loss(torch.from_numpy(logits), torch.from_numpy(np.asarray(labels))).double().mean()
        return {name: float(value) for name, value in scores.items()} | {"loss": float(loss)}

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
