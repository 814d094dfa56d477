"""Solution of lesson 3, exercise 2.

1. The heads: reshape(B, H, T, K) cuts the memory of a sequence into H pieces of neighbouring words. Each word's D numbers
   must be cut into H pieces instead, and then the axes be exchanged.
2. The scale is √K, the width of a head, not √D: the scores were too close together by a factor of √H.
3. Multiplying weights by zero after the softmax leaves shares that no longer sum to one; masking belongs into the scores.
"""

import math

import torch
from torch import Tensor, nn

from distilbert.config import DistilBertConfig


class BrokenAttention(nn.Module):
    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.output = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)  # (B, T, D)
        q, k, v = (y.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for y in (q, k, v))  # (B, H, T, K)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])  # (B, H, T, T)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=3)
        context = weights @ v  # (B, H, T, K)
        return self.output(context.transpose(1, 2).flatten(2))  # (B, T, D)
