"""What --resume goes on from: checkpoints (step-N/ holds tensors.safetensors and state.json, and of both a SHA-256; no
pickle), and with which flags. Skip it at a first reading.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .cli import check_stored
from .errors import UserError
from .files import checksum, fingerprint, read_json, write_atomically, write_text
from .optim import AdamW

LENGTH = ("num_train_epochs", "max_steps")
MAY_DIFFER = (*LENGTH, "resume", "overwrite", "output_dir", "logging_steps", "save_steps", "save_minutes", "eval_batch_size")


def gather(model: nn.Module, optimizer: AdamW, best: dict[str, Tensor]) -> dict[str, Tensor]:
    """All tensors that a run has to remember: parameters, the optimizer's state of each, the best weights so far."""
    tensors = {f"best/{name}": tensor for name, tensor in best.items()}
    for name, p in model.named_parameters():
        tensors[f"model/{name}"] = p.detach()
        tensors |= {f"{key}/{name}": torch.as_tensor(value) for key, value in optimizer.state[p].items()}
    return tensors


def put_back(tensors: dict[str, Tensor], model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """The inverse of `gather`, which empties `tensors`; returns the best weights so far.

    Raises `UserError` when they are of another model.
    """
    shapes = {f"model/{name}": p.shape for name, p in model.named_parameters()}
    if shapes != {name: tensor.shape for name, tensor in tensors.items() if name.startswith("model/")}:
        raise UserError(
            "--resume: the checkpoint is of a model of other sizes: what --model names has changed; start anew: --overwrite"
        )
    for name, p in model.named_parameters():
        p.data.copy_(tensors.pop(f"model/{name}"))
        for key in ("exp_avg", "exp_avg_sq", "master"):
            if f"{key}/{name}" in tensors:
                optimizer.state[p][key] = tensors.pop(f"{key}/{name}").to(p.device)
        if f"step/{name}" in tensors:
            optimizer.state[p]["step"] = int(tensors.pop(f"step/{name}"))
    return {name.removeprefix("best/"): tensors.pop(name) for name in list(tensors)}


def write_checkpoint(checkpoints: Path, step: int, tensors: dict[str, Tensor], state: dict) -> None:
    """Writes step-N/ under a temporary name, renames it, and removes all but the last two."""
    final, temporary = checkpoints / f"step-{step}", checkpoints / f".step-{step}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    path = temporary / "tensors.safetensors"
    write_atomically(path, lambda part: safetensors.torch.save_file(tensors, part))
    state = {"sha256": checksum(path)} | state
    write_text(temporary / "state.json", json.dumps(state | {"own_sha256": fingerprint([json.dumps(state)])}))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    for old in saved_steps(checkpoints)[:-2]:
        shutil.rmtree(checkpoints / f"step-{old}", ignore_errors=True)


def saved_steps(checkpoints: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in checkpoints.glob("step-*") if path.name[5:].isdecimal())


def newest_checkpoint(checkpoints: Path, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and state of the newest whole checkpoint. A damaged one is said to be so, and the one before it is taken.

    Raises `UserError` when the system does not let one be read: it may be whole, and a run that went on without it would
    remove it.
    """
    for step in reversed(saved_steps(checkpoints)):
        folder = checkpoints / f"step-{step}"
        try:
            # both sums, though one is compared: what the system does not let us read is no damage, and ends here
            _, found = (checksum(folder / name) for name in ("state.json", "tensors.safetensors"))
            state = read_json(folder / "state.json")
            if state.pop("own_sha256", None) != fingerprint([json.dumps(state)]):
                raise UserError(f"{folder}: state.json is not what was written")
            if found != state["sha256"]:
                raise UserError(f"{folder}: tensors.safetensors is not what state.json says")
            loaded = safetensors.torch.load_file(folder / "tensors.safetensors")
            # copies: these are views of the file, which would keep its place on the disk to the end, long after it is removed
            return {name: tensor.clone() for name, tensor in loaded.items()}, state
        except (UserError, FileNotFoundError, KeyError, safetensors.SafetensorError) as error:
            say(f"a damaged checkpoint is passed over: {error}")
        except OSError as error:
            raise UserError(
                f"{folder}: can't be read ({error.strerror}). Mend that and --resume again; or move it away, to go on from the "
                "one before"
            ) from None
    return None


def asks_for_no_more(arguments, record) -> bool:
    """Whether a finished run is as long as `arguments` ask for, if they do. `record`: its flags, as run.json has them."""
    if not isinstance(record, dict):
        return False
    if arguments.max_steps:
        return record.get("max_steps") == arguments.max_steps
    epochs = arguments.num_train_epochs
    return epochs is None or (record.get("num_train_epochs"), record.get("max_steps")) == (epochs, None)


def lengthened(arguments, planned: dict) -> bool:
    """Whether `arguments` ask for more than was planned: then the learning rate goes by another length from here on."""
    name = "max_steps" if arguments.max_steps else "num_train_epochs"
    return getattr(arguments, name) != planned.get(name)


def resumed_arguments(arguments, path: Path):
    """`arguments`, with what the run at `path` (its arguments.json, or run.json) resolved of each `auto`, and with its length
    when none is asked for. Raises `UserError` when a flag would make it another run, or a shorter one.
    """
    stored = read_json(path)
    stored = stored.get("arguments", stored)
    if unknown := stored.keys() - dataclasses.asdict(arguments).keys():
        raise UserError(f"--resume: the run has --{min(unknown)}, which is no flag of this script; use another --output_dir")
    stored = check_stored(type(arguments), stored, path)
    if not any(getattr(arguments, name) for name in LENGTH):
        arguments = dataclasses.replace(arguments, **{name: stored.get(name) for name in LENGTH})
    flags = dataclasses.asdict(arguments)
    for name, value in flags.items():
        was = stored.get(name, getattr(type(arguments), name))  # a flag that is newer than the run
        if name in ("device", "precision") and value == "auto":
            arguments = dataclasses.replace(arguments, **{name: was})
        elif name not in MAY_DIFFER and value != was:
            raise UserError(f"--resume: the run has --{name} {was}, not {value}; leave it so, or use another --output_dir")
        elif name in LENGTH and None not in (was, value) and value < was:
            raise UserError(f"--resume: --{name} {value} is less than the run's {was}; it may only grow")
        elif name == "max_steps" and value is not None and was is None:
            raise UserError(
                f"--resume: the run has --num_train_epochs {stored.get('num_train_epochs')}, which --max_steps {value} might "
                "shorten; give more epochs instead"
            )
        elif name == "max_steps" and value is None and was is not None:
            raise UserError(
                f"--resume: the run was to have --max_steps {was}; give that or more, or leave --num_train_epochs out, too"
            )
    return arguments
