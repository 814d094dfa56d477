"""Solution of lesson 3, exercise 1."""

import math

from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, real: Tensor, heads: int) -> Tensor:
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, H, T, K)
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])  # (B, H, T, T)
    scores = scores.masked_fill(real[:, None, None, :] == 0, -30_000.0)
    return (scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2)  # (B, T, D)
