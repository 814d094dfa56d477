"""Lesson 7, exercise 2: a loss scaler."""

import math


class Scaler:
    """Multiplies the loss by `scale`, which is halved at an overflow and doubled after `patience` good steps in a row."""

    def __init__(self, scale: float = 1024.0, patience: int = 3):
        self.scale, self.patience = scale, patience

    def step(self, scaled_gradients: list[float]) -> list[float] | None:
        """The gradients without the scale; None, "skip this step", if one is infinite or NaN. Then sets the next scale."""
        raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e07_loss_scaler.py


def test_good_steps_are_unscaled_and_at_last_doubled():
    scaler = Scaler()
    for expected in (1024.0, 1024.0, 2048.0):
        assert scaler.step([scaler.scale * 0.5, -scaler.scale]) == [0.5, -1.0]
        assert scaler.scale == expected


def test_an_overflow_is_skipped_and_halves():
    for broken in (math.inf, -math.inf, math.nan):
        scaler = Scaler()
        assert scaler.step([1.0, broken]) is None
        assert scaler.scale == 512.0


def test_the_patience_begins_anew_after_an_overflow_and_after_a_doubling():
    scaler = Scaler(scale=8.0, patience=2)
    scales = []
    for gradient in (1.0, math.inf, 1.0, 1.0, 1.0, 1.0, 1.0):
        scaler.step([gradient])
        scales.append(scaler.scale)
    assert scales == [8.0, 4.0, 4.0, 8.0, 8.0, 16.0, 16.0]
