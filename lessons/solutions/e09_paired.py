"""Solution of lesson 9, exercise 2."""

import math

import numpy as np


def paired_p(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> float:
    only_a = int(((a == labels) & (b != labels)).sum())
    only_b = int(((a != labels) & (b == labels)).sum())
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(max(only_a, only_b), n + 1)) / 2**n
    return min(1.0, 2 * tail)
