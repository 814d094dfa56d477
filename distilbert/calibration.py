"""One number that makes a classifier's confidence honest."""

import math

import numpy as np

from .metrics import cross_entropy

LEAST, MOST = 0.05, 20.0  # temperatures: a fit that ends at one of them has found none


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T that makes logits / T likeliest on held-out labels (Guo et al. 2017, section 4.2), sought from LEAST to MOST.

    One number can't change which class is largest, so the accuracy stays; only the confidence moves. Where all labels are
    judged right no T is too small, and the lower end is what comes out. By golden section.
    """
    low, high, golden = math.log(LEAST), math.log(MOST), (math.sqrt(5) - 1) / 2
    for _ in range(60):  # each turn keeps 0.618 of the interval: 6.0 · 0.618⁶⁰ is below 1e-11
        left, right = high - golden * (high - low), low + golden * (high - low)
        if cross_entropy(logits / math.exp(left), labels) <= cross_entropy(logits / math.exp(right), labels):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)
