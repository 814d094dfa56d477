"""Solution of lesson 6, exercise 3.

1. Each parameter was clipped by its own norm: that turns the direction of the step. One norm for all together.
2. The hats were made from the means of the step before: the first step was 0/0, almost, and all others came one late.
3. The decay was not multiplied by the rate: it did not fall with the schedule, and was twenty times too strong.
"""

import torch
from torch import Tensor


class BrokenAdamW:
    def __init__(self, parameters: list[Tensor], lr: float, decay: float):
        self.parameters, self.lr, self.decay, self.t = parameters, lr, decay, 0
        self.m = [torch.zeros_like(p) for p in parameters]
        self.v = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self) -> None:
        norm = torch.stack([p.grad.norm() for p in self.parameters]).norm()
        for p in self.parameters:
            p.grad *= (1.0 / (norm + 1e-6)).clamp(max=1.0)
        self.t += 1
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            m.mul_(0.9).add_(0.1 * p.grad)
            v.mul_(0.999).add_(0.001 * p.grad**2)
            m_hat, v_hat = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
            p.mul_(1 - self.lr * self.decay)
            p.sub_(self.lr * m_hat / (v_hat.sqrt() + 1e-8))
