"""Above which logit is a label on? Above zero (a probability of 0.5), or above a threshold tuned for F1.

All thresholds here are logits; `thresholds_from_probabilities` converts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]  # [n, C]


def tune_thresholds(logits: Logits, labels: NDArray[Any]) -> NDArray[np.float64]:
    """The threshold [C] of each label that gives the highest F1 on these rows; among equals the one nearest to zero.

    Args:
        labels: zeros and ones [n, C]. A label that no row has keeps zero.
    """
    order = np.argsort(-logits, axis=0, kind="stable")
    ranked = np.take_along_axis(logits, order, axis=0).astype(np.float64)  # [n, C], highest first
    hits = np.take_along_axis(np.asarray(labels, np.float64), order, axis=0).cumsum(axis=0)
    positives = hits[-1]  # [C]
    count = np.arange(1, len(ranked) + 1)[:, None]  # rows above the threshold
    f1 = 2 * hits / (count + positives)  # [n, C]
    below = np.vstack([ranked[1:], ranked[-1:] - 1.0])
    # Zero where it lies between the two logits, else the middle between them. Equal logits cannot be separated.
    thresholds = np.where((below <= 0) & (ranked > 0), 0.0, (ranked + below) / 2)
    f1[(ranked <= thresholds) | (below > thresholds)] = -1.0
    best = f1 >= f1.max(axis=0) - 1e-12
    nearest = np.where(best, np.abs(thresholds), np.inf).argmin(axis=0)
    chosen = np.take_along_axis(thresholds, nearest[None], axis=0)[0]
    return np.where(positives > 0, chosen, 0.0)


def cross_fitted_predictions(logits: Logits, labels: NDArray[Any]) -> NDArray[np.int64]:
    """Predictions [n, C] of each half of the rows with the thresholds tuned on the other half.

    Their score says what tuning is worth on rows that were not tuned on.
    """
    first = first_half(labels)
    predicted = np.empty(logits.shape, np.int64)
    for half in (first, ~first):
        if half.any() and not half.all():
            predicted[half] = logits[half] > tune_thresholds(logits[~half], labels[~half])
        else:  # a single row has no other half to tune on
            predicted[half] = logits[half] > 0
    return predicted


def first_half(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask [n] of one half of the rows, in which each label is about as frequent as in the other half.

    Rows are sorted by their labels, the rarest label first, and every other row is taken.
    """
    rarest_last = np.argsort(-np.asarray(labels).sum(axis=0), kind="stable")  # lexsort sorts by its last key first
    chosen = np.zeros(len(labels), bool)
    chosen[np.lexsort(np.asarray(labels).T[rarest_last])[::2]] = True
    return chosen


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """The logistic function, without overflow for logits far from zero. Above 37 it rounds to one.

    It is for people to read. Predictions compare logits with thresholds, because those do not round together.
    """
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64))))


def thresholds_from_probabilities(shares: Sequence[float]) -> NDArray[np.float64]:
    """Logits [C] of the probabilities that folders exported by version 0.1.0 hold.

    No probability is above one, so its threshold is infinite. Version 0.1.0 rounded tiny probabilities to zero, so zero
    counts as the smallest probability that it could tell from zero.
    """
    raised = np.maximum(np.asarray(shares, np.float64), 2.0**-54)
    below_one = np.minimum(raised, 1 - 2.0**-53)
    return np.where(raised < 1, np.log(below_one) - np.log1p(-below_one), np.inf)
