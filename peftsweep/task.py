"""The task: labels, the loss of a row, metrics, and stratified choices of rows.

Multi-label: each of C labels is on or off, by sigmoid at 0.5. Single-label: one of C classes, by argmax.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Logits = NDArray[np.float32]  # [n, C]
Labels = NDArray[Any]  # float32 [n, C] of noughts and ones, or int64 [n]


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

    def predictions(self, logits: Logits) -> NDArray[np.int64]:
        """Noughts and ones [n, C], or class indices [n]."""
        if self.multi_label:
            return np.asarray(logits > 0, dtype=np.int64)
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)

    def scores(self, logits: Logits, labels: Labels) -> dict[str, float]:
        """macro_f1, micro_f1, accuracy, jaccard and loss; all nan when a logit is not finite.

        Accuracy is the share of rows that are right in every label. Jaccard is averaged over rows (multi-label; 0 for
        a row without labels and predictions, as scikit-learn has it) or over classes (single-label).
        """
        import torch
        from sklearn.metrics import accuracy_score, f1_score, jaccard_score

        if not np.isfinite(logits).all():
            return dict.fromkeys(("macro_f1", "micro_f1", "accuracy", "jaccard", "loss"), float("nan"))
        guess, every = self.predictions(logits), np.arange(len(self.labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # labels without a true row: counted as nought, by zero_division
            options: dict[str, Any] = {"labels": every, "zero_division": 0}
            scores = {
                "macro_f1": f1_score(labels, guess, average="macro", **options),
                "micro_f1": f1_score(labels, guess, average="micro", **options),
                "accuracy": accuracy_score(labels, guess),
                "jaccard": jaccard_score(labels, guess, average="samples" if self.multi_label else "macro", **options),
            }
        loss = self.row_loss(torch.from_numpy(logits), torch.from_numpy(np.asarray(labels))).double().mean()
        return {name: float(value) for name, value in scores.items()} | {"loss": float(loss)}

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


def stratified(labels: Labels, size: int, seed: int) -> NDArray[np.int64]:
    """Indices of `size` rows, sorted, in which every label is about as frequent as in all rows.

    Single-label rows are drawn class by class (classes of one row count as one class with the next rarest);
    multi-label rows by iterative stratification (Sechidis et al., 2011).

    Args:
        labels: int64 [n], or float32 [n, C].
        size: between 1 and n - 1.
    """
    rows = np.arange(len(labels))
    if labels.ndim == 2:
        from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

        split = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
        _, chosen = next(split.split(rows, labels.astype(int)))
        return _exactly(np.asarray(chosen), rows, size, seed)
    from sklearn.model_selection import train_test_split

    strata = _strata(labels, min(size, len(labels) - size))
    _, chosen = train_test_split(rows, test_size=size, random_state=seed, stratify=strata)
    return np.sort(chosen)


def _strata(labels: Labels, most: int) -> NDArray[np.int64] | None:
    """The classes [n], the rarest of them joined until each has two rows and there are at most `most`; None for one."""
    _, strata, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = [int(stratum) for stratum in np.argsort(counts, kind="stable")]
    while len(order) > 1 and (counts[order[0]] < 2 or len(order) > most):
        rarest, next_rarest = order[:2]
        strata[strata == rarest] = next_rarest
        counts[next_rarest] += counts[rarest]
        order = sorted(order[1:], key=lambda stratum: counts[stratum])
    return np.asarray(strata) if len(order) > 1 else None


def _exactly(chosen: NDArray[np.int64], rows: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Iterative stratification keeps the labels' shares and misses the size by a few rows: give or take those."""
    rng = np.random.default_rng(seed)
    if len(chosen) > size:
        chosen = rng.choice(chosen, size, replace=False)
    elif len(chosen) < size:
        chosen = np.concatenate([chosen, rng.choice(np.setdiff1d(rows, chosen), size - len(chosen), replace=False)])
    return np.sort(chosen)
