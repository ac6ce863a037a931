"""How sure a macro-F1 is: the bootstrap over rows (Efron, 1979), as matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 4_000_000  # weights at a time: 16 MB


def resampled_macro_f1(
    truth: NDArray[Any], guesses: Sequence[NDArray[Any]], resamples: int, seed: int = 0
) -> NDArray[np.float64]:
    """Macro-F1 of each model on the same resamples of the rows: differences between models are paired.

    A resample is a weight for each row, how often it was drawn; what F1 counts is a product of weights and rows.

    Args:
        truth: noughts and ones [n, C]; `Task.one_hot` makes them of classes.
        guesses: predictions [n, C] of each of G models.

    Returns:
        [G, resamples].
    """
    rows, classes = truth.shape
    parts = [truth, *guesses, *(truth * guess for guess in guesses)]
    counted = np.concatenate(parts, axis=1).astype(np.float32)  # [n, (1 + 2G) · C]; whole numbers, exact below 2²⁴
    rng = np.random.default_rng(seed)
    at_once = max(1, CHUNK // rows)
    found = [
        _macro_f1(_weights(rng, rows, min(at_once, resamples - first)) @ counted, classes)
        for first in range(0, resamples, at_once)
    ]
    return np.concatenate(found, axis=1)


def _weights(rng: np.random.Generator, rows: int, count: int) -> NDArray[np.float32]:
    """How often each row was drawn [count, n]."""
    drawn = rng.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float32)


def _macro_f1(sums: NDArray[np.float32], classes: int) -> NDArray[np.float64]:
    """[G, resamples] from [resamples, (1 + 2G) · C]. A class that is nowhere counts as nought, as in `Task.scores`."""
    per_class = sums.reshape(len(sums), -1, classes).astype(np.float64)
    models = per_class.shape[1] // 2
    true, on, hits = per_class[:, :1], per_class[:, 1 : 1 + models], per_class[:, 1 + models :]
    total = true + on
    f1 = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(f1.mean(axis=2).T)
