"""Lesson 2, exercise 2: the size of an encoder, on paper."""

import torch

from distilbert.config import DistilBertConfig
from distilbert.model import DistilBertModel


def count_parameters(V: int, T: int, D: int, F: int, L: int) -> int:
    """Parameters of the encoder: vocabulary V, positions T, width D, feed-forward width F, L blocks.

    Without building one: look at what `Embeddings`, `Attention`, `FeedForward` and `Block` hold, biases and norms too.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e02_count_parameters.py


def test_the_encoder_of_distilbert_base():
    assert count_parameters(V=30_522, T=512, D=768, F=3_072, L=6) == 66_362_880


def test_other_sizes():
    for V, T, D, F, L in [(11, 7, 6, 10, 1), (100, 16, 8, 32, 3), (23, 5, 12, 7, 2)]:
        config = DistilBertConfig(
            vocab_size=V, max_position_embeddings=T, dim=D, hidden_dim=F, n_layers=L, n_heads=2, pad_token_id=0
        )
        with torch.device("meta"):
            model = DistilBertModel(config)
        assert count_parameters(V, T, D, F, L) == sum(p.numel() for p in model.parameters())
