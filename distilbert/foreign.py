"""Checkpoints that are not quite ours: older names, BERT's names, no config.json, and a linear head for transformers."""

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from .config import DistilBertConfig
from .errors import UserError

RENAMED = [  # pattern -> today's DistilBERT name, applied one after the other
    (r"^bert\.", ""),
    (r"\bLayerNorm\.gamma$", "LayerNorm.weight"),
    (r"\bLayerNorm\.beta$", "LayerNorm.bias"),
    (r"^embeddings\.", "distilbert.embeddings."),
    (r"^transformer\.", "distilbert.transformer."),
    (r"^encoder\.layer\.", "distilbert.transformer.layer."),
    (r"\.attention\.self\.(query|key|value)\.", lambda match: f".attention.{match[1][0]}_lin."),
    (r"\.attention\.output\.dense\.", ".attention.out_lin."),
    (r"\.attention\.output\.LayerNorm\.", ".sa_layer_norm."),
    (r"\.intermediate\.dense\.", ".ffn.lin1."),
    (r"\.output\.dense\.", ".ffn.lin2."),
    (r"\.output\.LayerNorm\.", ".output_layer_norm."),
    (r"^cls\.predictions\.transform\.dense\.", "vocab_transform."),
    (r"^cls\.predictions\.transform\.LayerNorm\.", "vocab_layer_norm."),
    (r"^cls\.predictions\.(bias|decoder\.bias)$", "vocab_projector.bias"),
    (r"^cls\.predictions\.decoder\.weight$", "vocab_projector.weight"),
]
OTHER_HEADS = r"^(vocab_|pre_classifier\.|classifier\.|qa_outputs\.|pooler\.|cls\.|.*\.position_ids$)"


def as_distilbert(tensors: dict[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """Renames what older DistilBERT files, bare encoders and BERT call differently, and folds BERT's token types.

    A single text has token type 0 at every position, so its row is added to each row of the *position* embeddings, and
    the sum is what it was. (Not to the word embeddings: they are the decoder of the MLM head too.)
    """
    bert = any(".attention.self." in name for name in tensors)
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if bert and name.startswith(("classifier.", "pre_classifier.")):
            continue  # a head that reads BERT's pooler, which DistilBERT has not
        new = name
        for pattern, replacement in RENAMED:
            new = re.sub(pattern, replacement, new, count=1)
        if re.match(OTHER_HEADS, new) and not re.match(r"(vocab_|(pre_)?classifier\.)", new):
            continue
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise UserError(f"{directory}: tensor {name} has dtype {str(tensor.dtype)[6:]}, expected a floating-point one")
        if new in renamed and not torch.equal(renamed[new], tensor.float()):
            raise UserError(f"{directory}: tensor {name} stands there twice, with different values")
        renamed[new] = tensor.float()
    types = renamed.pop("distilbert.embeddings.token_type_embeddings.weight", None)
    positions = "distilbert.embeddings.position_embeddings.weight"
    if types is not None and positions in renamed:
        if types.ndim != 2 or types.shape[1:] != renamed[positions].shape[1:]:
            raise UserError(f"{directory}: token_type_embeddings has shape {list(types.shape)}, unlike the positions'")
        renamed[positions] = renamed[positions] + types[0]
    return renamed


def sizes_of(tensors: dict[str, Tensor], directory: Path) -> DistilBertConfig:
    """A configuration for a directory without config.json, read off the tensors; heads are taken as 64 wide."""
    try:
        words = tensors["distilbert.embeddings.word_embeddings.weight"]
        positions = tensors["distilbert.embeddings.position_embeddings.weight"]
        expand = tensors["distilbert.transformer.layer.0.ffn.lin1.weight"]
    except KeyError as error:
        raise UserError(f"no such file, and without tensor {error} the sizes can't be read off the weights") from None
    layers = {int(match[1]) for name in tensors if (match := re.match(r"distilbert\.transformer\.layer\.(\d+)\.", name))}
    return DistilBertConfig(
        vocab_size=words.shape[0],
        max_position_embeddings=positions.shape[0],
        dim=words.shape[1],
        hidden_dim=expand.shape[0],
        n_layers=len(layers),
        n_heads=max(words.shape[1] // 64, 1),
        classifier_head="pre_classifier",
    )


def linear_head_as_transformers(tensors: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """Our one Linear as transformers' Linear, ReLU, Linear, with the same logits.

    h is the output of a norm, so |h| ≤ √D·max|γ| + max|β| < C. Then relu(I·h + C) = h + C: the ReLU does nothing, and
    the second Linear takes W·C off its bias again.
    """
    weight, bias = tensors["classifier.weight"], tensors["classifier.bias"]
    norm = f"distilbert.transformer.layer.{n_layers - 1}.output_layer_norm"
    D = weight.shape[1]
    bound = math.sqrt(D) * tensors[norm + ".weight"].abs().max().item() + tensors[norm + ".bias"].abs().max().item()
    C = float(math.ceil(bound))
    shifted = bias.double() - C * weight.double().sum(dim=1)
    head = {
        "pre_classifier.weight": torch.eye(D),
        "pre_classifier.bias": torch.full((D,), C),
        "classifier.weight": weight,
        "classifier.bias": shifted.float(),
    }
    return tensors | head


def linear_head_from_transformers(tensors: dict[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """The inverse of `linear_head_as_transformers`. Raises `UserError` when the first Linear is not what that wrote."""
    tensors = dict(tensors)
    weight, bias = tensors["classifier.weight"], tensors.get("classifier.bias")
    identity, shift = tensors.pop("pre_classifier.weight"), tensors.pop("pre_classifier.bias", None)
    square = identity.ndim == 2 and identity.shape[0] == identity.shape[1]
    if not square or shift is None or bias is None or not torch.equal(identity, torch.eye(len(identity))):
        raise UserError(
            f'{directory}: config.json says classifier_head "linear", but pre_classifier.weight is no identity; '
            'for a head trained by transformers it should say "pre_classifier"'
        )
    tensors["classifier.bias"] = (bias.double() + shift[0].double() * weight.double().sum(dim=1)).float()
    return tensors
