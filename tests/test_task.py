from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from peftsweep.task import Task, stratified

MULTI = Task("multi-label", ("a", "b", "c"))
SINGLE = Task("single-label", ("x", "y", "z"))
TRUE = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=np.float32)
LOGITS = np.array([[2, -1, -1], [1, -1, -1], [-1, -1, 1], [-1, 3, -1]], dtype=np.float32)


def test_multi_label_scores_by_hand() -> None:
    scores = MULTI.scores(LOGITS, TRUE)
    # a: 2 of 2 found; b: 1 of 2 found; c: one false alarm, no true row
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores["accuracy"] == pytest.approx(2 / 4)
    assert scores["jaccard"] == pytest.approx((1 + 1 / 2 + 0 + 1) / 4)
    assert scores["loss"] == pytest.approx(np.mean(np.log1p(np.exp(-LOGITS * (2 * TRUE - 1)))), rel=1e-6)


def test_single_label_scores_by_hand() -> None:
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


def test_the_mean_row_loss_is_that_of_transformers_heads() -> None:
    logits, labels = torch.from_numpy(LOGITS), torch.from_numpy(TRUE)
    assert torch.allclose(MULTI.row_loss(logits, labels).mean(), nn.BCEWithLogitsLoss()(logits, labels))
    classes = torch.tensor([0, 2, 1, 1])
    assert torch.allclose(SINGLE.row_loss(logits, classes).mean(), nn.CrossEntropyLoss()(logits, classes))


def test_per_class_rows_agree_with_the_confusion() -> None:
    rows, counts = MULTI.per_class(LOGITS, TRUE), MULTI.confusion(LOGITS, TRUE)
    assert counts.shape == (3, 2, 2) and (counts.sum(axis=(1, 2)) == 4).all()
    assert [row["label"] for row in rows] == ["a", "b", "c"]
    assert [row["support"] for row in rows] == counts[:, 1].sum(axis=1).tolist()
    assert [row["recall"] for row in rows] == [1.0, 0.5, 0.0]
    assert SINGLE.confusion(LOGITS, np.array([0, 0, 2, 1])).tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_stratified_rows_keep_the_labels_shares() -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice(3, size=1000, p=[0.7, 0.2, 0.1])
    chosen = stratified(classes, 300, seed=1)
    assert len(set(chosen)) == 300 and (chosen == np.sort(chosen)).all()
    assert np.abs(np.bincount(classes[chosen]) / 300 - np.bincount(classes) / 1000).max() < 0.005
    assert (stratified(classes, 300, seed=1) == chosen).all()
    assert (stratified(classes, 300, seed=2) != chosen).any()


def test_stratified_multi_label_rows_keep_rare_labels() -> None:
    labels = (np.random.default_rng(0).random((400, 4)) < [0.5, 0.2, 0.05, 0.02]).astype(np.float32)
    chosen = stratified(labels, 100, seed=0)
    assert len(set(chosen)) == 100
    assert np.abs(labels[chosen].mean(axis=0) - labels.mean(axis=0)).max() < 0.02


def test_a_class_of_one_row_does_not_stop_the_split() -> None:
    assert len(stratified(np.array([0] * 9 + [1]), 3, seed=0)) == 3


def test_rare_classes_leave_the_others_stratified() -> None:
    classes = np.array([0] * 60 + [1] * 30 + [2] * 10 + [3, 4, 5, 5])
    chosen = stratified(classes, 52, seed=3)
    assert len(set(chosen)) == 52
    assert np.bincount(classes[chosen], minlength=6)[:3].tolist() == [30, 15, 5]


def test_fewer_rows_than_classes_can_still_be_drawn() -> None:
    assert len(stratified(np.arange(20) % 7, 3, seed=0)) == 3
