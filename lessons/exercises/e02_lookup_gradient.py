"""Lesson 2, exercise 1: the backward pass of a lookup."""

import torch
from torch import Tensor


def lookup_gradient(ids: Tensor, gradient: Tensor, rows: int) -> Tensor:
    """d loss/d table (rows, D), from ids (B, T) and `gradient` (B, T, D), which is d loss/d looked-up vectors."""
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e02_lookup_gradient.py


def test_a_row_read_twice_gets_the_sum():
    gradient = torch.tensor([[[1.0, 1.0], [10.0, 10.0], [100.0, 100.0]]])
    expected = torch.tensor([[0.0, 0.0], [0.0, 0.0], [101.0, 101.0], [10.0, 10.0]])
    assert torch.equal(lookup_gradient(torch.tensor([[2, 3, 2]]), gradient, rows=4), expected)


def test_it_is_what_torch_computes():
    torch.manual_seed(0)
    table = torch.nn.Embedding(7, 5)
    ids, gradient = torch.randint(0, 7, (3, 11)), torch.randn(3, 11, 5)
    (table(ids) * gradient).sum().backward()
    torch.testing.assert_close(lookup_gradient(ids, gradient, rows=7), table.weight.grad)
