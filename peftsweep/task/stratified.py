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
        from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit  # two seconds: it brings scikit-learn

        split = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
        _, chosen = next(split.split(rows, labels.astype(int)))
        return _resized(np.asarray(chosen), rows, size, seed)
    strata = _strata(labels, min(size, len(labels) - size))
    rng = np.random.RandomState(seed)
    return np.sort(rng.permutation(rows)[:size] if strata is None else _drawn(strata, size, rng))


def _drawn(strata: NDArray[np.int64], size: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Indices [size] of rows, drawn from each stratum by its share. They are those that scikit-learn's
    `train_test_split` draws: importing it takes two seconds."""
    _, strata, counts = np.unique(strata, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(strata, kind="stable"), np.cumsum(counts)[:-1])
    others = _shares(counts, len(strata) - size, rng)
    wanted = _shares(counts - others, size, rng)
    orders = [rng.permutation(stratum) for stratum in members]
    parts = zip(orders, others, wanted, strict=True)
    return np.concatenate([order[skipped : skipped + taken] for order, skipped, taken in parts])


def _shares(counts: NDArray[np.int64], draws: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """How many of so many draws fall to each stratum: its share rounded down, and one more for the largest remainders.
    Ties are broken at random."""
    exact = counts / counts.sum() * draws
    shares = np.floor(exact)
    remainders = exact - shares
    missing = int(draws - shares.sum())
    for remainder in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        (equal,) = np.where(remainders == remainder)
        more = rng.choice(equal, size=min(len(equal), missing), replace=False)
        shares[more] += 1
        missing -= len(more)
    return np.asarray(shares, dtype=np.int64)


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
