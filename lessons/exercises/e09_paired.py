"""Lesson 9, exercise 2: two models on the same reviews."""

import numpy as np


def paired_p(a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> float:
    """How often two equally good models would differ at least as unequally as these two: McNemar's test, exact, two-sided.

    a, b, labels (N,): two models' verdicts and the truth. Only reviews that exactly one of them judged rightly count; each is
    a coin's throw. 1 where there are none, and never above 1.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e09_paired.py


def verdicts(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = [both, only_a, only_b, neither]
    labels = np.arange(sum(counts)) % 2
    a_right, b_right = np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)
    return np.where(a_right, labels, 1 - labels), np.where(b_right, labels, 1 - labels), labels


def test_the_two_models_of_the_lesson():
    assert abs(paired_p(*verdicts(176, 4, 7, 13)) - 0.5488) < 1e-4
    assert abs(paired_p(*verdicts(176, 7, 4, 13)) - 0.5488) < 1e-4


def test_what_would_convince():
    assert abs(paired_p(*verdicts(170, 0, 11, 19)) - 2 / 2**11) < 1e-12


def test_errors_of_two_kinds_are_both_errors():
    a, b, labels = verdicts(both=170, only_a=0, only_b=11, neither=19)
    a[-19:], b[-19:], labels[-19:] = 1, 2, 0  # of three classes: both are wrong, each in its own way
    assert abs(paired_p(a, b, labels) - 2 / 2**11) < 1e-12


def test_nothing_to_tell_them_apart():
    assert paired_p(*verdicts(90, 0, 0, 10)) == 1.0
    assert paired_p(*verdicts(80, 5, 5, 10)) == 1.0
