"""A trained model over many texts, in batches by length: logits of a classifier, sums of a masked LM."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from data.batches import by_length, pad
from data.mlm import masked_batch

from .distributed import is_first
from .errors import UserError
from .model import labelled_rows


@contextlib.contextmanager
def in_eval_mode(model: nn.Module):
    """No dropout inside; the mode that was before, afterwards."""
    modes = {module: module.training for module in model.modules()}  # parts of it may differ, as a frozen encoder does
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """`in_eval_mode`, and without gradients."""
    with in_eval_mode(model), torch.inference_mode():
        yield


def batches_to_judge(sequences: Sequence[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """`by_length`'s batches. What takes long says how far it is: a bar on a terminal, a line a minute elsewhere."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    lengths = np.array([len(sequence) for sequence in sequences])
    terminal, started = sys.stderr.isatty(), time.monotonic()
    said, done, total = started, 0, int(lengths.sum())
    bar = {"desc": "judging", "unit": " tokens", "unit_scale": True, "leave": False, "delay": 2, "dynamic_ncols": True}
    with tqdm(total=total, disable=not (terminal and is_first()), **bar) as progress:
        for indices in by_length(lengths, batch_size):
            yield indices
            tokens, now = int(lengths[indices].sum()), time.monotonic()
            progress.update(tokens)
            done += tokens
            if not terminal and is_first() and now - said >= 60:
                left = (now - started) * (total / done - 1)
                print(f"judging: {done / total:.0%}, {left / 60:.1f} min left", file=sys.stderr, flush=True)
                said = now


def predict_logits(model: nn.Module, sequences: Sequence[np.ndarray], pad_id: int, batch_size: int = 64) -> np.ndarray:
    """Logits (N, C) in fp32, in the order given. Batches by length, in eval mode; the model's mode is restored.

    Raises `UserError` when some are no numbers: half of them would pass for right.
    """
    device = next(model.parameters()).device
    logits = np.empty((len(sequences), model.config.num_labels), dtype=np.float32)
    with evaluating(model):
        for indices in batches_to_judge(sequences, batch_size):
            ids, mask = pad([sequences[i] for i in indices], pad_id)
            logits[indices] = model(ids.to(device), mask.to(device)).float().cpu().numpy()
    if wrong := int((~np.isfinite(logits).all(axis=1)).sum()):
        raise UserError(f"for {wrong} of {len(logits)} texts the model's output is no number; try --precision fp32")
    return logits


def masked_lm_totals(
    model: nn.Module, pairs: list[tuple[np.ndarray, np.ndarray]], pad_id: int, batch_size: int = 64
) -> tuple[float, int, int]:
    """Over all labels of (ids, labels) pairs: sum of the losses in nats, how many were guessed right, how many there are."""
    device, loss_sum, right, count = next(model.parameters()).device, 0.0, 0, 0
    with evaluating(model):
        for indices in batches_to_judge([ids for ids, _ in pairs], batch_size):
            batch = masked_batch([pairs[i] for i in indices], pad_id)
            batch |= labelled_rows(batch["labels"])  # on the CPU, as in training
            logits, targets = model.labelled_logits(**{name: tensor.to(device) for name, tensor in batch.items()})
            loss_sum += F.cross_entropy(logits.float(), targets, reduction="sum").item()
            right += int((logits.argmax(dim=1) == targets).sum())
            count += len(targets)
    return loss_sum, right, count
