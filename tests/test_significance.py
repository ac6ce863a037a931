"""The comparison's intervals and significance tests: against known methods, and how often they are right."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm
from sklearn.metrics import f1_score

from peftsweep.comparison.significance import Counted, difference, interval
from tests.studies import ROOT


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The benchmark of intervals, whose classifiers have a known macro-F1 on all texts."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield __import__("intervals")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def rows_of(hits: int, missed: int, others: int = 20) -> Counted:
    """Rows of a single label: `hits` are predicted, `missed` are not, and `others` do not have it."""
    truth = np.repeat([1, 1, 0], [hits, missed, others])[:, None]
    return Counted.of(truth, np.repeat([1, 0, 0], [hits, missed, others])[:, None])


@pytest.mark.parametrize(("hits", "missed"), [(3, 0), (0, 3), (2, 1), (30, 10)])
def test_the_interval_of_one_class_is_wilsons_and_wider_if_few_rows_are_missed(hits: int, missed: int) -> None:
    low, high = (bound / (2 - bound) for bound in interval(rows_of(hits, missed)))  # turns F1 into the share of hits
    wilson, exact = (binomtest(hits, hits + missed).proportion_ci(method=each) for each in ("wilson", "exact"))
    assert exact.low - 1e-4 <= low <= wilson.low + 1e-4 and wilson.high - 1e-4 <= high <= exact.high + 1e-4
    if hits == 30:  # only the bound farther from one half is moved outwards
        assert low == pytest.approx(wilson.low, abs=1e-4) and high > wilson.high + 1e-3


def test_a_class_without_rows_may_have_any_score() -> None:
    some = rows_of(30, 10)
    absent = np.zeros_like(some.truth)
    both = Counted.of(np.hstack([some.truth, absent]), np.hstack([some.guess, absent]))
    (low, high), (own_low, own_high) = interval(both), interval(some)
    assert low == pytest.approx(own_low / 2, abs=1e-4) and high == pytest.approx((own_high + 1) / 2, abs=1e-4)
    assert interval(Counted.of(absent, absent)) == (0.0, 1.0)


def predictions(rng: np.random.Generator, rows: int, classes: int, right: float) -> tuple[np.ndarray, list[np.ndarray]]:
    labels = np.concatenate([np.repeat(np.arange(classes), 3), rng.integers(0, classes, rows - 3 * classes)])
    eye = np.eye(classes, dtype=np.int64)
    guesses = [np.where(rng.random(rows) < right, labels, rng.integers(0, classes, rows)) for _ in range(2)]
    return eye[labels], [eye[guess] for guess in guesses]


def test_the_interval_of_a_difference_agrees_with_p_and_is_mirrored_if_the_models_are_swapped() -> None:
    rng = np.random.default_rng(1)
    sides = set()
    for _ in range(40):
        truth, (first, second) = predictions(rng, 40, 4, 0.6)
        one, other = Counted.of(truth, first), Counted.of(truth, second)
        low, high, p = difference(one, other)
        found = f1_score(truth, first, average="macro") - f1_score(truth, second, average="macro")
        assert -1 <= low <= found <= high <= 1 and (p < 0.05) == (low > 0 or high < 0)
        assert difference(other, one) == pytest.approx((-high, -low, p), abs=1e-4)
        for each, guess in ((one, first), (other, second)):
            own_low, own_high = interval(each)
            assert 0 <= own_low <= f1_score(truth, guess, average="macro") <= own_high <= 1
            assert interval(each, tuned=True)[0] < own_low or own_low == 0
        sides.add(p < 0.05)
    assert sides == {True, False}


def test_equal_predictions_have_p_1_and_two_rows_prove_nothing() -> None:
    truth = np.repeat([[1, 0], [0, 1]], [3, 197], axis=0)
    same = Counted.of(truth, truth)
    assert difference(same, same)[2] == 1.0
    worse = truth.copy()
    worse[:2] = [0, 1]
    low, high, p = difference(same, Counted.of(truth, worse))
    assert p > 0.05 and low <= 0 < high  # although the rare class's F1 falls from 1 to 0.5


def test_p_is_that_of_mcnemars_test_if_macro_f1_is_about_the_accuracy() -> None:
    """With two equally frequent classes and as many mistakes in either, macro-F1 is about the accuracy."""
    labels = np.tile([0, 1], 200)
    first, second = labels.copy(), labels.copy()
    first[:20], second[100:144] = 1 - first[:20], 1 - second[100:144]
    eye = np.eye(2, dtype=np.int64)
    one, other = (Counted.of(eye[labels], eye[guess]) for guess in (first, second))
    wanted = 2 * norm.sf((44 - 20) / math.sqrt(44 + 20))
    assert difference(one, other)[2] == pytest.approx(wanted, rel=0.1)


def test_a_pair_differs_only_if_swapping_its_predictions_shows_it_too() -> None:
    """One model knows a rare class of three rows, the other does not: the score test alone gives p = 0.01."""
    truth = np.repeat([[1, 0], [0, 1]], [3, 200], axis=0)
    worse = truth.copy()
    worse[:3] = [0, 1]
    low, _, p = difference(Counted.of(truth, truth), Counted.of(truth, worse))
    assert p == pytest.approx(2 * norm.sf(math.sqrt(3)), rel=1e-3) and low == 0
    truth = np.repeat([[1, 0], [0, 1]], [6, 200], axis=0)
    worse = truth.copy()
    worse[:6] = [0, 1]
    assert difference(Counted.of(truth, truth), Counted.of(truth, worse))[2] < 0.05


SETS = 400
CHANCE = 0.01  # that a correct interval is outside the bounds of one world
WORLDS = {  # each class has at least three rows; upper bounds of the share of intervals that hold and of their width
    "3 classes, one of 3 rows": (0.975, 0.28),
    "5 classes of 3 to 5 rows": (0.975, 0.45),
    "5 classes of 3 rows": (0.995, 0.5),  # most draws of 15 rows with 97 % right have one miss or none
    "11 labels, 4 to 40 %": (0.98, 0.2),
    "3 labels, one of 3 rows": (1.0, 0.26),  # three rows of a label allow no better: see benchmarks/notes.md
}


def worlds(benchmark: ModuleType) -> Iterator[Any]:
    for data in benchmark.kinds():
        if data.name in WORLDS and data.rows <= 200:
            yield replace(data, draws=300_000)


def test_in_each_world_intervals_hold_the_true_score_as_often_as_they_claim(benchmark: ModuleType) -> None:
    """In the first world, the bootstrap's intervals hold in only 48 to 92 % of the sets."""
    wrong = {}
    for data in worlds(benchmark):
        most, width = WORLDS[data.name]
        scores = (0.97,) if data.name == "5 classes of 3 rows" else (0.6,) if data.several else (0.6, 0.9)
        for score in scores:
            model, rng = benchmark.as_good_as(data, score, -0.3 if data.several else 0.5), np.random.default_rng(0)
            held, widths = 0, []
            for _ in range(SETS):
                truth = data.labels(rng)
                guess, true = model.guess(truth, rng.normal(size=truth.shape))
                low, high = interval(Counted.of(truth, guess), data.tuned)
                held += low <= true <= high
                widths.append(high - low)
            fewest, most_held = binom.ppf(CHANCE, SETS, 0.93), binom.ppf(1 - CHANCE, SETS, most)
            if not fewest <= held <= most_held or np.mean(widths) > width:
                wrong[data.name, data.tuned, score] = held / SETS, np.mean(widths)
    assert not wrong


def test_in_each_world_equal_models_are_rarely_called_different_and_differences_hold(benchmark: ModuleType) -> None:
    """A method that calls 10 % of equal pairs different would do so with 20 of a world's 200 pairs."""
    wrong, called = {}, []
    for data in worlds(benchmark):
        found = benchmark.figures(data, 0.6, SETS // 4, rivals=False)
        called += [found[f"{pair}_called_different"] for pair in ("same", "other")]
        if found["difference_held"] * SETS / 4 < binom.ppf(CHANCE, SETS // 4, 0.93) or sum(called[-2:]) / 2 > 0.08:
            wrong[data.name, data.tuned] = found
    assert not wrong
    assert np.mean(called) < 0.045  # over all worlds: in some of them hardly any pair can be called different
