"""Lesson 4, exercise 1: layer norm from its formula."""

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
    """(x - mean) / √(variance + epsilon) · scale + shift, over the last dimension: x (..., D), scale and shift (D,).

    The variance is the mean square deviation: divided by D, not by D - 1.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e04_layer_norm.py


def test_the_vector_of_the_lesson():
    normed = layer_norm(torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.ones(4), torch.zeros(4), 1e-12)
    torch.testing.assert_close(normed, torch.tensor([-1.069, -0.5345, 0.0, 1.6036]), atol=1e-4, rtol=0)


def test_it_is_torch_s_with_any_scale_shift_and_epsilon():
    torch.manual_seed(0)
    x, scale, shift = torch.randn(2, 3, 5).double(), torch.randn(5).double(), torch.randn(5).double()
    for epsilon in (1e-12, 0.1):
        torch.testing.assert_close(layer_norm(x, scale, shift, epsilon), F.layer_norm(x, (5,), scale, shift, epsilon))
