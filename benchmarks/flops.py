"""How much arithmetic the task needs, and how fast this machine can multiply matrices of these shapes."""

import time
from collections import Counter

import torch

from distilbert.config import DistilBertConfig


def useful_flops(
    config: DistilBertConfig, lengths: list[int], rows: list[int], labels: int = 0, training: bool = True
) -> float:
    """Floating-point operations in the matrix products that one pass over these sequences can't do without.

    `lengths`: real tokens of each sequence; `rows`: how many of its positions the head reads; `labels`: positions that
    meet the vocabulary. A product (a, b)·(b, c) is 2abc operations. All blocks but the last compute every position; the
    last needs keys and values everywhere, and the rest for the rows alone. Padding counts for nothing, and so do norms,
    softmax and the classifier. Backward is twice forward: one product for the input's gradient, one for the weight's.
    """
    D, F, L = config.dim, config.hidden_dim, config.n_layers
    total = 0.0
    for T, R in zip(lengths, rows, strict=True):
        whole = T * 2 * (4 * D**2 + 2 * D * F) + 4 * T * T * D
        last = T * 2 * (2 * D**2) + R * 2 * (2 * D**2 + 2 * D * F) + 4 * R * T * D
        total += (L - 1) * whole + last
    total += labels * 2 * (D**2 + D * config.vocab_size)
    return total * (3 if training else 1)


Shape = tuple[int, int, int, int, str]


def product_shapes(config: DistilBertConfig, batch: int, tokens: int, labels: int = 0, training: bool = False) -> list[Shape]:
    """(how many, a, b, c, layout) of the products in a pass of (batch, tokens) that computes every row, block after block.

    A layout has a letter for each factor: "t" where it lies in memory transposed, as a layer's W in x·Wᵀ does, else "n".
    In training, a product x·y with the gradient g of its result is followed by g·yᵀ and xᵀ·g; that of W, which lies transposed,
    is computed as it lies, gᵀ·x.
    """
    D, F, H, N = config.dim, config.hidden_dim, config.n_heads, batch * tokens
    block = [(1, N, D, 3 * D, "nt"), (1, N, D, D, "nt"), (1, N, D, F, "nt"), (1, N, F, D, "nt")]
    block += [(batch * H, tokens, D // H, tokens, "nt"), (batch * H, tokens, tokens, D // H, "nn")]
    forward = block * config.n_layers + ([(1, labels, D, config.vocab_size, "nt")] if labels else [])
    if not training:
        return forward
    inputs = [(count, a, c, b, "nn" if layout == "nt" else "nt") for count, a, b, c, layout in forward]
    others = [(1, c, a, b, "tn") if count == 1 else (count, b, a, c, "tn") for count, a, b, c, _ in forward]
    return forward + inputs + others


@torch.no_grad()
def product_rate(shapes: list[Shape], dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Operations a second over these products, each shape repeated for `seconds` into the same warm memory.

    The rates are weighted by the share of the operations: total operations over total time.
    """
    operations = duration = 0.0
    for (count, a, b, c, layout), occurs in Counter(shapes).items():
        left, right = (
            torch.randn(count, *(size[::-1] if letter == "t" else size)).to(dtype)
            for size, letter in zip(((a, b), (b, c)), layout, strict=True)
        )
        left, right = (x.transpose(1, 2) if letter == "t" else x for x, letter in zip((left, right), layout, strict=True))
        out = torch.empty(count, a, c, dtype=dtype)
        torch.bmm(left, right, out=out)
        started, repeats = time.perf_counter(), 0
        while repeats == 0 or time.perf_counter() - started < seconds:
            torch.bmm(left, right, out=out)
            repeats += 1
        operations += occurs * 2 * count * a * b * c
        duration += occurs * (time.perf_counter() - started) / repeats
    return operations / duration
