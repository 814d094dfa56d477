"""Lesson 10, exercise 2: a broken model. Its weights arrive where their shapes fit, some of them in the wrong place."""

import re

import torch
from torch import Tensor

from distilbert.checkpoint import name_map, to_theirs
from distilbert.config import DistilBertConfig
from distilbert.model import DistilBertModel

PLACES = {  # the end of their name inside a block: ours
    "attention.out_lin": "attention.output",
    "sa_layer_norm": "feed_forward_norm",
    "output_layer_norm": "attention_norm",
    "ffn.lin1": "feed_forward.expand",
    "ffn.lin2": "feed_forward.contract",
}


def rename(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A bare encoder's tensors under transformers' names -> under ours, for `load_state_dict`."""
    ours = {
        "embeddings.words.weight": theirs["embeddings.word_embeddings.weight"],
        "embeddings.positions.weight": theirs["embeddings.position_embeddings.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"embeddings.norm.{kind}"] = theirs[f"embeddings.LayerNorm.{kind}"]
        layers = {int(match[1]) for name in theirs if (match := re.match(r"transformer\.layer\.(\d+)\.", name))}
        for i, layer in enumerate(sorted(layers, reverse=True)):
            prefix = f"transformer.layer.{layer}"
            thirds = [theirs[f"{prefix}.attention.{letter}_lin.{kind}"] for letter in "kqv"]
            ours[f"blocks.{i}.attention.qkv.{kind}"] = torch.cat(thirds)
            for there, here in PLACES.items():
                ours[f"blocks.{i}.{here}.{kind}"] = theirs[f"{prefix}.{there}.{kind}"]
    return ours


# ---- red until repaired: pytest lessons/exercises/e10_repair_map.py


def compare(n_layers: int) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "max_position_embeddings": 7, "dim": 8, "hidden_dim": 8, "n_heads": 2}
    whole = DistilBertModel(DistilBertConfig(**sizes, n_layers=n_layers)).eval()
    for parameter in whole.parameters():  # fresh ones would hide half of the errors
        torch.nn.init.normal_(parameter)
    repaired = DistilBertModel(whole.config).eval()
    repaired.load_state_dict(rename(to_theirs(name_map("DistilBertModel", whole.config), whole.state_dict())))
    ids = torch.tensor([[2, 9, 7, 3], [2, 5, 8, 3]])
    torch.testing.assert_close(repaired(ids), whole(ids))


def test_one_block():
    compare(n_layers=1)


def test_three_blocks():
    compare(n_layers=3)
