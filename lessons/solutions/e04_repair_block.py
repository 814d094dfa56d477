"""Solution of lesson 4, exercise 2.

The norms stood before the sublayers instead of behind the sums, their names were exchanged, and the second sum took x,
what came into the block, where a, what came out of its first half, belongs.
"""

from torch import Tensor

from distilbert.model import Block


class BrokenBlock(Block):
    def forward(self, x: Tensor, mask: Tensor | None = None, rows: None = None) -> Tensor:
        a = self.attention_norm(self.attention(x, mask, x) + x)
        return self.feed_forward_norm(self.feed_forward(a) + a)
