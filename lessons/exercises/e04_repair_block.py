"""Lesson 4, exercise 2: a broken model. The weights come from a post-norm block; this one uses them differently."""

import torch
from torch import Tensor

from distilbert.config import DistilBertConfig
from distilbert.model import Block


class BrokenBlock(Block):
    """Meant to be `distilbert.model.Block`: same parameters under the same names, only `forward` is wrong."""

    def forward(self, x: Tensor, mask: Tensor | None = None, rows: None = None) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        normed = self.feed_forward_norm(x)
        a = x + self.attention(normed, mask, normed)
        return x + self.feed_forward(self.attention_norm(a))


# ---- red until repaired: pytest lessons/exercises/e04_repair_block.py


def test_it_is_the_block_whatever_the_norms_have_learnt():
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=9, dim=8, hidden_dim=12, n_layers=1, n_heads=2)
    whole, repaired = Block(config).eval(), BrokenBlock(config).eval()
    with torch.no_grad():
        for parameter in whole.parameters():  # fresh norms are all alike, and would hide which is which
            parameter.copy_(torch.randn(parameter.shape))
    repaired.load_state_dict(whole.state_dict())
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(repaired(x), whole(x, None))
    mask = torch.tensor([0, 0, 0, 0, -30_000.0]).view(1, 1, 1, 5)  # the last place is padding
    torch.testing.assert_close(repaired(x, mask), whole(x, mask))
