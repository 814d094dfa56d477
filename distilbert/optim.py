"""The formulas of a training step, from top to bottom: groups of parameters, loss, clipping, the learning rate, AdamW."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .fast import above_zero, slices


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    head_learning_rate: float | None = None,
    decay_all: bool = False,
    layer_decay: float = 1.0,
) -> list[dict]:
    """Groups for `AdamW`, one for each (rate, decay) that occurs; every parameter is in exactly one.

    Decay shrinks the matrices of Linear and Embedding only: a norm's scale belongs near one and a bias has nothing to
    shrink for. They are told apart by module type, because names differ between models (`decay_all`: decay them too).
    The rate of block i is multiplied by layer_decay**(L - 1 - i), of the embeddings by layer_decay**L (Howard & Ruder
    2018, section 3.2; Sun et al. 2019, section 5.3.4): early layers hold what is general and move less. Parameters outside
    `model.encoder` are the head's, with their own rate.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    blocks = len(model.encoder.blocks)
    for full_name, parameter in model.named_parameters():  # one that two modules share comes once
        module_name, _, name = full_name.rpartition(".")
        module, path = model.get_submodule(module_name), module_name.split(".")
        if path[0] != "encoder":
            rate = learning_rate if head_learning_rate is None else head_learning_rate
        else:
            above = blocks - 1 - int(path[2]) if path[1] == "blocks" else blocks
            rate = learning_rate * layer_decay**above
        matrix = isinstance(module, nn.Linear | nn.Embedding) and name == "weight"
        decay = weight_decay if matrix or decay_all else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def share_of_step(loss: Tensor, labels: int, labels_in_step: int) -> Tensor:
    """What a batch adds to the loss of its optimizer step: the mean over its n labels, times n/N; the step has N labels.

    Σᵢ (nᵢ/N)·lossᵢ, over the batches of all processes, is the mean over all N, as if they were one batch. A mean of their
    means would not be: in a small batch each label would count more. 0 when the step has no labels at all.
    """
    return loss * (labels / max(labels_in_step, 1))


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scales all gradients by max_norm / norm if their joint norm is larger; returns the norm before (a 0-d tensor).

    One norm over all of them, so the gradient keeps its direction (Pascanu et al. 2013, algorithm 1). max_norm 0: measure only.
    In slices, because a norm in a wider format copies its argument first, and a slice's copy stays in the cache.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    pieces = (piece for gradient in gradients for (piece,) in slices(gradient))
    norm = torch.stack([torch.linalg.vector_norm(piece, dtype=_wide(piece)) for piece in pieces]).norm()
    if max_norm:
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor)  # in the factor's format, before it is rounded to the gradient's
    return norm


def learning_rate_factor(
    step: int, total_steps: int, warmup_steps: int, kind: str = "linear", min_lr_ratio: float = 0.0
) -> float:
    """What the peak rate is multiplied by in optimizer step `step` = 0, 1, …, total_steps - 1.

    It rises linearly over the warmup, from 0 (as in transformers: step 0 moves nothing) to 1: at first Adam's second moments
    are estimates from few gradients, too uncertain for full steps. Then it falls linearly to 0 ("linear") or stays at 1
    ("constant_with_warmup"), but never below min_lr_ratio once warm. After the warmup another kind raises `ValueError`.
    """
    if step < warmup_steps:
        return step / warmup_steps
    if kind == "constant_with_warmup":
        return 1.0
    if kind != "linear":
        raise ValueError(f"lr_scheduler_type is {kind!r}, expected 'linear' or 'constant_with_warmup'")
    return max(min_lr_ratio, (total_steps - step) / max(total_steps - warmup_steps, 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay (Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2).

        m ← β₁·m + (1-β₁)·g           running mean of the gradient
        v ← β₂·v + (1-β₂)·g²          running mean of its square
        p ← p - lr·λ·p                weight decay, apart from g: divided by √v̂, it would differ from weight to weight
        p ← p - lr·m̂ / (√v̂ + ε)       with m̂ = m/(1-β₁ᵗ) and v̂ = v/(1-β₂ᵗ), as m and v began at zero

    A bf16 parameter has a *master* copy in fp32, and the formulas change that copy: neighbours in bf16 are 1/256 to 1/128 of
    a weight apart, so that a step of 1e-5 of it would be lost. The parameter is the master, rounded. `master_weights`: copy
    now, before the parameters themselves are rounded. (lr·λ as in torch; the paper has λ times the schedule.)

    `compiled`: torch.compile makes the update of all matrices one kernel, which reads and writes each number once.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, master_weights=False, compiled=False):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.compiled = torch.compile(update_all, dynamic=False, fullgraph=True) if compiled else None
        if master_weights:
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["master"] = p.detach().clone()

    @torch.no_grad()
    def step(self) -> bool:
        """Returns True; a loss scaler's `step` passes that on, or returns None where it skips this call after an overflow."""
        matrices = []
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "step" not in state:
                    self.fresh_state(p)
                state["step"] += 1
                t, master = state["step"], state.get("master", p)
                root = math.sqrt(1 - beta2**t)  # m̂/(√v̂ + ε) = m·root/(1-β₁ᵗ) / (√v + ε·root): no tensors m̂ and v̂
                shrink, rate, eps = 1 - lr * group["weight_decay"], lr * root / (1 - beta1**t), group["eps"] * root
                tensors = [master, p.grad, state["exp_avg"], state["exp_avg_sq"]] + [p] * (master is not p)
                if self.compiled and p.dim() > 1:  # the vectors, small and many, would only take longer to compile
                    numbers = torch.tensor((shrink, rate, eps), dtype=torch.float64).unbind()
                    matrices.append((beta1, beta2, *numbers, *tensors))  # Python's would be constants: a kernel for each rate
                    continue
                for piece in slices(*tensors):
                    update(beta1, beta2, shrink, rate, eps, *piece)
        if matrices:
            self.compiled(matrices)
        return True

    def fresh_state(self, p: Tensor) -> None:
        state = self.state[p]
        state["step"] = 0
        state["exp_avg"] = torch.zeros_like(p, dtype=_wide(p))
        state["exp_avg_sq"] = torch.zeros_like(p, dtype=_wide(p))
        if p.dtype != _wide(p) and "master" not in state:
            state["master"] = p.detach().to(_wide(p))

    def master(self, p: Tensor) -> Tensor:
        """The full-precision value of a parameter: its master copy, or itself where it needs none."""
        return self.state[p].get("master", p).detach()


def update(beta1, beta2, shrink, rate, eps, w: Tensor, g: Tensor, m: Tensor, v: Tensor, rounded: Tensor | None = None) -> None:
    """`AdamW`'s formulas for weights w, in place; `rounded` gets them in the format that the model computes in."""
    g = g.to(w.dtype)
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    w.mul_(shrink)
    w.addcdiv_(m, above_zero(v).sqrt_().add_(eps), value=-rate)
    if rounded is not None:
        rounded.copy_(w)


def update_all(arguments: list[tuple]) -> None:
    """`update`, once for each tuple of its arguments: what is compiled, so that all starts by one call."""
    for of_one in arguments:
        update(*of_one)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
