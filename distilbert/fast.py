"""What makes it fast on a CPU, and exact enough in bf16, and changes no formula. Skip it at a first reading.

keep_mask           for dropout, by all cores at once
LayerNorm           whose gradients bf16 does not cut short
Linear              that writes its result once, where it judges
slices              of the optimizer's tensors, to fit the cache, `above_zero` for their roots
piecewise           attention, a few sequences at a time; `add_mask` for its scores
tune_process        for batches of all lengths
"""

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# MKL chooses a function's kernel at its first call, and two threads that make it together may get a coarse one, for this once
# (https://github.com/pytorch/pytorch/issues/188792): AdamW's first step would not be the same twice. So one thread calls first.
for dtype in (torch.float32, torch.float64):
    torch.ones(1, dtype=dtype).sqrt()

# ---- dice


def draw_seed() -> int:
    """From torch's generator, which `torch.manual_seed` sets."""
    return int(torch.randint(2**62, ()))


def hashed(x: Tensor) -> Tensor:
    """x (int64, changed in place), each word well mixed, only 0 stays 0.

    Steps of 2⁶⁴/φ, and then much as in splitmix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators"). A
    multiplication stands last, because torch's >> repeats the sign and so would clear that bit.
    """
    x.mul_(-0x61C8864680B583EB)
    x.bitwise_xor_(x >> 30).mul_(-0x40A7B892E31B1A47)
    return x.bitwise_xor_(x >> 27).mul_(-0x6B2FB644ECCEEE15)


ROW = hashed(torch.arange(1, 1 + (1 << 15)))  # random words, always the same: 256 KB, which the cache holds


def random_words(count: int, seed: int) -> Tensor:
    """Random 64-bit words (count,); torch's own generator draws them one after the other.

    Row after row: ROW times the hash of seed, of seed + 1, …, made odd so that no bit of ROW is lost (multiply-shift hashing,
    Dietzfelbinger et al. 1997, "A Reliable Randomized Algorithm for the Closest-Pair Problem"). A product's low bits depend
    only on the low bits of its factors, so its upper half is added to them (^ would clear the highest bit: >> repeats the
    sign). Three operations a word, where a hash of each word's own number takes eight.
    """
    factors = hashed(torch.arange(seed, seed + math.ceil(count / len(ROW)))) | 1
    x = (factors[:, None] * ROW[:count]).view(-1)[:count]
    return x.add_(x >> 32)


def keep_mask(x: Tensor, dropped: int, seed: int) -> Tensor:
    """For each value of x, in its format: 0 with probability p = dropped/65536, else 1/(1-p). A function of the seed.

    A word is four 16-bit lanes, one for each value: as int16, and in place, because a result of type bool takes ten times
    as long. In half precision the mask needs no conversion: 1 times the bits of 1/(1-p), as an int16, are the bits of 1/(1-p),
    and 0 times them those of zero.
    """
    words = random_words(math.ceil(x.numel() / 4), seed)
    keep = words.view(torch.int16)[: x.numel()].view(x.shape).ge_(dropped - 32_768)
    scale = torch.tensor(65_536 / (65_536 - dropped), dtype=x.dtype)
    if scale.itemsize == 2:
        return keep.mul_(scale.view(torch.int16)).view(x.dtype)
    return keep.to(x.dtype).mul_(scale)


# ---- norm


