"""Solution of lesson 2, exercise 1. `table[ids] += gradient` would be wrong: of two equal ids it keeps one."""

from torch import Tensor


def lookup_gradient(ids: Tensor, gradient: Tensor, rows: int) -> Tensor:
    flat = gradient.flatten(0, 1)
    return flat.new_zeros(rows, flat.shape[1]).index_add_(0, ids.flatten(), flat)
