"""A function of a batch, computed a few sequences at a time, so that what it makes on the way stays in the processor's cache.

Attention makes H·T·T weights a sequence; at 512 tokens, a batch has some hundred megabytes of them. Written to memory and read
again by each operation, they take longer than the products around them. In pieces they never leave the cache, and as
backward computes them again instead of keeping them, they hardly take memory (Chen et al. 2016, "Training Deep Nets with
Sublinear Memory Cost"; the same trade as in Dao et al. 2022, "FlashAttention"). Skip it to follow the lesson.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

PIECE = 1 << 20  # values of a piece's largest intermediate result: 2 MB in half precision
APART = 1 << 32  # between the seeds of two pieces, because a dropout of n values counts n/4 on from its seed


def has_fused_attention(device: torch.device) -> bool:
    """Whether torch has a kernel for all of attention, with dropout, that is faster than its parts. On a CPU it has none."""
    return device.type != "cpu"


def piecewise(function: Callable[..., Tensor], batch: tuple[Tensor | None, ...], values: int, seed: int) -> Tensor:
    """function(*batch, seed), for tensors whose first dimension is the batch, and examples that do not depend on each other.

    `values`: how many of them one example makes on the way. Each piece gets a seed of its own, and `function` must be a
    function of its arguments: backward calls it again. Outputs and gradients are those of the whole, but for rounding.
    """
    size = max(PIECE // values, 1)
    if size >= len(batch[0]):
        return function(*batch, seed)
    if torch.is_grad_enabled():
        return _Recomputed.apply(function, size, seed, *batch)
    return torch.cat([function(*piece, seed + i * APART) for i, piece in enumerate(_split(batch, size))])


def _split(batch: tuple[Tensor | None, ...], size: int) -> Iterator[tuple[Tensor | None, ...]]:
    for start in range(0, len(batch[0]), size):
        yield tuple(None if tensor is None else tensor[start : start + size] for tensor in batch)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # backward computes in the number format that forward was told to
    def forward(ctx, function, size, seed, *batch):
        ctx.how = function, size, seed
        ctx.save_for_backward(*batch)
        return torch.cat([function(*piece, seed + i * APART) for i, piece in enumerate(_split(batch, size))])

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient):
        (function, size, seed), batch = ctx.how, ctx.saved_tensors
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
        gradients = [torch.empty_like(tensor) if i in wanted else None for i, tensor in enumerate(batch)]
        for number, (upstream, *piece) in enumerate(_split((gradient, *batch), size)):
            for i in wanted:
                piece[i] = piece[i].detach().requires_grad_()
            with torch.enable_grad():
                result = function(*piece, seed + number * APART)
            for i, found in zip(wanted, torch.autograd.grad(result, [piece[i] for i in wanted], upstream), strict=True):
                gradients[i][number * size : (number + 1) * size] = found
        return None, None, None, *gradients
