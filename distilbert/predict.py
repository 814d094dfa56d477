"""A trained model at work: logits of many texts, verdicts on reviews."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from data.batches import by_length, pad

from .errors import UserError


@torch.inference_mode()
def predict_logits(model: nn.Module, sequences: Sequence[np.ndarray], pad_id: int, batch_size: int = 64) -> np.ndarray:
    """Logits (N, C) in fp32, in the order given. Batches by length, in eval mode; the model's mode is restored."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    logits = np.empty((len(sequences), model.config.num_labels), dtype=np.float32)
    for indices in by_length(np.array([len(sequence) for sequence in sequences]), batch_size):
        ids, mask = pad([sequences[i] for i in indices], pad_id)
        logits[indices] = model(ids.to(device), mask.to(device)).float().cpu().numpy()
    model.train(was_training)
    return logits


def infer_reviews(reviews: str | list[str], model: nn.Module, tokenizer, batch_size: int = 32, max_length: int = 512):
    """Judges one review or a list -> (class, label, confidence), or a list of such tuples, in order.

    `tokenizer`: ours or one of transformers'. Texts are cut to `max_length` tokens or the model's positions.
    Raises `UserError` for a model whose head was never trained and for a tokenizer with more pieces than the model knows.
    """
    if getattr(model, "head_is_fresh", False):
        raise UserError("this model's classifier is untrained: train it first with python train_cls.py --model …")
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(f"the tokenizer has {len(tokenizer)} pieces, the model {model.config.vocab_size}: not a pair")
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
