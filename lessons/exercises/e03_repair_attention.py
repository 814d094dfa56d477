"""Lesson 3, exercise 2: a broken model. It runs, its shapes are right, and three lines of `forward` are wrong."""

import math

import torch
from torch import Tensor, nn

from distilbert.config import DistilBertConfig
from distilbert.model import FAR_BELOW, Attention


class BrokenAttention(nn.Module):
    """Meant to be `distilbert.model.Attention` without dropout."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.output = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, D), mask (B, 1, 1, T) to be added to the scores -> (B, T, D)."""
        B, T, D = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=2)  # (B, T, D)
        q, k, v = (y.reshape(B, self.n_heads, T, D // self.n_heads) for y in (q, k, v))  # (B, H, T, K)
        scores = q @ k.transpose(2, 3) / math.sqrt(D)  # (B, H, T, T)
        weights = torch.softmax(scores, dim=3)
        if mask is not None:
            weights = weights * (mask == 0)
        context = weights @ v  # (B, H, T, K)
        return self.output(context.transpose(1, 2).flatten(2))  # (B, T, D)


# ---- red until repaired: pytest lessons/exercises/e03_repair_attention.py


def whole_and_repaired() -> tuple[Attention, BrokenAttention]:
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=9, dim=12, hidden_dim=8, n_layers=1, n_heads=3)
    whole, repaired = Attention(config).eval(), BrokenAttention(config)
    repaired.load_state_dict(whole.state_dict())
    return whole, repaired


def test_without_padding():
    whole, repaired = whole_and_repaired()
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(repaired(x, None), whole(x, None, x))


def test_with_padding():
    whole, repaired = whole_and_repaired()
    x = torch.randn(2, 5, 12)
    mask = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]])[:, None, None, :] * FAR_BELOW
    torch.testing.assert_close(repaired(x, mask), whole(x, mask, x))
