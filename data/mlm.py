"""Masked language modelling: windows of text, and which of their tokens are hidden."""

import math

import numpy as np
import torch

from distilbert.errors import UserError

from .batches import TokenTable, pad
from .sources import Part, Parts, stratified

IGNORED = -100  # the label of a token that need not be guessed


def corpus_parts(parts: Parts, corpus: str, data: str) -> Parts:
    """train, validation and test of an adaptation. train is the unlabelled texts, and with "all" the labelled training ones.

    A source without held-out parts (a .txt) gives a tenth to each. Raises `UserError` for fewer than three texts.
    """
    names = ("unlabelled",) if corpus == "unsup" else ("unlabelled", "train")
    chosen = [parts[name] for name in names if name in parts]
    texts = [text for part in chosen for text in part.texts]
    if len(texts) < 3:
        more = "; --corpus all takes those of train, too" if corpus == "unsup" else ""
        raise UserError(f"--data {data}: {len(texts)} texts to adapt to with --corpus {corpus}, expected at least three{more}")
    labels = np.zeros(len(texts), dtype=np.int64)  # an adaptation has no use for them
    train = Part(texts, labels, [name for part in chosen for name in part.names])
    held_out = {name: parts[name] for name in ("validation", "test") if name in parts}
    for number, name in enumerate(("validation", "test")):
        if name not in held_out:
            taken, rest = stratified(train.labels, max(len(texts) // 10, 1), seed=number)
            held_out[name], train = train.take(taken), train.take(rest)
    return {"train": train} | held_out


def windows(table: TokenTable, max_length: int) -> list[np.ndarray]:
    """One review, one sequence; a long one becomes several windows, and no token is lost or repeated.

    The windows of a review are of nearly equal length, each with its own [CLS] and [SEP]. Reviews are never joined: the
    end of one says nothing about the beginning of the next.
    """
    sequences = []
    for ids in table:
        count = max(math.ceil((len(ids) - 2) / (max_length - 2)), 1)
        for piece in np.array_split(ids[1:-1], count):
            sequences.append(np.concatenate([ids[:1], piece, ids[-1:]]))
    return sequences


def packed(table: TokenTable, max_length: int) -> list[np.ndarray]:
    """transformers' recipe: all texts end to end, with their [CLS] and [SEP], cut every max_length tokens.

    No padding, but windows begin in the middle of sentences and mix reviews. The last, shorter window is kept.
    """
    return [np.asarray(table.ids[i : i + max_length]) for i in range(0, len(table.ids), max_length)]


def mask_tokens(
    ids: np.ndarray,
    seed: tuple[int, ...],
    vocab_size: int,
    mask_id: int,
    special_ids: list[int],
    probability: float = 0.15,
    continues: list[bool] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses tokens to be guessed -> (ids with some replaced, labels: the true id where chosen, else -100).

    Each real token is chosen with `probability`. Of the chosen, 80% become [MASK], 10% a random id of the whole
    vocabulary, 10% stay as they are (BERT, section 3.1 and appendix A.1): fine-tuning shows no [MASK], so what is visible has
    to be checked as well: some of it is fake, and some that is asked for is true. With `continues` (which ids are ##pieces)
    whole words are chosen instead of pieces, and all pieces of one share its fate. A pure function of its arguments: `seed`
    is (seed, epoch, index of the sequence) in training.
    """
    random = np.random.default_rng(seed)
    groups = np.arange(len(ids))  # for each token, the number of the word it belongs to
    if continues is not None:
        groups = np.cumsum([not continues[i] for i in ids])
    count = int(groups.max()) + 1
    real = ~np.isin(ids, special_ids)
    chosen = (random.random(count) < probability)[groups] & real
    fate = random.random(count)[groups]
    random_ids = random.integers(0, vocab_size, len(ids), dtype=ids.dtype)
    masked = np.where(chosen & (fate < 0.8), mask_id, ids)
    masked = np.where(chosen & (fate >= 0.8) & (fate < 0.9), random_ids, masked)
    return masked.astype(ids.dtype), np.where(chosen, ids, IGNORED).astype(np.int64)


def masked_batch(pairs: list[tuple[np.ndarray, np.ndarray]], pad_id: int) -> dict[str, torch.Tensor]:
    """What a masked LM's `loss` takes: input_ids, attention_mask and labels, all (B, T)."""
    input_ids, attention_mask = pad([ids for ids, _ in pairs], pad_id)  # (B, T)
    labels, _ = pad([label for _, label in pairs], IGNORED)  # (B, T)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
