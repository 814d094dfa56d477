"""Classification: one text, one sequence, one label."""

import numpy as np
import torch

from .batches import pad


def truncate(ids: np.ndarray, max_length: int, truncation: str = "head") -> np.ndarray:
    """At most max_length of a text's ids, [CLS] and [SEP] kept at the ends.

    Of what lies between, "head" keeps the beginning, "tail" the end, "head-tail" a quarter from the beginning and the
    rest from the end: a reviewer's verdict often stands last (Sun et al. 2019, section 5.3.1: 128 + 382 of 510).
    """
    if len(ids) <= max_length:
        return ids
    room = max_length - 2
    head = {"head": room, "tail": 0, "head-tail": room * 128 // 510}[truncation]
    return np.concatenate([ids[: 1 + head], ids[len(ids) - 1 - (room - head) :]])


def classification_batch(sequences: list[np.ndarray], labels: np.ndarray, pad_id: int) -> dict[str, torch.Tensor]:
    """What a classifier's `loss` takes: input_ids and attention_mask (B, T), labels (B,)."""
    input_ids, attention_mask = pad(sequences, pad_id)  # (B, T)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": torch.from_numpy(labels)}
