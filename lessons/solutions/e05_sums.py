"""Solution of lesson 5, exercise 3."""

import math


def corpus_perplexity(batches: list[tuple[float, int]]) -> float:
    return math.exp(sum(loss * count for loss, count in batches) / sum(count for _, count in batches))
