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
    rng = np.random.default_rng(seed)
    at_once = max(1, CHUNK // max(rows, classes))
    found = np.empty((len(guesses), resamples))
    true = truth.astype(np.float32)  # products are whole numbers, exact below 2²⁴
    for first in range(0, resamples, at_once):
        weights = _weights(rng, rows, min(at_once, resamples - first))
        sums = weights @ true
        for scores, guess in zip(found, guesses, strict=True):  # one by one: many classes are much memory
            on = guess.astype(np.float32)
            scores[first : first + at_once] = _macro_f1(sums, weights @ on, weights @ (on * true))
    return found


def _weights(rng: np.random.Generator, rows: int, count: int) -> NDArray[np.float32]:
    """How often each row was drawn [count, n]."""
    drawn = rng.integers(rows, size=(count, rows)) + rows * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float32)


def _macro_f1(true: NDArray[Any], on: NDArray[Any], hits: NDArray[Any]) -> NDArray[np.float64]:
    """[resamples] from counts [resamples, C]. A class that is nowhere counts as nought, as in `Task.scores`."""
    total = (true + on).astype(np.float64)
    return np.asarray(np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0).mean(axis=1))
