"""Device and number format: what machine this is, and what a run makes of it.

    fp32   everything in 32 bits
    bf16   working weights and activations in bfloat16, fp32 master weights in the optimizer (see `optim.AdamW`)
    fp16   fp32 weights, autocast to float16 where that is safe, and a loss scaler (Micikevicius et al. 2018, section 3.2)

fp16 rounds to 0 what is below 3e-8, and gradients often are: the scaler multiplies the loss by a large number, divides the
gradients by it again, and skips the step (and makes the number smaller) when one overflowed. bf16 has fp32's range
and needs none of it; it has only 8 significant bits, which is why the sum of small steps is kept in fp32.
"""

import os
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import UserError


@dataclass(frozen=True)
class Precision:
    """Where a run computes and in what: device "cpu", "cuda" or "mps"; kind "fp32", "bf16" or "fp16"."""

    device: str
    kind: str

    @classmethod
    def choose(cls, device: str = "auto", kind: str = "auto") -> "Precision":
        """Resolves "auto": a CUDA GPU, or else the CPU. Raises `UserError` when the device is not there."""
        have = {"cpu": True, "cuda": has_cuda(), "mps": torch.backends.mps.is_available()}
        if device == "auto":
            device = "cuda" if have["cuda"] else "cpu"  # a Mac's only if asked for: see README, "Quickstart"
        if not have.get(device, False):
            raise UserError(f"--device {device}: this machine or this build of torch has none; try --device auto")
        if kind == "auto":
            kind = "bf16" if fast_bf16(device) else "fp16" if device == "cuda" else "fp32"  # older GPUs, as a T4, have fp16's
        return cls(device, kind)

    @property
    def dtype(self) -> torch.dtype:
        """The format of the weights that forward and backward passes work with."""
        return torch.bfloat16 if self.kind == "bf16" else torch.float32

    def autocast(self):
        """The context for forward passes: without effect unless fp16."""
        return torch.autocast(self.device, torch.float16, enabled=self.kind == "fp16")

    def scaler(self) -> torch.amp.GradScaler:
        """A loss scaler: without effect unless fp16."""
        return torch.amp.GradScaler(self.device, enabled=self.kind == "fp16")

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch on the device; to a GPU it is copied in the background."""
        if self.device == "cuda":
            return {name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in batch.items()}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def compile(self, encoder: torch.nn.Module) -> None:
        """On a GPU, by torch.compile, for batches of all shapes. On a CPU it stays as it is: only AdamW gains there.

        Something small is compiled at once, so that what is missing is told before a run begins; a C++ compiler and Python's
        headers by `UserError`.
        """
        if not has_compiler():
            needed = "a C++ compiler, g++ (on a Mac clang++) or what $CXX names, and Python's headers (on Debian: python3-dev)"
            raise UserError(f"--compile: torch.compile needs {needed}")
        torch.compile(torch.neg)(torch.ones(2))
        if self.device != "cpu":
            encoder.compile(dynamic=True)

    def peak_memory(self) -> int:
        """Bytes at the highest point so far: of the process on a CPU, of the allocator on a GPU (a Mac's: what it has now)."""
        if self.device != "cpu":
            return torch.cuda.max_memory_allocated() if self.device == "cuda" else torch.mps.driver_allocated_memory()
        import resource  # Unix only, and only here

        status = Path("/proc/self/status")  # Linux's ru_maxrss begins with what the process had that started this one
        if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
            return int(peak[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def has_compiler() -> bool:
    """Whether there is what torch.compile needs to build its kernels: a C++ compiler, and Python's headers."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return shutil.which(compiler) is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


def has_cuda() -> bool:
    """Whether there is a CUDA GPU, and one that this build of torch has kernels for: at older ones torch only warns."""
    built = [int(re.sub(r"\D", "", name)) for name in torch.cuda.get_arch_list() if name.startswith("sm_")]  # sm_75: for 7.5
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= divmod(min(built, default=0), 10)


def fast_bf16(device: str) -> bool:
    """Whether bf16 products are in hardware: on a CPU AMX or AVX512-BF16 (ARM's are not asked for), on a GPU capability 8.0."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return device == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
