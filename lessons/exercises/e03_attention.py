"""Lesson 3, exercise 1: attention from its formula."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, real: Tensor, heads: int) -> Tensor:
    """softmax(q·kᵀ/√K)·v in each head, the heads side by side: q, k, v (B, T, D) -> (B, T, D).

    real (B, T) is 1 for a word and 0 for padding, which gets no weight: nobody listens to it. (It asks all the same, and gets
    a row like any other, which nobody reads.) No loop is needed; F.scaled_dot_product_attention
    is what the test compares with, so do without it.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e03_attention.py


def test_not_so_good():
    q = torch.tensor([[[0.0, 2, 0, 0], [0, 3, 0, 0], [2, 0, 0, 1]]])
    k = torch.tensor([[[2.0, 0, 0, 0], [0, 0, 0, 2], [0, 1, 0, 0]]])
    v = torch.tensor([[[-2.0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]])
    mixed = attention(q, k, v, torch.ones(1, 3), heads=1)
    torch.testing.assert_close(mixed[0, 2], torch.tensor([-1.2404, 0.2447, 0, 0]), atol=1e-4, rtol=0)


def test_it_is_torch_s_for_any_heads_and_padding():
    torch.manual_seed(0)
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    for heads in (1, 2, 4):
        q, k, v = torch.randn(3, 2, 5, 8)
        split = [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
        expected = F.scaled_dot_product_attention(*split, attn_mask=real[:, None, None, :].bool())
        torch.testing.assert_close(attention(q, k, v, real, heads), expected.transpose(1, 2).flatten(2))


def test_padding_gets_nothing_however_little_the_words_get():
    q, k, v = torch.full((1, 4, 6), 10.0), torch.full((1, 4, 6), -10.0), torch.ones(1, 4, 6)  # words score -141 in each head
    k[:, 2:], v[:, 2:] = 0.0, -100.0
    assert torch.equal(attention(q, k, v, torch.tensor([[1, 1, 0, 0]]), heads=3)[:, :2], torch.ones(1, 2, 6))


def test_what_stands_in_the_padding_changes_nothing():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 6)
    real = torch.tensor([[1, 1, 0, 0]])
    before = attention(q, k, v, real, heads=3)
    k[:, 2:], v[:, 2:] = 100.0, -100.0
    assert torch.equal(attention(q, k, v, real, heads=3)[:, :2], before[:, :2])
