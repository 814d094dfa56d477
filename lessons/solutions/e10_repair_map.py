"""Solution of lesson 10, exercise 2.

1. The two norms were exchanged: sa_layer_norm, "self-attention", is the one behind the attention.
2. The thirds stood in the order keys, queries, values; the model cuts them as queries, keys, values.
3. The blocks were numbered from the top.
"""

import re

import torch
from torch import Tensor


def rename(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    places = {
        "attention.out_lin": "attention.output",
        "sa_layer_norm": "attention_norm",
        "output_layer_norm": "feed_forward_norm",
        "ffn.lin1": "feed_forward.expand",
        "ffn.lin2": "feed_forward.contract",
    }
    ours = {
        "embeddings.words.weight": theirs["embeddings.word_embeddings.weight"],
        "embeddings.positions.weight": theirs["embeddings.position_embeddings.weight"],
    }
    layers = {int(match[1]) for name in theirs if (match := re.match(r"transformer\.layer\.(\d+)\.", name))}
    for kind in ("weight", "bias"):
        ours[f"embeddings.norm.{kind}"] = theirs[f"embeddings.LayerNorm.{kind}"]
        for i in layers:
            prefix = f"transformer.layer.{i}"
            thirds = [theirs[f"{prefix}.attention.{letter}_lin.{kind}"] for letter in "qkv"]
            ours[f"blocks.{i}.attention.qkv.{kind}"] = torch.cat(thirds)
            for there, here in places.items():
                ours[f"blocks.{i}.{here}.{kind}"] = theirs[f"{prefix}.{there}.{kind}"]
    return ours
