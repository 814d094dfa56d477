"""Solution of lesson 10, exercise 3."""

import torch
from torch import Tensor, nn


def first_difference(a: nn.Module, b: nn.Module, ids: Tensor) -> str | None:
    found, seen = [], []
    for model, outputs in ((a, found), (b, seen)):
        leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
        hooks = [
            module.register_forward_hook(lambda _module, _input, output, name=name, into=outputs: into.append((name, output)))
            for name, module in leaves
        ]
        with torch.no_grad():
            model(ids)
        for hook in hooks:
            hook.remove()
    for (name, one), (_, other) in zip(found, seen, strict=True):
        if not (one - other).abs().max() <= 1e-5:  # so, and not > 1e-5, which NaN is not either
            return name
    return None
