"""Lesson 7, exercise 1: float32 to bfloat16, by the bits."""

import numpy as np
import torch


def round_to_bf16(x: np.ndarray) -> np.ndarray:
    """The nearest bf16 numbers, ties to the one whose last bit is 0: float32 (N,), finite -> float32 (N,).

    bf16 is the upper 16 bits of a float32. x.view(np.uint32) shows the bits, and back: bits.view(np.float32).
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e07_round_to_bf16.py


def check(numbers: list[float] | np.ndarray) -> None:
    x = np.asarray(numbers, dtype=np.float32)
    np.testing.assert_array_equal(round_to_bf16(x), torch.from_numpy(x).bfloat16().float().numpy())


def test_to_the_nearest():
    check([1.0, 1.001, 1.007, -1.007, 0.001, 3.14159, 0.0])


def test_ties_go_to_even():
    check([1 + 1 / 256, 1 + 3 / 256, 257.0, 259.0, -257.0, -259.0])


def test_any_number():
    random = np.random.default_rng(0)
    check((random.standard_normal(10_000) * 10.0 ** random.integers(-30, 30, 10_000)).astype(np.float32))
    check([3.3e38, 1e-40])
