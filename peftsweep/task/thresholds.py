"""Above which logit a label is on: zero, which is a probability of one half, or a cut tuned for F1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]  # [n, C]


def tuned(logits: Logits, labels: NDArray[Any]) -> NDArray[np.float64]:
    """The cut [C] of each label by which its F1 on these rows is highest; among equals the one nearest to zero.

    Args:
        labels: zeros and ones [n, C]. A label that no row has keeps zero.
    """
    order = np.argsort(-logits, axis=0, kind="stable")
    ranked = np.take_along_axis(logits, order, axis=0).astype(np.float64)  # [n, C], highest first
    hits = np.take_along_axis(np.asarray(labels, np.float64), order, axis=0).cumsum(axis=0)
    positives = hits[-1]  # [C]
    count = np.arange(1, len(ranked) + 1)[:, None]  # rows above the cut
    f1 = 2 * hits / (count + positives)  # [n, C]
    below = np.vstack([ranked[1:], ranked[-1:] - 1.0])
    # Zero where it lies between the two logits, else their middle. A cut between equals is none.
    cuts = np.where((below <= 0) & (ranked > 0), 0.0, (ranked + below) / 2)
    f1[(ranked <= cuts) | (below > cuts)] = -1.0
    best = f1 >= f1.max(axis=0) - 1e-12
    nearest = np.where(best, np.abs(cuts), np.inf).argmin(axis=0)
    chosen = np.take_along_axis(cuts, nearest[None], axis=0)[0]
    return np.where(positives > 0, chosen, 0.0)


def cross_fitted(logits: Logits, labels: NDArray[Any]) -> NDArray[np.int64]:
    """Predictions [n, C] of each half of the rows by the cuts tuned on the other: what tuning is worth on rows that it
    has not seen."""
    first = halves(labels)
    found = np.empty(logits.shape, np.int64)
    for half in (first, ~first):
        if half.any() and not half.all():
            found[half] = logits[half] > tuned(logits[~half], labels[~half])
        else:  # of a single row there are no halves
            found[half] = logits[half] > 0
    return found


def halves(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Every other row [n], in the order of their labels, the rarest label first: each is about as frequent in both."""
    rarest_last = np.argsort(-np.asarray(labels).sum(axis=0), kind="stable")  # as lexsort wants its keys
    chosen = np.zeros(len(labels), bool)
    chosen[np.lexsort(np.asarray(labels).T[rarest_last])[::2]] = True
    return chosen


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    """The logistic function, of numbers far from zero too: below -37 it is small, and above 37 it rounds to one.

    It is for people to read: what is on is decided by logits and cuts, which never round together.
    """
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64))))


def cuts_of(thresholds: Sequence[float]) -> NDArray[np.float64]:
    """The cuts [C] of probabilities, as exports of version 0.1.0 keep them. None is above one, so that its cut is
    infinite; zero stands for the smallest that such an export told from it."""
    shares = np.maximum(np.asarray(thresholds, np.float64), 2.0**-54)
    below = np.minimum(shares, 1 - 2.0**-53)
    return np.where(shares < 1, np.log(below) - np.log1p(-below), np.inf)
