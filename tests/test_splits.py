"""Splitting one table: what holds for any table, and which tables are split as in version 0.1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from peftsweep.config import SplitConfig
from peftsweep.data.splits import split_table
from peftsweep.data.table import Table
from peftsweep.errors import DataError

Rows = NDArray[np.int64]


def parts(
    texts: list[str], labels: NDArray[Any], said: list[str] | None = None, *, as_0_1: bool = False, **split: Any
) -> dict[str, Rows]:
    """The rows of each split."""
    table = Table("tweets.csv", {"place": list(range(len(texts)))}, list(range(1, len(texts) + 1)))
    found = split_table(
        table,
        texts,
        labels,
        SplitConfig.model_validate(split),
        [].append if said is None else said.append,
        as_0_1=as_0_1,
    )
    return {name: np.array(part.column("place")) for name, part in found.items()}


def labels_in(labels: NDArray[Any], rows: Rows) -> set[int]:
    return set(labels[rows].tolist()) if labels.ndim == 1 else set(np.flatnonzero(labels[rows].any(axis=0)).tolist())


def label_shares(labels: NDArray[Any], rows: Rows) -> NDArray[Any]:
    return (
        np.bincount(labels[rows], minlength=labels.max() + 1) / len(rows) if labels.ndim == 1 else labels[rows].mean(0)
    )


SPLITS: list[dict[str, Any]] = [
    {"validation": 0.1},
    {"validation": 0.2, "test": 0.15},
    {"validation": 9, "test": 7},
    {"train": 30, "validation": 8},
    {"train": 0.5, "validation": 0.2, "test": 0.3},
]


def random_table(rng: np.random.Generator) -> tuple[list[str], NDArray[Any]]:
    """Some texts repeat, not always with the same label; some labels have one row; a text has one label or several."""
    n = int(rng.integers(40, 160))
    texts = [f"text {i}" for i in rng.integers(0, rng.integers(n // 2, 3 * n), n)]
    rare = rng.dirichlet(np.full(int(rng.integers(3, 12)), 0.5))
    labels: NDArray[Any] = rng.choice(len(rare), n, p=rare)
    if rng.random() < 0.5:  # the same label for the same text
        labels = np.array([labels[texts.index(text)] for text in texts])
    if rng.random() < 0.5:
        return texts, np.unique(labels, return_inverse=True)[1]
    flags = (rng.random((n, len(rare))) < rare).astype(np.float32)
    flags[np.arange(n), labels] = 1
    return texts, flags[:, flags.any(axis=0)]


@pytest.mark.parametrize("number", range(len(SPLITS)))
def test_the_splits_of_any_table_share_no_text_and_training_has_every_label(number: int) -> None:
    for seed in range(25):
        texts, labels = random_table(np.random.default_rng([number, seed]))
        said: list[str] = []
        split = SPLITS[number] | {"seed": seed}
        found, drawn = parts(texts, labels, said, **split), parts(texts, labels, as_0_1=True, **split)
        rows = np.concatenate(list(found.values()))
        assert len(set(rows.tolist())) == len(rows) and (len(rows) == len(texts) or "train" in split)
        assert all((part == np.sort(part)).all() for part in found.values())
        where = {(texts[row], name) for name, part in found.items() for row in part}
        assert len(where) == len({text for text, _ in where}), f"seed {seed}: a text in two splits"
        assert labels_in(labels, found["train"]) == labels_in(labels, np.arange(len(texts))), f"seed {seed}"
        most = max(Counter(texts).values())
        for name, part in found.items():  # copies stay together, so at most half of them are too many or too few
            assert abs(len(part) - len(drawn[name])) <= most / 2, f"seed {seed}: {name}"
            assert (len(part) != len(drawn[name])) == any(f"data.split.{name}: " in line for line in said)


@pytest.mark.parametrize("several", [True, False])
def test_labels_are_as_frequent_in_each_split_as_in_all_rows_even_if_a_third_are_copies(several: bool) -> None:
    rng = np.random.default_rng(5)
    texts = [f"text {i}" for i in rng.integers(0, 1200, 1500)]
    of = [int(text.split()[1]) for text in texts]
    labels: NDArray[Any] = rng.choice(4, 1200, p=[0.5, 0.3, 0.15, 0.05])[of]
    if several:
        labels = (rng.random((1200, 5)) < [0.4, 0.3, 0.2, 0.1, 0.05]).astype(np.float32)[of]
    found, every = parts(texts, labels, validation=0.1, test=0.2), np.arange(len(texts))
    assert [len(found[name]) for name in ("train", "validation", "test")] == [1050, 150, 300]
    for name, part in found.items():  # one row of 150 is a share of 0.0067
        assert np.abs(label_shares(labels, part) - label_shares(labels, every)).max() < 0.007, name


def test_a_table_without_copies_is_split_as_in_version_0_1() -> None:
    texts = [f"text {i}" for i in range(200)]
    rng = np.random.default_rng(0)
    for labels in (rng.choice(4, 200), (rng.random((200, 4)) < 0.3).astype(np.float32)):
        for split in SPLITS:
            found, drawn = parts(texts, labels, **split), parts(texts, labels, as_0_1=True, **split)
            assert found.keys() == drawn.keys() and all((found[name] == drawn[name]).all() for name in drawn)


def test_copies_that_are_all_in_one_split_or_in_none_change_nothing() -> None:
    texts, labels = [f"text {i}" for i in range(200)], np.arange(200) % 3
    drawn = parts(texts, labels, train=100, validation=20)
    for name in ("train", "validation"):
        texts[drawn[name][0]] = texts[drawn[name][1]]
    unused = np.setdiff1d(np.arange(200), np.concatenate(list(drawn.values())))
    texts[unused[0]] = texts[drawn["train"][5]]
    found = parts(texts, labels, train=100, validation=20)
    assert all((found[name] == drawn[name]).all() for name in drawn)


def test_a_label_of_one_row_or_of_one_text_goes_to_training() -> None:
    texts = [f"text {i}" for i in range(60)]
    labels = np.array([0] * 28 + [1] * 28 + [2, 3, 4, 4])
    texts[-1] = texts[-2]
    for seed in range(20):
        found = parts(texts, labels, validation=0.3, test=0.3, seed=seed)
        assert {2, 3, 4} <= labels_in(labels, found["train"])
        assert not {2, 3, 4} & (labels_in(labels, found["validation"]) | labels_in(labels, found["test"]))


def test_a_label_of_two_rows_has_at_least_one_in_training() -> None:
    labels = np.array([0] * 20 + [1, 1])
    for seed in range(20):
        assert 1 in labels_in(
            labels, parts([str(i) for i in range(22)], labels, validation=0.4, test=0.3, seed=seed)["train"]
        )


def test_a_text_with_hundreds_of_copies_does_not_fill_a_smaller_split() -> None:
    texts, labels = ["thanks"] * 300 + [f"text {i}" for i in range(300)], np.arange(600) % 2
    for seed in range(5):
        found = parts(texts, labels, validation=60, seed=seed)
        assert {name: len(part) for name, part in found.items()} == {"train": 540, "validation": 60}
        assert {texts[row] for row in found["validation"]}.isdisjoint({"thanks"})


@pytest.mark.parametrize("n", range(2, 9))
def test_validation_gets_one_of_few_rows_if_training_can_spare_it(n: int) -> None:
    labels = np.array([0, 1, *[0] * (n - 2)])
    if n == 2:
        with pytest.raises(DataError, match=r"data\.split\.validation: tweets\.csv has no row left for validation"):
            parts(["a", "b"], labels, validation=0.1)
        return
    found = parts([str(i) for i in range(n)], labels, validation=0.1)
    assert len(found["validation"]) == 1 and len(found["train"]) == n - 1


def test_validation_gets_only_texts_whose_label_has_another_text() -> None:
    with pytest.raises(DataError, match=r"data\.split\.validation: .*training needs"):
        parts([str(i) for i in range(9)], np.arange(9), validation=2)
    said: list[str] = []
    found = parts([str(i) for i in range(9)], np.array([*range(8), 0]), said, validation=3)
    assert len(found["validation"]) == 1
    assert "data.split.validation: 1 rows instead of 3: " in said[1]


def test_training_has_all_labels_even_if_fewer_rows_were_asked_for() -> None:
    said: list[str] = []
    found = parts([str(i) for i in range(90)], np.arange(90) % 9, said, train=4, validation=10)
    assert len(found["train"]) == 9 and len(found["validation"]) == 10
    assert said == [
        "data.split.train: 9 rows instead of 4: all copies of a text go to one split, and training gets a text of "
        "each label"
    ]


def test_fractions_that_are_rounded_up_leave_a_row_for_training() -> None:
    found: Mapping[str, Rows] = parts(["a", "b", "c"], np.array([0, 0, 0]), validation=0.45, test=0.5)
    assert sorted(len(part) for part in found.values()) == [1, 1, 1]
