"""What is predicted: labels, loss, scores, thresholds, and stratified samples of rows."""

from __future__ import annotations

from peftsweep.task.metrics import Labels
from peftsweep.task.stratified import stratified_sample
from peftsweep.task.task import Task
from peftsweep.task.thresholds import (
    Logits,
    cross_fitted_predictions,
    probabilities,
    thresholds_from_probabilities,
    tune_thresholds,
)

__all__ = [
    "Labels",
    "Logits",
    "Task",
    "cross_fitted_predictions",
    "probabilities",
    "stratified_sample",
    "thresholds_from_probabilities",
    "tune_thresholds",
]
