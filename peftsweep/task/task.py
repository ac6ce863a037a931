"""What is predicted, and what is its loss? (metrics.py scores it.)

Multi-label: each of C labels is on if its logit is above a threshold, by default zero (a probability of 0.5).
Single-label: one of C classes, by argmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from peftsweep.task.metrics import Labels, Metrics
from peftsweep.task.thresholds import Logits

if TYPE_CHECKING:  # see metrics.py
    from torch import Tensor


@dataclass(frozen=True)
class Task(Metrics):
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
        from torch.nn import functional

        if self.multi_label:
            return functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").mean(
                dim=1
            )
        return functional.cross_entropy(logits.float(), labels, reduction="none")

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
