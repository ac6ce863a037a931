"""Scores, confusion matrices, stratified samples and tuned thresholds of single-label and multi-label tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split
from torch import nn

from peftsweep.task import Task, probabilities, stratified_sample, tune_thresholds
from tests.numbers import same

MULTI = Task("multi-label", ("a", "b", "c"))
SINGLE = Task("single-label", ("x", "y", "z"))
TRUE = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=np.float32)
LOGITS = np.array([[2, -1, -1], [1, -1, -1], [-1, -1, 1], [-1, 3, -1]], dtype=np.float32)


def test_multi_label_scores_equal_those_computed_by_hand() -> None:
    scores = MULTI.scores(LOGITS, TRUE)
    # a: 2 of 2 found; b: 1 of 2 found; c: one false alarm, no true row
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores["accuracy"] == pytest.approx(2 / 4)
    assert scores["jaccard"] == pytest.approx((1 + 1 / 2 + 0 + 1) / 4)
    assert scores["loss"] == pytest.approx(np.mean(np.log1p(np.exp(-LOGITS * (2 * TRUE - 1)))))


def test_single_label_scores_equal_those_computed_by_hand() -> None:
    logits = np.array([[2, 1, 0], [0, 2, 1], [3, 1, 2]], dtype=np.float32)
    scores = SINGLE.scores(logits, np.array([0, 1, 2]))
    assert scores["accuracy"] == scores["micro_f1"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores["jaccard"] == pytest.approx((1 / 2 + 1 + 0) / 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_logit_makes_every_score_nan(bad: float) -> None:
    logits = LOGITS.copy()
    logits[1, 1] = bad
    assert all(np.isnan(value) for value in MULTI.scores(logits, TRUE).values())


@pytest.mark.numbers
def test_the_mean_row_loss_is_that_of_transformers_heads() -> None:
    logits, labels = torch.from_numpy(LOGITS), torch.from_numpy(TRUE)
    same(MULTI.row_loss(logits, labels).mean(), nn.BCEWithLogitsLoss()(logits, labels))
    classes = torch.tensor([0, 2, 1, 1])
    same(SINGLE.row_loss(logits, classes).mean(), nn.CrossEntropyLoss()(logits, classes))


def test_per_class_rows_agree_with_the_confusion_matrix() -> None:
    rows, counts = MULTI.per_class(LOGITS, TRUE), MULTI.confusion(LOGITS, TRUE)
    assert counts.shape == (3, 2, 2) and (counts.sum(axis=(1, 2)) == 4).all()
    assert [row["label"] for row in rows] == ["a", "b", "c"]
    assert [row["support"] for row in rows] == counts[:, 1].sum(axis=1).tolist()
    assert [row["recall"] for row in rows] == [1.0, 0.5, 0.0]
    assert SINGLE.confusion(LOGITS, np.array([0, 0, 2, 1])).tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_stratified_rows_keep_the_labels_shares() -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice(3, size=1000, p=[0.7, 0.2, 0.1])
    chosen = stratified_sample(classes, 300, seed=1)
    assert len(set(chosen)) == 300 and (chosen == np.sort(chosen)).all()
    assert np.abs(np.bincount(classes[chosen]) / 300 - np.bincount(classes) / 1000).max() < 0.005
    assert (stratified_sample(classes, 300, seed=1) == chosen).all()
    assert (stratified_sample(classes, 300, seed=2) != chosen).any()


@pytest.mark.parametrize("seed", range(20))
def test_stratified_rows_are_those_that_scikit_learn_draws(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat(np.arange(0, 10, 2), rng.integers(2, 60, 5)))
    for size in rng.integers(5, len(classes) - 5, 5):
        _, drawn = train_test_split(np.arange(len(classes)), test_size=size, random_state=seed, stratify=classes)
        assert (stratified_sample(classes, size, seed) == np.sort(drawn)).all()


def test_rows_of_a_single_class_are_those_that_scikit_learn_draws() -> None:
    _, drawn = train_test_split(np.arange(50), test_size=20, random_state=3)
    assert (stratified_sample(np.zeros(50, np.int64), 20, seed=3) == np.sort(drawn)).all()


def test_stratified_multi_label_rows_keep_rare_labels() -> None:
    labels = (np.random.default_rng(0).random((400, 4)) < [0.5, 0.2, 0.05, 0.02]).astype(np.float32)
    chosen = stratified_sample(labels, 100, seed=0)
    assert len(set(chosen)) == 100
    assert np.abs(labels[chosen].mean(axis=0) - labels.mean(axis=0)).max() < 0.02


def test_a_class_of_one_row_does_not_stop_the_split() -> None:
    assert len(stratified_sample(np.array([0] * 9 + [1]), 3, seed=0)) == 3


def test_rare_classes_leave_the_others_stratified() -> None:
    classes = np.array([0] * 60 + [1] * 30 + [2] * 10 + [3, 4, 5, 5])
    chosen = stratified_sample(classes, 52, seed=3)
    assert len(set(chosen)) == 52
    assert np.bincount(classes[chosen], minlength=6)[:3].tolist() == [30, 15, 5]


def test_fewer_rows_than_classes_can_still_be_drawn() -> None:
    assert len(stratified_sample(np.arange(20) % 7, 3, seed=0)) == 3


def test_tuned_thresholds_are_those_of_the_highest_f1() -> None:
    """They are compared with every possible threshold; some logits are equal, and one label has no row."""
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels = (rng.random((60, 5)) < [0.5, 0.3, 0.1, 0.03, 0.0]).astype(np.float32)
    labels[0, 3] = 1
    logits = (rng.normal(size=(60, 5)) + labels - 0.5).round(1).astype(np.float32)
    thresholds = tune_thresholds(logits, labels)
    for label in range(4):
        ours = f1_score(labels[:, label], logits[:, label] > thresholds[label])
        every = [f1_score(labels[:, label], logits[:, label] > threshold) for threshold in np.arange(-5.05, 5, 0.1)]
        assert ours == pytest.approx(max(every)), label
    assert thresholds[4] == 0


def test_of_equally_good_thresholds_the_one_nearest_to_one_half_is_taken() -> None:
    labels = np.array([[1, 1, 1], [0, 0, 0]], np.float32)
    logits = np.array([[2.0, 5.0, -1.0], [-1.0, 3.0, -3.0]], np.float32)
    assert tune_thresholds(logits, labels).tolist() == [0.0, 4.0, -2.0]


def test_the_tuned_score_is_not_computed_on_the_rows_that_it_was_tuned_on() -> None:
    """Tuning on the scored rows would give even random logits a higher score; here it does not."""
    task, gains = Task("multi-label", ("a", "b", "c", "d")), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, logits = (rng.random((80, 4)) < 0.2).astype(np.float32), rng.normal(size=(80, 4)).astype(np.float32)
        best_constant = task.scores(np.ones_like(logits), labels)["macro_f1"]  # every label is predicted for every row
        predicted = np.where(logits > tune_thresholds(logits, labels), 1, -1).astype(np.float32)
        seen = task.scores(predicted, labels)["macro_f1"]
        gains.append((task.scores(logits, labels)["macro_f1_tuned"] - best_constant, seen - best_constant))
    unseen, seen = np.mean(gains, axis=0)
    assert seen > 0.02 and unseen < 0.0


def test_labels_that_need_another_threshold_are_found_when_it_is_tuned() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 3)) < 0.2).astype(np.float32)
    logits = (4 * labels - 4 + rng.normal(size=(200, 3)) / 4).astype(np.float32)  # all below one half
    scores = MULTI.scores(logits, labels)
    assert scores["macro_f1"] < 0.8 and scores["macro_f1_tuned"] > 0.99
    assert "macro_f1_tuned" not in SINGLE.scores(logits, np.zeros(200, np.int64))
    assert 0 <= MULTI.scores(logits[:1], labels[:1])["macro_f1_tuned"] <= 1  # a single row has no halves


def test_both_halves_have_about_as_many_rows_of_each_label() -> None:
    from peftsweep.task.thresholds import first_half

    rng = np.random.default_rng(1)
    labels = (rng.random((300, 4)) < [0.5, 0.2, 0.05, 0.02]).astype(np.float32)
    first = first_half(labels)
    assert abs(int(first.sum()) - 150) <= 1
    assert (np.abs(labels[first].sum(axis=0) - labels[~first].sum(axis=0)) <= 8).all()  # of 150, 60, 15 and 6 rows
    assert abs(labels[first, 3].sum() - labels[~first, 3].sum()) <= 1  # the rarest label


def test_probabilities_are_those_of_the_logistic_function() -> None:
    logits = np.array([-1000.0, -2.0, 0.0, 3.0, 1000.0])
    assert probabilities(logits).tolist() == pytest.approx([0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-3)), 1])
