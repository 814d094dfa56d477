"""Several processes on one job: torchrun --nproc-per-node 2 train_cls.py … Skip it at a first reading.

Every process has the whole model, takes its share of each batch, and after one sum of the gradients takes the same step. The
sum is exact for shares of any size, because each share's loss is already divided by the labels of the whole step; a wrapper
that averages over processes (DistributedDataParallel) would be exact for equal shares only.
"""

import os

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from .errors import UserError
from .precision import has_cuda


def is_first() -> bool:
    """Whether this process is alone, or the one of its group that speaks and writes."""
    return not (torch.distributed.is_available() and torch.distributed.is_initialized()) or torch.distributed.get_rank() == 0


class Workers:
    """The processes of a run; `rank` 0 is the one that writes. One process alone needs no torchrun and never communicates."""

    def __init__(self, device: str = "auto"):
        """`device`: what --device says. Raises `UserError` when this machine has fewer GPUs than processes, or when the
        variable WORLD_SIZE stands alone: torchrun sets several together, and some clusters only that one.
        """
        self.size = int(os.environ.get("WORLD_SIZE") or 1)
        self.rank = int(os.environ.get("RANK", 0)) if self.size > 1 else 0
        if self.size > 1:
            missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
            if missing:
                raise UserError(
                    f"the variable WORLD_SIZE says {self.size} processes, but {missing[0]} is not set: start them by torchrun "
                    "(--nproc-per-node: how many on this machine), or for a single one: unset WORLD_SIZE"
                )
            gpus = torch.cuda.device_count() if device in ("auto", "cuda") and has_cuda() else 0
            here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
            if gpus and here > gpus:
                raise UserError(
                    f"{here} processes on a machine whose GPUs number {gpus}: each needs one of its own; use torchrun "
                    f"--nproc-per-node {gpus}, or --device cpu"
                )
            if gpus:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)))  # from here on "cuda" means this one
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")

    def wait(self) -> None:
        """Waits for all processes. Needed before one ends: a thread of gloo may still hold the last sum's tensor, and freeing
        it while Python shuts down aborts the process. A barrier has no tensor.
        """
        if self.size > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        if self.size > 1:
            torch.distributed.destroy_process_group()

    def share(self, batch: np.ndarray) -> np.ndarray:
        """Every size-th index of a batch, from rank on: neighbours in length go to different processes."""
        return batch[self.rank :: self.size]

    def total(self, *counts: int) -> list[int]:
        """The sum of each count over all processes; they wait for each other here. On the CPU: no GPU is interrupted."""
        return self._reduced(counts, torch.distributed.ReduceOp.SUM)

    def largest(self, number: int) -> int:
        return self._reduced([number], torch.distributed.ReduceOp.MAX)[0]

    def _reduced(self, numbers, operation) -> list[int]:
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers)
        torch.distributed.all_reduce(tensor, operation)
        return tensor.tolist()

    def add_up(self, model: nn.Module, loss: Tensor | float) -> Tensor | float:
        """Replaces each gradient by its sum over all processes, added in fp32; returns the sum of their losses."""
        if self.size == 1:
            return loss
        parameters = list(model.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]  # None: an empty share
        flat = torch.cat([gradient.flatten().float() for gradient in gradients])
        if flat.device.type == "mps":
            flat = flat.cpu()  # gloo adds up no tensors on a Mac's GPU
        torch.distributed.all_reduce(flat)
        for p, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = piece.view_as(p).to(p)  # p's device and dtype
        loss = torch.as_tensor(loss, dtype=torch.float32).to(flat.device)
        torch.distributed.all_reduce(loss)
        return loss
