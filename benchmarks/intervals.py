"""How often the comparison's 95 % intervals hold what they should, and how often it calls two equal models different.

    python benchmarks/intervals.py [--sets 1000] [--quick] [--only WORD …]

No GPU, no model: classifiers are drawn, as logits with noise around the truth, so that their macro-F1 on all texts of
the kind is known. A set is so many validation rows and the predictions of two such classifiers, half of whose noise is
the same. A JSON line for each kind of data and quality: the share of sets whose interval holds the true macro-F1, the
interval's mean width, the share in which two equally good classifiers are called different (p < 0.05), those that make
the same mistakes and those that make other ones, and the share whose interval of a difference holds the true one; all
beside the bootstrap that this project used before, on the same sets. Then the same for `retrain`: in how many tables of
equally good configurations some row is called behind the first, beside each row's own interval. At last, how long both
ways take for a page of 20 studies.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import ttest_rel

from peftsweep.comparison.significance import Counted, difference, interval
from peftsweep.study.seeds import behind_first
from peftsweep.task.thresholds import first_half, tune_thresholds

Bits = NDArray[np.int64]  # zeros and ones [n, C]
EMOTIONS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
QUALITIES = (0.4, 0.6, 0.9, 0.97)
GAP = 0.08  # by which the better one of two different classifiers is better
SHARED = 0.5  # of the variance of two classifiers' noise
FEWEST = 3  # rows of each class: sets with fewer are drawn again
RESAMPLES = 250  # of the bootstrap: enough to see how often it holds


@dataclass(frozen=True)
class Data:
    """A kind of validation rows.

    Attributes:
        shares: of rows that have each class.
        counts: how many rows have each; None: rows are drawn, and so is this.
        tuned: with thresholds tuned on the other half of the rows; multi-label.
        draws: logits drawn to know a classifier's macro-F1 on all texts of the kind; multi-label it is exact.
    """

    name: str
    rows: int
    shares: tuple[float, ...]
    several: bool = False
    counts: tuple[int, ...] | None = None
    tuned: bool = False
    draws: int = 10_000_000

    def labels(self, rng: np.random.Generator) -> Bits:
        while True:
            found = self._labels(rng)
            if found.sum(axis=0).min() >= FEWEST:
                return found

    def _labels(self, rng: np.random.Generator) -> Bits:
        classes = len(self.shares)
        if not self.several:
            fixed = None if self.counts is None else np.repeat(np.arange(classes), self.counts)
            drawn = rng.choice(classes, self.rows, p=self.shares) if fixed is None else fixed
            return np.eye(classes, dtype=np.int64)[drawn]
        if self.counts is not None:
            order = rng.random((self.rows, classes)).argsort(axis=0).argsort(axis=0)
            below: Bits = (order < np.array(self.counts)).astype(np.int64)
            return below
        common = rng.normal(size=(self.rows, 1))  # labels of a text are related
        related = math.sqrt(0.2) * common + math.sqrt(0.8) * rng.normal(size=(self.rows, classes))
        above: Bits = (related > -ndtri(self.shares)).astype(np.int64)
        return above


@dataclass(frozen=True)
class Classifier:
    """Logits: `skill` towards the truth, noise of variance one, and a leaning towards frequent classes (single-label)
    or towards labels (multi-label)."""

    data: Data
    skill: float
    leaning: float

    def logits(self, labels: Bits, noise: NDArray[Any]) -> NDArray[Any]:
        leaning = self.leaning if self.data.several else self.leaning * np.log(self.data.shares)
        logits: NDArray[Any] = self.skill * (2 * labels - 1 if self.data.several else labels) + leaning + noise
        return logits

    def guess(self, labels: Bits, noise: NDArray[Any]) -> tuple[Bits, float]:
        """Predictions, and their macro-F1 on all texts of the kind."""
        logits = self.logits(labels, noise)
        if not self.data.several:
            return np.eye(len(self.data.shares), dtype=np.int64)[logits.argmax(axis=1)], self.score()
        thresholds = [np.zeros(len(self.data.shares))] * 2
        half = first_half(labels)
        if self.data.tuned:
            thresholds = [tune_thresholds(logits[part].astype(np.float32), labels[part]) for part in (~half, half)]
        predicted = np.where(half[:, None], logits > thresholds[0], logits > thresholds[1])
        return predicted.astype(np.int64), self.score(thresholds)

    def score(self, thresholds: Sequence[NDArray[Any]] = (np.zeros(1),)) -> float:
        """Macro-F1 on all texts of the kind."""
        shares = np.array(self.data.shares)
        if self.data.several:
            hit = np.mean([ndtr(self.skill + self.leaning - threshold) for threshold in thresholds], axis=0)
            false = np.mean([ndtr(self.leaning - self.skill - threshold) for threshold in thresholds], axis=0)
            return float(np.mean(2 * shares * hit / (shares + shares * hit + (1 - shares) * false)))
        return _by_drawing(self)


@cache
def _by_drawing(model: Classifier) -> float:
    shares, rng = np.array(model.data.shares), np.random.default_rng(99)
    classes = len(shares)
    hits, guessed, each = np.zeros(classes), np.zeros(classes), model.data.draws // classes**2
    for k in range(classes):
        labels = np.zeros((each, classes), np.int64)
        labels[:, k] = 1
        found = model.logits(labels, rng.standard_normal((each, classes))).argmax(axis=1)
        part = np.bincount(found, minlength=classes) / each * shares[k]
        hits[k], guessed = part[k], guessed + part
    return float(np.mean(2 * hits / (shares + guessed)))


def as_good_as(data: Data, score: float, leaning: float) -> Classifier:
    """The classifier with this leaning and this macro-F1 on all texts of the kind."""
    low, high = -2.0, 14.0
    given = replace(data, tuned=False, draws=data.draws // 10)
    for _ in range(24):
        middle = (low + high) / 2
        is_low = Classifier(given, middle, leaning).score() < score
        low, high = (middle, high) if is_low else (low, middle)
    return Classifier(data, (low + high) / 2, leaning)


def kinds() -> Iterator[Data]:
    third = (1 / 3, 1 / 3, 1 / 3)
    for rows in (100, 200, 1000, 4000):
        yield Data("3 balanced classes", rows, third)
    for rows in (200, 1000, 4000):
        yield Data("5 classes, 2 to 55 %", rows, (0.55, 0.25, 0.15, 0.03, 0.02))
    for counts in ((120, 77, 3), (120, 75, 5), (97, 3)):
        yield fixed(f"{len(counts)} classes, one of {counts[-1]} rows", counts)
    yield fixed("5 classes of 3 to 5 rows", (3, 3, 4, 5, 5))
    yield fixed("5 classes of 3 rows", (3,) * 5)
    yield fixed("30 classes of 3 to 5 rows", (3, 4, 5) * 10)
    yield fixed("77 classes of 3 to 5 rows", ((3, 4, 5, 4) * 20)[:77])
    for thresholds in (False, True):
        several = tuple(max(share, 0.04) for share in EMOTIONS)  # of 100 rows, 2 % are too few to be three
        yield Data("11 labels, 4 to 40 %", 100, several, several=True, tuned=thresholds)
        for rows in (200, 1000, 4000):
            yield Data("11 labels, 2 to 40 %", rows, EMOTIONS, several=True, tuned=thresholds)
        three = (0.015, 0.2, 0.4)
        yield Data("3 labels, one of 3 rows", 200, three, several=True, counts=(3, 40, 80), tuned=thresholds)


def fixed(name: str, counts: tuple[int, ...]) -> Data:
    rows = sum(counts)
    return Data(name, rows, tuple(count / rows for count in counts), counts=counts)


# Both ways ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """Of one model and of the difference of two: bounds, and p."""

    one: tuple[float, float]
    two: tuple[float, float]
    p: float


def ours(truth: Bits, guesses: Sequence[Bits], tuned: bool) -> Said:
    first, second = (Counted.of(truth, guess) for guess in guesses)
    low, high, p = difference(first, second, tuned)
    return Said(interval(first, tuned), (low, high), p)


def bootstrap(truth: Bits, guesses: Sequence[Bits], resamples: int = RESAMPLES) -> Said:
    """The basic bootstrap (Davison and Hinkley, 1997, section 5.2), paired, on the same resamples for both."""
    found = [macro_f1(truth.sum(axis=0), guess.sum(axis=0), (truth & guess).sum(axis=0)) for guess in guesses]
    rng, rows = np.random.default_rng(0), len(truth)
    drawn = rng.integers(rows, size=(resamples, rows)) + rows * np.arange(resamples)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float32)
    sums = weights @ truth.astype(np.float32)
    each = [
        macro_f1(sums, weights @ guess.astype(np.float32), weights @ (truth & guess).astype(np.float32))
        for guess in guesses
    ]
    change, apart = found[0] - found[1], each[0] - each[1]
    beyond = min(int((apart <= 2 * change).sum()), int((apart >= 2 * change).sum()))
    return Said(_basic(each[0], found[0]), _basic(apart, change), min(1.0, 2 * (beyond + 1) / (resamples + 1)))


def macro_f1(true: NDArray[Any], guessed: NDArray[Any], hits: NDArray[Any]) -> Any:
    total = np.asarray(true + guessed, np.float64)
    return np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0).mean(axis=-1)


def _basic(drawn: NDArray[Any], found: float) -> tuple[float, float]:
    low, high = 2 * found - np.percentile(drawn, (97.5, 2.5))
    return float(min(low, found)), float(max(high, found))


# Figures --------------------------------------------------------------------------------------------------------------


def figures(data: Data, score: float, sets: int, rivals: bool = True, seed: int = 0) -> dict[str, Any]:
    """One line of the table."""
    leaning = -0.3 if data.several else 0.5
    same, better = as_good_as(data, score, leaning), as_good_as(data, score + GAP, leaning)
    leanings = (leaning - 0.4, leaning + 0.4)
    if data.tuned:  # thresholds make up for what classifiers lean to
        first, other = (replace(same, leaning=each) for each in leanings)
    else:
        first, other = (as_good_as(data, score, each) for each in leanings)
    pairs = {"same": (same, same), "other": (first, other), "better": (better, same)}
    if abs(first.score() - other.score()) > 0.02 and not data.tuned:  # with this leaning none is as bad as that
        del pairs["other"]
    ways: dict[str, Callable[[Bits, Sequence[Bits]], Said]] = {"": lambda truth, two: ours(truth, two, data.tuned)}
    ways |= {"bootstrap_": bootstrap} if rivals else {}
    counted: dict[str, list[float]] = {}
    rng = np.random.default_rng(seed)
    for _ in range(sets):
        truth = data.labels(rng)
        common = rng.normal(size=truth.shape)
        for kind, pair in pairs.items():
            noises = [math.sqrt(SHARED) * common + math.sqrt(1 - SHARED) * rng.normal(size=truth.shape) for _ in pair]
            drawn = [model.guess(truth, noise) for model, noise in zip(pair, noises, strict=True)]
            guesses, (one, two) = [guess for guess, _ in drawn], [true for _, true in drawn]
            for way, asked in ways.items():
                said = asked(truth, guesses)
                if kind == "same":
                    counted.setdefault(way + "held", []).append(said.one[0] <= one <= said.one[1])
                    counted.setdefault(way + "width", []).append(said.one[1] - said.one[0])
                if kind == "better":
                    counted.setdefault(way + "difference_held", []).append(said.two[0] <= one - two <= said.two[1])
                    counted.setdefault(way + "found", []).append(said.p < 0.05)
                else:
                    counted.setdefault(f"{way}{kind}_called_different", []).append(said.p < 0.05)
    what = {"figure": "intervals", "data": data.name, "rows": data.rows, "tuned": data.tuned, "f1": score, "sets": sets}
    return what | {name: round(float(np.mean(values)), 3) for name, values in sorted(counted.items())}


SPREADS: dict[str, Callable[[int], NDArray[Any]]] = {
    "equal": lambda top: np.ones(top),
    "one varies 4 times as much": lambda top: np.where(np.arange(top) == 0, 4.0, 1.0),
    "half vary 4 times as much": lambda top: np.where(np.arange(top) < top // 2, 4.0, 1.0),
}


def tables(top: int, seeds: int, spread: str, sets: int) -> dict[str, Any]:
    """Tables of equally good configurations in which some row is called behind the first."""
    rng, wrong = np.random.default_rng(top * 100 + seeds), {"together": 0, "each_row_alone": 0}
    deviations = SPREADS[spread](top)[:, None]
    for _ in range(sets):
        scores = deviations * rng.normal(size=(top, seeds)) + rng.normal(size=seeds)
        scores = scores[np.argsort(-scores.mean(axis=1))]
        found = behind_first([dict(enumerate(own.tolist())) for own in scores])
        wrong["together"] += any(row is not None and row.low > 0 for row in found)
        wrong["each_row_alone"] += bool((ttest_rel(scores[:1], scores[1:], axis=1).pvalue < 0.05).any())
    what = {"figure": "retrain", "top": top, "seeds": seeds, "spread": spread, "sets": sets}
    return what | {name: round(count / sets, 3) for name, count in wrong.items()}


def seconds(studies: int, rows: int, classes: int) -> dict[str, Any]:
    """Of all intervals and pairs of a page."""
    data = Data("", rows, (0.3,) * classes, several=True)
    rng = np.random.default_rng(0)
    truth = data.labels(rng)
    guesses = [Classifier(data, 1.0, 0.0).guess(truth, rng.normal(size=truth.shape))[0] for _ in range(studies)]
    began = time.perf_counter()
    counted = [Counted.of(truth, guess) for guess in guesses]
    _ = [interval(one) for one in counted], [difference(a, b) for i, a in enumerate(counted) for b in counted[:i]]
    took = time.perf_counter() - began
    return {"figure": "seconds", "studies": studies, "rows": rows, "labels": classes, "seconds": round(took, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="of each line; fewer where the rows are many")
    parser.add_argument("--quick", action="store_true", help="a tenth of the sets, and at most 200 rows")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="data whose name has one of these")
    given = parser.parse_args()
    if given.sets < 10:
        parser.error(f"--sets: expected a number of at least 10, got {given.sets}")
    sets = given.sets // 10 if given.quick else given.sets
    for data in kinds():
        if (given.quick and data.rows > 200) or (given.only and not any(word in data.name for word in given.only)):
            continue
        for score in QUALITIES:
            line = figures(data, score, max(10, sets * min(1000, 1_000_000 // data.rows) // 1000))
            print(json.dumps(line), flush=True)
    for top in () if given.only else (3, 5, 10):
        for count in (3, 5, 10):
            for spread in SPREADS:
                print(json.dumps(tables(top, count, spread, 4 * sets)), flush=True)
    for studies, rows, classes in (
        () if given.only else ((20, 1000, 11), (20, 4000, 11), (20, 3000, 77), (50, 1000, 11))
    ):
        print(json.dumps(seconds(studies, rows, classes)), flush=True)


if __name__ == "__main__":
    main()
