"""Which rows make a sample in which every label is about as frequent as in all rows?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def stratified_sample(labels: NDArray[Any], size: int, seed: int) -> NDArray[np.int64]:
    """Sorted indices [size] of rows in which every label is about as frequent as in all rows.

    Single-label rows are drawn class by class, with the rarest classes merged where they are too small to split.
    Multi-label rows are drawn by iterative stratification (Sechidis et al., 2011).

    Args:
        labels: int64 [n], or float32 [n, C].
        size: between 1 and n - 1.
    """
    rows = np.arange(len(labels))
    if labels.ndim == 2:
        from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

        split = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
        _, chosen = next(split.split(rows, labels.astype(int)))
        return _resized(np.asarray(chosen), rows, size, seed)
    from sklearn.model_selection import train_test_split

    strata = _strata(labels, min(size, len(labels) - size))
    _, chosen = train_test_split(rows, test_size=size, random_state=seed, stratify=strata)
    return np.sort(chosen)


def _strata(labels: NDArray[Any], max_strata: int) -> NDArray[np.int64] | None:
    """The stratum [n] of each row: its class, after the rarest classes were merged until every stratum has two rows
    and there are at most `max_strata`. None if a single stratum is left."""
    _, strata, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = [int(stratum) for stratum in np.argsort(counts, kind="stable")]
    while len(order) > 1 and (counts[order[0]] < 2 or len(order) > max_strata):
        rarest, next_rarest = order[:2]
        strata[strata == rarest] = next_rarest
        counts[next_rarest] += counts[rarest]
        order = sorted(order[1:], key=lambda stratum: counts[stratum])
    return np.asarray(strata) if len(order) > 1 else None


def _resized(chosen: NDArray[np.int64], rows: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Exactly `size` of the rows: iterative stratification may choose a few too many or too few."""
    rng = np.random.default_rng(seed)
    if len(chosen) > size:
        chosen = rng.choice(chosen, size, replace=False)
    elif len(chosen) < size:
        chosen = np.concatenate([chosen, rng.choice(np.setdiff1d(rows, chosen), size - len(chosen), replace=False)])
    return np.sort(chosen)
