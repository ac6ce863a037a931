"""The task: labels, the loss of a row, metrics.

Multi-label: each of C labels is on or off, by its logit above a cut (zero unless said: sigmoid at 0.5). Single-label:
one of C classes, by argmax.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from peftsweep.task.thresholds import Logits, cross_fitted

Labels = NDArray[Any]  # float32 [n, C] of zeros and ones, or int64 [n]


@dataclass(frozen=True)
class Task:
    """What is predicted: its kind and the names of its C labels, in the order of the logits."""

    kind: Literal["multi-label", "single-label"]
    labels: tuple[str, ...]

    @property
    def multi_label(self) -> bool:
        return self.kind == "multi-label"

    def row_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each row [N] of logits [N, C], in fp32: cross-entropy, or binary cross-entropy's mean over labels.

        Its mean over a batch is the loss of `transformers`' own heads.
        """
        if self.multi_label:
            return nn.functional.binary_cross_entropy_with_logits(
                logits.float(), labels.float(), reduction="none"
            ).mean(dim=1)
        return nn.functional.cross_entropy(logits.float(), labels, reduction="none")

    def predictions(self, logits: Logits, cuts: NDArray[np.floating[Any]] | float = 0.0) -> NDArray[np.int64]:
        """Noughts and ones [n, C], or class indices [n].

        Args:
            cuts: the logits [C] above which labels are on.
        """
        if self.multi_label:
            return np.asarray(logits > cuts, dtype=np.int64)
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)

    def one_hot(self, labels: Labels) -> NDArray[np.int64]:
        """Labels or predictions as zeros and ones [n, C]."""
        if self.multi_label:
            return np.asarray(labels, dtype=np.int64)
        return np.asarray(np.asarray(labels)[:, None] == np.arange(len(self.labels)), dtype=np.int64)

    def scores(self, logits: Logits, labels: Labels) -> dict[str, float]:
        """macro_f1, micro_f1, accuracy, jaccard, loss and (multi-label) macro_f1_tuned; all nan when a logit is not
        finite.

        Accuracy is the share of rows that are right in every label. Jaccard is averaged over rows (multi-label; 0 for
        a row without labels and predictions, as scikit-learn has it) or over classes (single-label). macro_f1_tuned
        has a cut of its own for each label, tuned on one half of the rows and scored on the other, and the reverse.
        """
        import torch
        from sklearn.metrics import accuracy_score, f1_score, jaccard_score

        if not np.isfinite(logits).all():
            names = ("macro_f1", "micro_f1", "accuracy", "jaccard", "loss")
            return dict.fromkeys(names + (("macro_f1_tuned",) if self.multi_label else ()), float("nan"))
        guess, every = self.predictions(logits), np.arange(len(self.labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # labels without a true row: counted as zero, by zero_division
            options: dict[str, Any] = {"labels": every, "zero_division": 0}
            scores = {
                "macro_f1": self.macro_f1(labels, guess),
                "micro_f1": f1_score(labels, guess, average="micro", **options),
                "accuracy": accuracy_score(labels, guess),
                "jaccard": jaccard_score(labels, guess, average="samples" if self.multi_label else "macro", **options),
            }
            if self.multi_label:
                scores["macro_f1_tuned"] = self.macro_f1(labels, cross_fitted(logits, labels))
        loss = self.row_loss(torch.from_numpy(logits), torch.from_numpy(np.asarray(labels))).double().mean()
        return {name: float(value) for name, value in scores.items()} | {"loss": float(loss)}

    def macro_f1(self, labels: Labels, guess: NDArray[np.int64]) -> float:
        """Of predictions as `predictions` makes them."""
        from sklearn.metrics import f1_score

        every = np.arange(len(self.labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(f1_score(labels, guess, labels=every, average="macro", zero_division=0))

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
        """Counts [C, C] by true and predicted class, or [C, 2, 2] by label, off before on."""
        from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

        guess, every = self.predictions(logits), np.arange(len(self.labels))
        count = multilabel_confusion_matrix if self.multi_label else confusion_matrix
        return np.asarray(count(labels, guess, labels=every), dtype=np.int64)
