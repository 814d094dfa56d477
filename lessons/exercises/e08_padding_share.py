"""Lesson 8, exercise 1: padding, counted and avoided."""

import random


def padding_share(lengths: list[int], batches: list[list[int]]) -> float:
    """The share of padding among all cells, 0 to 1. batches: lists of indices into lengths, each padded to its longest."""
    raise NotImplementedError("your turn")


def tight_batches(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Batches of batch_size, every index once, each of neighbours in length; a smaller one is the first or the last."""
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e08_padding_share.py


def test_the_four_reviews_of_the_lesson():
    assert abs(padding_share([3, 9, 4, 10], [[0, 1], [2, 3]]) - 12 / 38) < 1e-9
    assert abs(padding_share([3, 9, 4, 10], [[0, 2], [1, 3]]) - 2 / 28) < 1e-9
    assert padding_share([5, 5], [[0], [1]]) == 0


def test_tight_batches_hold_everything_once_and_little_else():
    lengths = random.Random(0).choices(range(3, 500), k=103)
    batches = tight_batches(lengths, 10)
    assert sorted(i for batch in batches for i in batch) == list(range(103))
    assert sorted(map(len, batches)) == [3] + [10] * 10
    order = sorted(range(103), key=lambda i: lengths[i])
    upwards, downwards = ([o[start : start + 10] for start in range(0, 103, 10)] for o in (order, order[::-1]))
    share = padding_share(lengths, batches)
    assert share <= max(padding_share(lengths, upwards), padding_share(lengths, downwards)) + 1e-9
