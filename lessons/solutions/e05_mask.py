"""Solution of lesson 5, exercise 1. One draw decides each fate: two independent ones would overlap."""

import numpy as np


def mask(
    ids: np.ndarray, random: np.random.Generator, vocab_size: int, mask_id: int, special_ids: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    chosen = (random.random(len(ids)) < 0.15) & ~np.isin(ids, special_ids)
    fate = random.random(len(ids))
    hidden = np.where(chosen & (fate < 0.8), mask_id, ids)
    other = chosen & (fate >= 0.8) & (fate < 0.9)
    hidden = np.where(other, random.integers(0, vocab_size, len(ids)), hidden)
    return hidden, np.where(chosen, ids, -100)
