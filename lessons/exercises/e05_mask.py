"""Lesson 5, exercise 1: which tokens are hidden, and behind what."""

import numpy as np


def mask(
    ids: np.ndarray, random: np.random.Generator, vocab_size: int, mask_id: int, special_ids: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Hides tokens as BERT does: ids (T,) -> (ids with some replaced, labels: the true id where chosen, else -100).

    15% of the tokens that are not special are chosen; of these 80% become mask_id, 10% a random id below vocab_size, and
    10% stay as they are. `ids` itself is not changed.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e05_mask.py

SPECIAL = [0, 1, 2, 3, 4]


def masked(count: int = 200_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.concatenate([[2], np.full(count, 7), [3], np.zeros(1_000, dtype=int)])  # text, then padding
    return ids, *mask(ids.copy(), np.random.default_rng(seed), vocab_size=50, mask_id=4, special_ids=SPECIAL)


def test_who_is_chosen():
    ids, _, labels = masked()
    assert abs((labels != -100).sum() / 200_000 - 0.15) < 0.005
    assert (labels[np.isin(ids, SPECIAL)] == -100).all(), "specials are nothing to guess"
    assert (labels[labels != -100] == 7).all(), "a label is the true id"


def test_what_becomes_of_them():
    ids, hidden, labels = masked()
    chosen = labels != -100
    assert (hidden == ids)[~chosen].all(), "what is not graded is not changed"
    fate = hidden[chosen]
    random = 0.1 * 48 / 50  # a random id can be the mask or the word itself
    assert abs((fate == 4).mean() - (0.8 + 0.1 / 50)) < 0.01
    assert abs((fate == 7).mean() - (0.1 + 0.1 / 50)) < 0.01
    assert abs(((fate != 4) & (fate != 7)).mean() - random) < 0.01
    assert set(fate) == set(range(50)), "random ids come from the whole vocabulary"


def test_chance_decides_and_anew_for_each_reading():
    _, hidden, labels = masked()
    chosen = labels != -100
    for part in (slice(0, 100_000), slice(100_000, 200_000)):
        assert abs(chosen[part].mean() - 0.15) < 0.01, "every place is as likely as another"
        assert abs((hidden[part][chosen[part]] == 4).mean() - 0.8) < 0.02, "and so is every fate"
    assert 0.01 < (chosen & (masked(seed=1)[2] != -100)).mean() < 0.04, "another reading hides other places: 0.15² are the same"


def test_its_argument_stays_whole():
    ids = np.full(1_000, 7)
    mask(ids, np.random.default_rng(0), vocab_size=50, mask_id=4, special_ids=SPECIAL)
    assert (ids == 7).all()
