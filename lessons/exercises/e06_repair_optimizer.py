"""Lesson 6, exercise 3: a broken optimizer. Its loss falls, and three of its lines are wrong."""

import torch
from torch import Tensor


class BrokenAdamW:
    """Meant to be AdamW, with betas 0.9 and 0.999 and ε = 1e-8, after clipping the gradients to a joint norm of 1."""

    def __init__(self, parameters: list[Tensor], lr: float, decay: float):
        self.parameters, self.lr, self.decay, self.t = parameters, lr, decay, 0
        self.m = [torch.zeros_like(p) for p in parameters]
        self.v = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        for p in self.parameters:
            p.grad *= (1.0 / (p.grad.norm() + 1e-6)).clamp(max=1.0)
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            m_hat, v_hat = m / (1 - 0.9 ** (self.t + 1)), v / (1 - 0.999 ** (self.t + 1))
            m.mul_(0.9).add_(0.1 * p.grad)
            v.mul_(0.999).add_(0.001 * p.grad**2)
            p.mul_(1 - self.decay)
            p.sub_(self.lr * m_hat / (v_hat.sqrt() + 1e-8))
        self.t += 1


# ---- red until repaired: pytest lessons/exercises/e06_repair_optimizer.py


def steps(decay: float, size: float, count: int = 8) -> None:
    """Compares it with torch's clipping and torch's AdamW, step by step, on gradients of about this size."""
    torch.manual_seed(0)
    theirs = [torch.nn.Parameter(torch.randn(shape).double()) for shape in (3, 5)]
    ours = [torch.nn.Parameter(p.detach().clone()) for p in theirs]
    optimizer = torch.optim.AdamW(theirs, lr=0.05, weight_decay=decay)
    repaired = BrokenAdamW(ours, lr=0.05, decay=decay)
    for _ in range(count):
        for a, b in zip(theirs, ours, strict=True):
            a.grad = size * torch.randn(a.shape).double()
            b.grad = a.grad.clone()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        optimizer.step()
        repaired.step()
        for a, b in zip(theirs, ours, strict=True):
            torch.testing.assert_close(b, a)


def test_small_gradients_without_decay():
    steps(decay=0.0, size=0.01)


def test_decay():
    steps(decay=0.1, size=0.01)


def test_clipping():
    steps(decay=0.0, size=10.0)
