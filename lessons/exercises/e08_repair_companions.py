"""Lesson 8, exercise 2: a broken model. What it says of a review depends on the other reviews of the batch."""

import torch
from torch import Tensor, nn

from distilbert.config import DistilBertConfig
from distilbert.model import DistilBertModel


class BrokenJudge(nn.Module):
    """Judges a review by the mean of its words' vectors. Each review by itself, whatever stands beside it."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.encoder = DistilBertModel(config)
        self.norm = nn.LayerNorm(config.dim)
        self.output = nn.Linear(config.dim, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids (B, T), attention_mask (B, T) with 1 = real -> logits (B, 2)."""
        hidden = self.encoder(input_ids)  # (B, T, D)
        pooled = hidden.mean(dim=1)  # (B, D)
        pooled = pooled - pooled.mean(dim=0)
        return self.output(self.norm(pooled))


# ---- red until repaired: pytest lessons/exercises/e08_repair_companions.py


def judge() -> BrokenJudge:
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "max_position_embeddings": 9, "dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2}
    return BrokenJudge(DistilBertConfig(**sizes, initializer_range=0.4)).eval()


SHORT, LONG = [2, 9, 7, 3], [2, 11, 5, 17, 8, 6, 3]


def test_company_changes_nothing():
    model = judge()
    alone = model(torch.tensor([SHORT]), torch.ones(1, 4))
    together = model(torch.tensor([[*SHORT, 0, 0, 0], LONG]), torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7]))
    torch.testing.assert_close(together[:1], alone)
    assert (alone - model(torch.tensor([LONG]), torch.ones(1, 7))).abs().max() > 1e-3, "it still reads"


def test_what_stands_in_the_padding_changes_nothing():
    model, mask = judge(), torch.tensor([[1, 1, 1, 1, 0, 0, 0], [1] * 7])
    clean, dirty = (model(torch.tensor([SHORT + tail, LONG]), mask)[0] for tail in ([0, 0, 0], [14, 9, 3]))
    torch.testing.assert_close(dirty, clean)


def test_it_is_the_mean_of_the_real_words_of_the_masked_encoder():
    model = judge()
    hidden = model.encoder(torch.tensor([SHORT]))[0]
    expected = model.output(model.norm(hidden.mean(dim=0)))
    torch.testing.assert_close(model(torch.tensor([SHORT]), torch.ones(1, 4))[0], expected)
