"""What is predicted: labels, losses, scores, cuts, and fair choices of rows."""

from __future__ import annotations

from peftsweep.task.stratified import stratified
from peftsweep.task.task import Labels, Task
from peftsweep.task.thresholds import Logits, cross_fitted, cuts_of, probabilities, tuned

__all__ = [
    "Labels",
    "Logits",
    "Task",
    "cross_fitted",
    "cuts_of",
    "probabilities",
    "stratified",
    "tuned",
]
