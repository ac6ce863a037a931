"""Intervals of the differences between configurations over several seeds, computed from numbers alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from peftsweep.study.seeds import behind_first


def test_intervals_are_means_plus_or_minus_a_quantile_of_student_s_t_even_for_two_seeds_or_equal_scores() -> None:
    rng = np.random.default_rng(7)
    for turn in range(300):
        first, *others = rng.random((int(rng.integers(2, 6)), int(rng.integers(2, 9)))).round(4)
        if turn % 5 == 0:
            others[0] = first.copy()
        if turn % 7 == 0:
            others[-1] = first - 0.25
        found = behind_first([dict(enumerate(map(float, scores))) for scores in (first, *others)])
        pairs = len(others) * (len(others) + 1) // 2
        for row, other in zip(found, others, strict=True):
            differences = first - other
            error = differences.std(ddof=1) / math.sqrt(len(differences))
            half = error * stdtrit(len(differences) - 1, 1 - 0.05 / (2 * pairs))
            wanted = (differences.mean(), differences.mean() - half, differences.mean() + half)
            assert row is not None
            assert (row.mean, row.low, row.high) == pytest.approx(wanted, rel=1e-12, abs=1e-12)
