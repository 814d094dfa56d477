"""Lesson 6, exercise 1: one step of AdamW, from the equations."""

import torch
from torch import Tensor


def adamw_step(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, lr: float, decay: float, epsilon: float = 1e-8
) -> tuple[Tensor, Tensor, Tensor]:
    """Step t = 1, 2, …: (p, m, v) before it and the gradient g -> (p, m, v) after it; β₁ = 0.9, β₂ = 0.999."""
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e06_adamw.py


def test_the_two_steps_of_the_lesson():
    p, m, v = torch.tensor([1.0]), torch.zeros(1), torch.zeros(1)
    p, m, v = adamw_step(p, torch.tensor([0.5]), m, v, t=1, lr=0.1, decay=0.0)
    torch.testing.assert_close(p, torch.tensor([0.9]))
    p, m, v = adamw_step(p, torch.tensor([-0.1]), m, v, t=2, lr=0.1, decay=0.0)
    torch.testing.assert_close(p, torch.tensor([0.8489]), atol=1e-4, rtol=0)


def test_twenty_steps_are_torch_s():
    torch.manual_seed(0)
    theirs = torch.nn.Parameter(torch.randn(7).double())
    optimizer = torch.optim.AdamW([theirs], lr=0.05, weight_decay=0.3, eps=1e-3)
    p, m, v = theirs.detach().clone(), torch.zeros(7).double(), torch.zeros(7).double()
    for t in range(1, 21):
        theirs.grad = torch.randn(7).double() * 10.0 ** (t % 5 - 3)
        optimizer.step()
        p, m, v = adamw_step(p, theirs.grad, m, v, t, lr=0.05, decay=0.3, epsilon=1e-3)
        torch.testing.assert_close(p, theirs.detach())