class LayerNorm(nn.LayerNorm):
    """w·(x - mean)/√(variance + ε) + b, for each token over its D numbers (Ba et al. 2016, "Layer Normalization").

    Where it trains in bf16 on a CPU, w and b stand apart from torch's kernel: that one adds up their gradients, over all tokens
    of a batch, in bf16, and there 256 + 1 is 256. Over 4,096 tokens a fifth of b's gradient was missing.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu or x.dtype != torch.bfloat16 or not torch.is_grad_enabled():
            return super().forward(x)
        return torch.addcmul(self.bias, F.layer_norm(x, self.normalized_shape, eps=self.eps), self.weight)


# ---- products

AMX = torch.cpu._is_amx_tile_supported() and torch.backends.mkldnn.is_available()  # bf16 products in hardware, and oneDNN


def judging_in_bf16(x: Tensor) -> bool:
    """Without gradients, on a CPU with AMX."""
    return AMX and x.is_cpu and x.dtype == torch.bfloat16 and not torch.is_grad_enabled()


class Linear(nn.Linear):
    """x·Wᵀ + b, in one pass of oneDNN's where a CPU with AMX judges in bf16.

    torch's own way, taken otherwise, writes b to every row of the result and reads it again to add the product.
    """

    def forward(self, x: Tensor) -> Tensor:
        if judging_in_bf16(x) and self.weight.dtype == x.dtype:  # under autocast they differ
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return super().forward(x)


# ---- pieces


def slices(*tensors: Tensor, size: int = 262_144) -> Iterator[tuple[Tensor, ...]]:
    """Walks equally shaped tensors in flat pieces that stay in the processor's cache from one operation to the next.

    In smaller pieces, starting the threads for each operation would cost more time than the cache saves.
    """
    flat = [tensor.view(-1) for tensor in tensors]
    if not tensors[0].is_cpu:
        size = max(flat[0].numel(), 1)  # each operation starts a kernel: the fewer, the better
    for start in range(0, flat[0].numel(), size):
        yield tuple(tensor[start : start + size] for tensor in flat)


def above_zero(x: Tensor) -> Tensor:
    """x ≥ 0, but at least the smallest normal number of its format, whose root AdamW's ε hides.

    MKL's root of zero takes twenty times as long as that of another number, and AdamW takes millions of them: of the second
    moments of words that no batch had yet.
    """
    return x.clamp(min=torch.finfo(x.dtype).tiny)


PIECE = 1 << 23  # values of a piece's largest intermediate result: 16 MB in half precision
WHOLE = 1 << 26  # bytes of that result up to which a batch is not cut if it has a backward; with dropout three such are kept
APART = 1 << 32  # between the seeds of two pieces, because a dropout counts on from its seed, a step for each row of words


def has_fused_attention(x: Tensor, dropout: float) -> bool:
    """Whether to leave attention to torch: on a GPU, and where a CPU with AMX judges in bf16.

    A CPU's kernel has no dropout and a slow backward, and without AMX it gains little, or loses. In fp32 it would gain, but
    whoever follows a tensor by hand would see neither scores nor weights.
    """
    return not x.is_cpu or (judging_in_bf16(x) and not dropout)


def add_mask(scores: Tensor, mask: Tensor) -> None:
    """scores (B, H, R, T) += mask (B, 1, 1, T), in place, from the first column on in which it is not zero.

    Padding stands at the end, and in batches by length there is little of it, or none. The mask has no gradient and changes
    none, so autograd need not know; where a part of a tensor is written, it would copy the whole in backward.
    """
    columns = mask.flatten(0, 2).any(dim=0).nonzero()
    if len(columns):
        with torch.no_grad():
            scores[..., int(columns[0]) :] += mask[..., int(columns[0]) :]


def piecewise(function: Callable[..., Tensor], batch: tuple[Tensor | None, ...], values: int, seed: int) -> Tensor:
    """function(*batch, seed), for tensors whose first dimension is the batch, and examples that do not depend on each other.

    Attention makes H·T·T weights a sequence; at 512 tokens, a batch has some hundred megabytes of them. Written to memory and
    read again by each operation, they take longer than the products around them. In pieces they stay in a cache, and as
    backward computes them again instead of keeping them, they hardly take memory (Chen et al. 2016, "Training Deep Nets with
    Sublinear Memory Cost"; the same trade as in Dao et al. 2022, "FlashAttention"). Up to WHOLE bytes, keeping them takes less
    time than computing them again.

    `values`: how many of them one example makes. Each piece gets a seed of its own, and `function` must be a function of its
    arguments: backward calls it again. Outputs and gradients are those of the whole, but for rounding, and but for dropout:
    a piece draws from its own seed.
    """
    size = max(PIECE // values, 1)
    kept = torch.is_grad_enabled() and len(batch[0]) * values * batch[0].element_size() <= WHOLE
    if size >= len(batch[0]) or kept:
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
    @once_differentiable
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


# ---- the process


def tune_process() -> None:
    """For a process that trains or judges much, before its first product. Each point is for glibc, oneDNN or a GPU alone.

    - Memory that tensors leave is used again, not given back and asked for anew: glibc maps each above 32 MB afresh, and the
      first touch of each page is a page fault, a sixth of a step at 512 tokens. At most 1 GB stays unused at the heap's end.
    - Of oneDNN's kernels, one for each shape that a product ever had, 64 are kept instead of 1,024: batches differ in length,
      and kernels seldom come again. They took a gigabyte after sixty batches of a masked LM.
    - On a GPU, cuDNN's kernel for attention, the first choice on an H100, is switched off. Reported, not measured here: with a
      mask its gradients can be NaN (https://github.com/pytorch/pytorch/issues/196678), and for each new shape it makes plans,
      a second on a B200 (https://github.com/modelscope/FunASR/issues/3704).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt") and library.mallopt(mmap_threshold, 1 << 28):  # some versions refuse so much
        library.mallopt(trim_threshold, 1 << 30)
        library.mallopt(top_pad, 1 << 26)
