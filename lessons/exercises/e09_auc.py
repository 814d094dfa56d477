"""Lesson 9, exercise 1: ROC-AUC, by what it means."""

import numpy as np

from distilbert.metrics import roc_auc


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of pairs (positive, negative) in which the positive has the higher score; an equal score counts half.

    scores (N,), labels (N,) of 0 and 1. N is small: compare them all, without `roc_auc`.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e09_auc.py


def test_the_ten_reviews():
    scores = np.array([0.95, 0.90, 0.80, 0.70, 0.60, 0.40, 0.30, 0.20, 0.10, 0.05])
    assert abs(auc(scores, np.array([1, 1, 0, 1, 1, 0, 1, 0, 0, 0])) - 0.84) < 1e-12


def test_it_is_the_one_by_ranks_with_many_ties():
    random = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = random.integers(0, 5, 30) / 4, random.integers(0, 2, 30)
        assert abs(auc(scores, labels) - roc_auc(scores, labels)) < 1e-12


def test_a_coin_and_an_oracle():
    labels = np.array([0, 1, 0, 1])
    assert auc(np.zeros(4), labels) == 0.5
    assert auc(labels.astype(float), labels) == 1.0
