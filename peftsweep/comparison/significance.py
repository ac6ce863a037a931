"""How sure is a macro-F1, or the difference of two? Intervals by score tests, and a test that swaps predictions, whose
p-values groups.py corrects for the number of pairs (Holm).

The quantity in question is this model's macro-F1 on all texts of the kind that the validation rows were drawn from.

The F1 of a class is 2J/(1+J). J is the share of hits among the class's rows, which are those that have it, truly or by
prediction. Of rows drawn at random, hits are a binomial count. So macro-F1 is a mean of functions of shares, and a
difference is one of twice as many. A bound is where a score test of "it is no more than this" gives 2.5 %: for one
share Wilson's interval (1927), for two that of Miettinen and Nurminen (1985). Where a share is near one,
misses are few and their count is skewed: a bound moves outwards by what Cornish and Fisher (1938) add to a quantile for
that, as in the score test of Gart and Nam (1988), and never inwards. The bootstrap cannot do this where a class has few
rows: of three hits in three rows, each resample has three hits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
QUANTILE = NormalDist().inv_cdf(1 - LEVEL / 2)
# Variance with tuned thresholds relative to that with fixed ones, of one model and of the difference of two: the rows
# for tuning are drawn by chance, too. With these factors, two equal models are called different in 5 % of cases.
TUNED, BOTH_TUNED = 1.25, 1.4
FORCES, ROUNDS = 40, 4  # of the search for a place on a path: it finds the force to a hundred thousandth

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Counted:
    """Counts of what a model predicted for the validation rows.

    Attributes:
        truth, guess: zeros and ones [n, C].
        hits: rows [C] that have a class both truly and by prediction.
        rows: those [C] that have it in either way.
        residuals: float32 [n, C], of a class's rows: a hit less the share of hits, or zero less that.
    """

    truth: NDArray[np.int64]
    guess: NDArray[np.int64]
    hits: Array
    rows: Array
    residuals: NDArray[np.float32]

    @classmethod
    def of(cls, truth: NDArray[np.int64], guess: NDArray[np.int64]) -> Counted:
        hit, either = truth & guess, truth | guess
        hits, rows = hit.sum(axis=0).astype(float), either.sum(axis=0).astype(float)
        residuals = hit - (hits / np.maximum(rows, 1)).astype(np.float32) * either
        return cls(truth, guess, hits, rows, residuals.astype(np.float32))


def interval(model: Counted, tuned: bool = False) -> tuple[float, float]:
    """95 % of macro-F1.

    A class that no row has, truly or by prediction, counts as zero in the score. Its true F1 may be anything, which the
    upper bound allows for.

    Args:
        tuned: whether thresholds were tuned, on rows that were not scored.
    """
    found = _Sum.of(model, extra=TUNED if tuned else 1.0)
    absent = float((model.rows == 0).mean())
    return max(0.0, found.bound(1)), min(1.0, found.bound(-1, bent=True) + absent)


def difference(first: Counted, second: Counted, tuned: bool = False) -> tuple[float, float, float]:
    """95 % interval of the first model's macro-F1 less the second's, and the two-sided p of no difference.

    p is the larger one of two tests: the score test that the interval inverts, and a permutation test that swaps the
    models' predictions of each row with probability one half. The first accounts for classes with few rows; the second
    for two rows proving nothing, whatever their class. If p is at least 0.05, the interval is widened to hold 0.
    """
    extra = BOTH_TUNED if tuned else 1.0
    found = _Sum.of(first, second, extra=extra)
    p = max(found.p_of_zero(), _swapped(first, second, extra))
    low, high = max(-1.0, found.bound(1)), min(1.0, found.bound(-1))
    return (low, high, p) if p < LEVEL else (min(low, 0.0), max(high, 0.0), p)


@dataclass(frozen=True)
class _Sum:
    """A weighted sum of K classes' F1.

    Attributes:
        weights: [K], below zero for a model that is subtracted.
        hits, rows: [K].
        correlation: [K, K], of the shares of hits.
        extra: by which the variance is larger than that of binomial counts.
    """

    weights: Array
    hits: Array
    rows: Array
    correlation: Array
    extra: float

    @classmethod
    def of(cls, *models: Counted, extra: float) -> _Sum:
        classes = len(models[0].hits)
        hits, rows = (np.concatenate([getattr(model, name) for model in models]) for name in ("hits", "rows"))
        residuals = np.concatenate([model.residuals for model in models], axis=1)
        together = (residuals.T @ residuals).astype(float)
        spread = np.sqrt(np.diag(together))
        correlation = together / np.maximum(np.outer(spread, spread), 1e-12)
        # With few rows two models may agree by chance: as if they disagreed in one more row of each class.
        less = np.sqrt(rows / (rows + 1))
        correlation[:classes, classes:] *= np.outer(less[:classes], less[classes:])
        correlation[classes:, :classes] = correlation[:classes, classes:].T
        np.fill_diagonal(correlation, 1.0)
        weights = np.repeat([1.0, -1.0][: len(models)], classes) / classes
        weights[rows == 0] = 0  # nothing is known of a class that no row has
        return cls(weights, hits, np.maximum(rows, 1), correlation, extra)

    def value(self, shares: Array) -> Array:
        """The sum [...], of shares [..., K]."""
        return np.asarray(2 * shares / (1 + shares) @ self.weights)

    @property
    def found(self) -> float:
        return float(self.value(self.hits / self.rows))

    def bound(self, sign: int, bent: bool = False) -> float:
        """The lower bound (sign 1) or the upper one (-1); never on the other side of what was found."""

        def is_far(shares: Array) -> NDArray[np.bool_]:
            distance, error, skewness = self.test(shares, bent)
            quantile = QUANTILE + np.maximum(0, sign * skewness) / 6 * (QUANTILE**2 - 1)
            return np.asarray((error > 0) & (sign * distance >= quantile * error))

        bound = float(self.value(self.first_on_path(sign, is_far)))
        return min(bound, self.found) if sign > 0 else max(bound, self.found)

    def p_of_zero(self) -> float:
        """Two-sided p of the test of this sum against zero."""
        sign = 1 if self.found > 0 else -1
        shares = self.first_on_path(sign, lambda shares: sign * self.value(shares) <= 0)
        distance, error, skewness = map(float, self.test(shares))
        if not error:
            return 1.0
        far, lean = max(0.0, sign * distance / error), max(1e-6, sign * skewness / 6)
        normal = (math.sqrt(1 + 4 * lean * (far + lean)) - 1) / (2 * lean)  # far = normal + lean · (normal² - 1)
        return math.erfc(min(far, normal) / math.sqrt(2))

    def first_on_path(self, sign: int, reached: Callable[[Array], NDArray[np.bool_]]) -> Array:
        """Shares at the first place that `reached` accepts on the path to a lower sum (sign 1) or a higher one (-1); or
        those at the path's end.

        Along the path the hits that were found stay as likely as they can be. Each class moves as far as its rows
        allow: a share j solves rows · (found - j) = force · slope · j · (1 - j).
        """
        slope = sign * self.weights * _slope((self.hits + 0.5) / (self.rows + 1))
        low, high = -6.0, 10.0  # of the force, its decimal logarithm
        for _ in range(ROUNDS):
            forces = np.linspace(low, high, FORCES)
            there = reached(_moved(self.hits, self.rows, 10 ** forces[:, None] * slope))
            first = int(there.argmax()) if there.any() else FORCES - 1
            low, high = forces[max(0, first - 1)], forces[first]
        return _moved(self.hits, self.rows, 10**high * slope)

    def test(self, shares: Array, bent: bool = False) -> tuple[Array, Array, Array]:
        """How far what was found is above the sum of these shares, the standard error of that if they are true, and
        how skewed it is then: its third moment over the cube of the error.

        Where a class makes up most of the variance, that of its share is known from the share. One of many is where its
        own hits put it, and its variance is that of a sample: one row less.

        Args:
            shares: [..., K].
            bent: correct for F1 being a concave function of the share, by which the mean over many classes of few
                rows comes out too low. The bias depends on how rows were drawn; the most that it can be is added.
        """
        slopes, variances = self.weights * _slope(shares), shares * (1 - shares) / self.rows
        parts = slopes**2 * variances
        free = 1 - parts / np.maximum(parts.sum(axis=-1, keepdims=True), 1e-300)
        variances *= self.rows / np.maximum(self.rows - free, 0.25 * self.rows)
        errors = slopes * np.sqrt(variances)
        distance = slopes * (self.hits / self.rows - shares)
        if bent:
            distance += self.weights * free * 2 / (1 + shares) ** 3 * variances
        least = 1e-6 * (errors**2).sum(axis=-1)  # correlations that were lessened may leave less than nothing
        variance = np.maximum(least, (errors @ self.correlation * errors).sum(axis=-1))
        alone = np.maximum((errors**2).sum(axis=-1), 1e-100)
        cubes = (slopes**3 * shares * (1 - shares) * (1 - 2 * shares) / self.rows**2).sum(axis=-1)
        # Where classes err together, they do so in fewer and larger steps: as many times as the variance is larger.
        skewness = cubes * (variance / alone) ** 2 / np.maximum(variance, 1e-100) ** 1.5
        return distance.sum(axis=-1), np.sqrt(self.extra * variance), skewness


def _slope(shares: Array) -> Array:
    """Derivative of F1 with respect to the share of hits."""
    return 2 / (1 + shares) ** 2


def _moved(hits: Array, rows: Array, pull: Array) -> Array:
    """The root between zero and one of rows · (found - j) = pull · j · (1 - j), for each class."""
    pull = np.where(np.abs(pull) < 1e-9, 1e-9, pull)
    half = pull + rows
    root = np.sqrt(np.maximum(half**2 - 4 * pull * hits, 0))
    positive = half > 0
    return np.clip(np.where(positive, 2 * hits / np.where(positive, half + root, 1), (half - root) / (2 * pull)), 0, 1)


def _swapped(first: Counted, second: Counted, extra: float) -> float:
    """p of the difference if each row's two predictions could be swapped between the models. The variance is then the
    sum of squares of the rows' contributions, so nothing is drawn at random, as in McNemar's test (1947)."""
    rows, classes = np.nonzero(first.guess != second.guess)
    total = first.truth.sum(axis=0) + (first.guess + second.guess).sum(axis=0) / 2
    f1 = (first.hits + second.hits) / np.maximum(total, 1)
    sign = (first.guess - second.guess)[rows, classes]
    part = sign * (2 * first.truth[rows, classes] - f1[classes]) / total[classes] / len(total)
    contributed = np.bincount(rows, part)
    error = math.sqrt(extra * float(contributed @ contributed))
    return math.erfc(abs(float(part.sum())) / error / math.sqrt(2)) if error else 1.0
