"""Lesson 6, exercise 2: another schedule."""

import math


def cosine_factor(step: int, total_steps: int, warmup_steps: int, floor: float = 0.0) -> float:
    """What the peak rate is multiplied by in step 0, 1, …, total_steps.

    Up in a line from 0 (at step 0) to 1 (at step warmup_steps), then down to `floor` (at step total_steps) along half a
    cosine: slowly at both ends. Where all is warmup, the last step has 1.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e06_schedule.py


def test_values_by_hand():
    expected = {0: 0.0, 1: 0.25, 4: 1.0, 8: 0.8536, 12: 0.5, 16: 0.1464, 20: 0.0}
    for step, factor in expected.items():
        assert math.isclose(cosine_factor(step, 20, 4), factor, abs_tol=1e-4), step


def test_the_floor():
    for step, factor in {4: 1.0, 12: 0.55, 20: 0.1}.items():
        assert math.isclose(cosine_factor(step, 20, 4, floor=0.1), factor, abs_tol=1e-9), step
    assert cosine_factor(1, 20, 4, floor=0.5) == 0.25, "the warmup begins at zero, whatever the floor"


def test_without_warmup_and_with_nothing_else():
    assert cosine_factor(0, 10, 0) == 1.0
    assert cosine_factor(10, 10, 10) == 1.0
