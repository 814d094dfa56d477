"""What both training scripts need around the loop: where to start from, seeds, copies of the weights."""

import copy
import platform
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .config import DistilBertConfig
from .errors import UserError
from .files import checksum
from .hub import locate
from .logits import in_eval_mode
from .model import DistilBertForMaskedLM, Dropout
from .optim import AdamW
from .predict import check_pair
from .tokenizer import Tokenizer


def revision(model: str) -> str:
    """What the starting weights were, beyond their name: the SHA-256 of their file; "random", or "sharded" for several."""
    if model in ("scratch", "scratch-tiny"):
        return "random"
    file = locate(model) / "model.safetensors"
    return f"sha256:{checksum(file)}" if file.exists() else "sharded"


def starting_point(model_class, args, texts: list[str], **changes):
    """Model and tokenizer that a training script begins with; a "scratch" model takes its vocabulary from `texts`.

    Raises `UserError` for what can't be loaded, for a --max_length beyond the model's positions, and for so many batches a step
    that bf16 gradients, added one to another, would no longer grow: 1/512 added 512 times is a half.
    """
    if args.model in ("scratch", "scratch-tiny"):
        tokenizer = Tokenizer.from_texts(texts)
        tiny = {"dim": 64, "hidden_dim": 256, "n_layers": 2, "n_heads": 4} if args.model == "scratch-tiny" else {}
        model = model_class(DistilBertConfig(vocab_size=len(tokenizer), **tiny, **changes))
    else:
        model, tokenizer = model_class.from_pretrained(args.model, **changes), Tokenizer.from_pretrained(args.model)
    try:
        check_pair(model, tokenizer)
    except UserError as error:
        raise UserError(f"--model {args.model}: {error}") from None
    if "classifier_head" in changes and model.config.num_labels != 2:
        raise UserError(f"--model {args.model} tells {model.config.num_labels} classes apart; these labels are of two classes")
    # a checkpoint may call class 0 POSITIVE, where what it learns here is ours; or name three, which no masked LM learns
    model.config = model.config.replace(id2label=DistilBertConfig().id2label)
    if args.max_length > (limit := model.config.max_position_embeddings):
        raise UserError(f"--max_length {args.max_length} exceeds the model's {limit} positions; use --max_length {limit}")
    terms = max(args.batch_size * args.max_length, model.config.vocab_size * (model_class is DistilBertForMaskedLM))
    if args.device == "mps" and terms >= 32_767:  # https://github.com/pytorch/pytorch/issues/195163
        told = f"a gradient here is a product over up to {terms:,} terms; on an M1 or M2, torch can get 32,767 or more wrong"
        print(f"--device mps: {told}, silently. With a smaller --batch_size, or on the CPU, it is right", file=sys.stderr)
    check_device(model, args.device)
    if args.precision == "bf16" and args.gradient_accumulation_steps > 64:
        told = "gradients are added up in bf16, where so many small shares get lost; use 64 at most, or --precision fp32"
        raise UserError(f"--gradient_accumulation_steps {args.gradient_accumulation_steps}: {told}")
    if args.dropout is not None:  # in this training; config.json keeps the model's own, for whoever trains it next
        for module in model.modules():
            if isinstance(module, Dropout):
                module.p = args.dropout
    return model, tokenizer


def check_device(model: nn.Module, device: str) -> None:
    """Of a Mac's GPU: raises `UserError` where it does not compute what the CPU does, of two texts, one of them padded.

    On some, torch is reported to lose biases, silently (https://github.com/pytorch/pytorch/issues/192934). The outputs, and
    the gradients of each parameter, may be off by a hundredth of their norm, in fp32: rounding alone is far less.
    """
    if device != "mps":
        return
    T = min(64, model.config.max_position_embeddings)
    ids = torch.arange(2 * T).view(2, T) % model.config.vocab_size
    mask = torch.ones(2, T, dtype=torch.long)
    mask[1, T // 2 :] = 0

    def computed(network: nn.Module) -> dict[str, Tensor]:
        parameters = dict(network.named_parameters())
        on = next(iter(parameters.values())).device
        with in_eval_mode(network):
            outputs = network(ids.to(on), mask.to(on))
            gradients = torch.autograd.grad(outputs.square().mean(), list(parameters.values()))
        return {"outputs": outputs.detach().cpu()} | {name: g.cpu() for name, g in zip(parameters, gradients, strict=True)}

    right, found = computed(model), computed(copy.deepcopy(model).to(device))
    for name, expected in right.items():
        if not (off := (found[name] - expected).norm() / expected.norm().clamp(min=1e-30)) < 0.01:
            what = name if name == "outputs" else f"the gradients of {name}"
            told = f"this GPU and this torch get {what} wrong, by {off:.0%} of its norm"
            raise UserError(f"--device {device}: {told}; use the CPU: --device cpu")


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 64-bit seed for one step of one process, unlike that of any other."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def full_precision(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """A copy of the weights as the optimizer knows them."""
    return {name: optimizer.master(p).clone() for name, p in model.named_parameters()}


@torch.no_grad()
def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copies them into the model. Raises `UserError` when there are none, because no validation gave a finite loss."""
    if not weights:
        raise UserError("no validation gave a finite loss, so there is no best step; try a smaller --learning_rate")
    for name, p in model.named_parameters():
        p.copy_(weights[name])


def machine(device: str = "cpu") -> dict:
    """Kinds and counts, no names of hosts or users: a record can be published. Of GPUs the one that `device` uses."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    gpu = torch.cuda.get_device_name() if device == "cuda" else "Apple GPU" if device == "mps" else None
    return {"system": platform.system(), "processor": processor, "threads": torch.get_num_threads(), "gpu": gpu}
