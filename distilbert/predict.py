"""A trained model at work: logits of many texts, verdicts on reviews."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from data.batches import by_length, pad
from data.mlm import masked_batch
from data.sources import Part

from .cli import flag, parse, printable, user_errors
from .distributed import is_first
from .errors import UserError
from .metrics import softmax
from .model import DistilBertForMaskedLM
from .tokenizer import Tokenizer

TRAINED = "; or, after training of your own, model.head_is_fresh = False"


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


def check_pair(model: nn.Module, tokenizer) -> None:
    """Raises `UserError` when the tokenizer has ids that the model has no embedding for."""
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(f"the tokenizer has {len(tokenizer)} pieces, the model {model.config.vocab_size}: not a pair")


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
    """Logits (N, C) in fp32, in the order given. Batches by length, in eval mode; the model's mode is restored."""
    device = next(model.parameters()).device
    logits = np.empty((len(sequences), model.config.num_labels), dtype=np.float32)
    with evaluating(model):
        for indices in batches_to_judge(sequences, batch_size):
            ids, mask = pad([sequences[i] for i in indices], pad_id)
            logits[indices] = model(ids.to(device), mask.to(device)).float().cpu().numpy()
    return logits


def verdicts(logits: np.ndarray, part: Part, metrics: dict) -> str:
    """The figures of a part, and five of its texts as they were judged: one wrong, if there is one."""
    low, high = metrics["accuracy_interval"]
    right = logits.argmax(axis=1) == part.labels
    lines = [
        f"test accuracy {metrics['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}) on {metrics['n']} texts, "
        f"F1 {metrics['f1']:.4f}, ROC-AUC {metrics['roc_auc']:.4f}\n"
    ]
    chosen = np.concatenate([np.flatnonzero(~right)[:1], np.flatnonzero(right)])[:5]
    for i, confidence in zip(chosen, softmax(logits[chosen]).max(axis=1), strict=True):
        said, text = "Positive" if logits[i].argmax() else "Negative", printable(" ".join(part.texts[i].split()))
        lines.append(f"{'right' if right[i] else 'WRONG'}  {said} {confidence:.2f}  {text[:90]}{'…' if len(text) > 90 else ''}")
    return "\n".join(lines) + "\n"


def masked_lm_totals(
    model: nn.Module, pairs: list[tuple[np.ndarray, np.ndarray]], pad_id: int, batch_size: int = 64
) -> tuple[float, int, int]:
    """Over all labels of (ids, labels) pairs: sum of the losses in nats, how many were guessed right, how many there are."""
    device, loss_sum, right, count = next(model.parameters()).device, 0.0, 0, 0
    with evaluating(model):
        for indices in batches_to_judge([ids for ids, _ in pairs], batch_size):
            batch = masked_batch([pairs[i] for i in indices], pad_id)
            logits, targets = model.labelled_logits(**{name: tensor.to(device) for name, tensor in batch.items()})
            loss_sum += F.cross_entropy(logits.float(), targets, reduction="sum").item()
            right += int((logits.argmax(dim=1) == targets).sum())
            count += len(targets)
    return loss_sum, right, count


def fill_mask(text: str, model: nn.Module, tokenizer, top: int = 5) -> list[list[tuple[str, float]]]:
    """For each [MASK] of the text, the `top` likeliest pieces with their probabilities.

    Raises `UserError` for a model loaded without a trained head, for a tokenizer with more pieces than the model knows, for
    a text without [MASK], and for one beyond the model's positions.
    """
    if model.head_is_fresh:
        raise UserError("this model's masked-LM head is untrained: train it first with python train_mlm.py --model …" + TRAINED)
    check_pair(model, tokenizer)
    limit = model.config.max_position_embeddings
    ids = torch.tensor([tokenizer.encode(text, limit)])
    masked, wanted = (ids[0] == tokenizer.mask_id).nonzero().flatten(), tokenizer.encode(text, None).count(tokenizer.mask_id)
    if not wanted:
        raise UserError(f'no [MASK] in {text[:60]!r}; write for example "The acting was [MASK]."')
    if len(masked) < wanted:
        raise UserError(f"a [MASK] of {text[:60]!r} lies beyond the {limit} tokens that the model reads; shorten the text")
    with evaluating(model):
        logits = model(ids.to(next(model.parameters()).device))[0].cpu()  # (T, V)
        probabilities, pieces = logits[masked].float().softmax(dim=1).topk(top)
    return [
        [(tokenizer.backend.id_to_token(int(piece)), float(p)) for piece, p in zip(*row, strict=True)]
        for row in zip(pieces, probabilities, strict=True)
    ]


def infer_reviews(reviews: str | list[str], model: nn.Module, tokenizer, batch_size: int = 32, max_length: int = 512):
    """Judges one review or a list -> (class, label, confidence), or a list of such tuples, in order.

    `tokenizer`: ours or one of transformers'. Texts are cut to `max_length` tokens or the model's positions. One without a
    word is judged like any other: look for it before, as what is said of it means nothing.
    Raises `UserError` for a model loaded without a trained head and for a tokenizer with more pieces than the model knows.
    """
    if getattr(model, "head_is_fresh", False):
        raise UserError("this model's classifier is untrained: train it first with python train_cls.py --model …" + TRAINED)
    check_pair(model, tokenizer)
    texts = [reviews] if isinstance(reviews, str) else list(reviews)
    if not texts:
        return []
    max_length = min(max_length, model.config.max_position_embeddings)
    if hasattr(tokenizer, "encode_batch"):
        encoded = tokenizer.encode_batch(texts, max_length)
    else:
        encoded = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    logits = predict_logits(model, [np.array(ids) for ids in encoded], model.config.pad_token_id, batch_size)
    probabilities = torch.from_numpy(logits).softmax(dim=1)
    confidence, classes = probabilities.max(dim=1)
    verdicts = [(int(k), model.config.id2label[int(k)], float(p)) for k, p in zip(classes, confidence, strict=True)]
    return verdicts[0] if isinstance(reviews, str) else verdicts


@dataclass(frozen=True)
class FillArguments:
    """Guesses the hidden words of a sentence."""

    model: str = flag("runs/mlm", "a run of train_mlm.py, or another masked LM")
    fill: str = flag("The acting was [MASK].", "a sentence with [MASK] in it")


def main(argv: list[str] | None = None) -> None:
    """`python -m distilbert.predict --fill "The acting was [MASK]."`: the five likeliest fillings of each [MASK]."""
    args = parse(FillArguments, argv)
    model, tokenizer = DistilBertForMaskedLM.from_pretrained(args.model), Tokenizer.from_pretrained(args.model)
    for number, guesses in enumerate(fill_mask(args.fill, model, tokenizer), 1):
        print(f"[MASK] {number} of {args.fill!r}")
        for piece, probability in guesses:
            print(printable(f"  {probability:.3f}  {piece}"))


if __name__ == "__main__":
    with user_errors():
        main()
