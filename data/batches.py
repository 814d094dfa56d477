"""Ids to batches: the token cache, the order of an epoch, and padding. All order is a pure function of (seed, epoch)."""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from distilbert.files import cache_directory, fingerprint, write_atomically

Encode = Callable[[list[str]], list[list[int]]]


class TokenTable:
    """Token ids of many texts, end to end in one memory-mapped array: table[i] is text i's, whole and uncut."""

    def __init__(self, ids: np.ndarray, ends: np.ndarray):
        self.ids, self.ends = ids, ends
        self.lengths = np.diff(ends, prepend=0)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> np.ndarray:
        return np.asarray(self.ids[self.ends[i] - self.lengths[i] : self.ends[i]])


def tokenise(texts: list[str], encode: Encode, identity: str) -> TokenTable:
    """Encodes all texts once; a second call with the same texts and tokenizer finds them on the disk.

    `identity` stands for the tokenizer: whatever is equal exactly when the vocabulary and its rules are.
    """
    stem = f"{cache_directory()}/tokens/{fingerprint([identity, *texts])}"
    ids, ends = Path(f"{stem}.ids.npy"), Path(f"{stem}.ends.npy")
    with contextlib.suppress(OSError, ValueError, EOFError):  # not there, or damaged
        return TokenTable(np.load(ids, mmap_mode="r"), np.load(ends))
    pieces, step = [], 1_000
    for start in tqdm(range(0, len(texts), step), desc="tokenising", unit="k texts", leave=False, delay=2, disable=None):
        pieces += [np.array(piece, dtype=np.int32) for piece in encode(texts[start : start + step])]
    _save(ids, np.concatenate(pieces))
    _save(ends, np.cumsum([len(piece) for piece in pieces]))
    return TokenTable(np.load(ids, mmap_mode="r"), np.load(ends))


def _save(path: Path, array: np.ndarray) -> None:
    content = io.BytesIO()  # numpy's own writing to a full disk raises an error that does not say so
    np.save(content, array, allow_pickle=False)
    write_atomically(path, lambda temporary: temporary.write_bytes(content.getbuffer()))


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int, batching: str = "length") -> list[np.ndarray]:
    """The batches of one epoch, each an array of indices; every example exactly once.

    "length": examples of similar length together, so that little is padded (of a random batch of reviews cut at 512, half is).
    The order is by length // 16, at random among equal ones, and the finished batches are shuffled: neither neighbours nor
    order repeat from epoch to epoch. A remainder makes one batch smaller: a random one, or it would always be the longest's.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    if batching == "length":
        order = order[np.argsort(np.asarray(lengths)[order] // 16, kind="stable")]
    sizes = np.full(math.ceil(len(order) / batch_size), batch_size)
    if len(order) % batch_size:
        sizes[random.integers(len(sizes))] = len(order) % batch_size
    batches = np.split(order, np.cumsum(sizes)[:-1])
    return [batches[i] for i in random.permutation(len(batches))]


def by_length(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Batches for evaluation: longest first, so that too little memory shows at once."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad(sequences: list[np.ndarray], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both (B, T) int64 with T the longest: padding behind the text, and 0 in the mask for it."""
    T = max(map(len, sequences))
    ids = np.full((len(sequences), T), pad_id, dtype=np.int64)
    mask = np.zeros((len(sequences), T), dtype=np.int64)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = sequence
        mask[i, : len(sequence)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
