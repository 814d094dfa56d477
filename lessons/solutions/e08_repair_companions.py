"""Solution of lesson 8, exercise 2.

1. The encoder never saw the mask, so the words looked at the padding.
2. The mean counted the padded places, and the more of them, the more.
3. The mean over the *batch* was taken off: in a batch of one review that leaves nothing of it at all.
"""

from torch import Tensor, nn

from distilbert.config import DistilBertConfig
from distilbert.model import DistilBertModel


class BrokenJudge(nn.Module):
    def __init__(self, config: DistilBertConfig):
        super().__init__()
        self.encoder = DistilBertModel(config)
        self.norm = nn.LayerNorm(config.dim)
        self.output = nn.Linear(config.dim, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask)  # (B, T, D)
        real = attention_mask[:, :, None].to(hidden.dtype)
        pooled = (hidden * real).sum(dim=1) / real.sum(dim=1)  # (B, D)
        return self.output(self.norm(pooled))
