"""Checkpoints in Hugging Face's layout: the name map, and strict reading and writing with it.

A file is read in three steps: `read_tensors` (bytes to named tensors), `as_distilbert` (older names, BERT's names and
BERT's token types become today's DistilBERT names), `NameMap.to_ours`. Writing goes through the same map backwards.
"""

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .config import DistilBertConfig
from .errors import UserError
from .files import read_json, write_atomically, write_json
from .hub import locate

EMBEDDINGS = [  # Hugging Face's name, ours; * is weight and bias
    ("distilbert.embeddings.word_embeddings.weight", "encoder.embeddings.words.weight"),
    ("distilbert.embeddings.position_embeddings.weight", "encoder.embeddings.positions.weight"),
    ("distilbert.embeddings.LayerNorm.*", "encoder.embeddings.norm.*"),
]
BLOCK = [  # q, k and v are one matrix of ours: its first, second and third D rows
    ("distilbert.transformer.layer.{}.attention.q_lin.*", "encoder.blocks.{}.attention.qkv.* 0"),
    ("distilbert.transformer.layer.{}.attention.k_lin.*", "encoder.blocks.{}.attention.qkv.* 1"),
    ("distilbert.transformer.layer.{}.attention.v_lin.*", "encoder.blocks.{}.attention.qkv.* 2"),
    ("distilbert.transformer.layer.{}.attention.out_lin.*", "encoder.blocks.{}.attention.output.*"),
    ("distilbert.transformer.layer.{}.sa_layer_norm.*", "encoder.blocks.{}.attention_norm.*"),
    ("distilbert.transformer.layer.{}.ffn.lin1.*", "encoder.blocks.{}.feed_forward.expand.*"),
    ("distilbert.transformer.layer.{}.ffn.lin2.*", "encoder.blocks.{}.feed_forward.contract.*"),
    ("distilbert.transformer.layer.{}.output_layer_norm.*", "encoder.blocks.{}.feed_forward_norm.*"),
]
HEADS = {
    "DistilBertModel": [],
    "DistilBertForMaskedLM": [
        ("vocab_transform.*", "head.transform.*"),
        ("vocab_layer_norm.*", "head.norm.*"),
        ("vocab_projector.bias", "head.bias"),
    ],
    "DistilBertForSequenceClassification": [
        ("pre_classifier.*", "head.hidden.*"),
        ("classifier.*", "head.output.*"),
    ],
}
BERT = [  # BERT's name -> DistilBERT's, as patterns; the first that matches counts
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


@dataclass(frozen=True)
class Row:
    """One line of the map: `theirs` is tensor `ours`, or its third number `third` by rows."""

    theirs: str
    ours: str
    third: int | None = None


def name_map(architecture: str, config: DistilBertConfig) -> list[Row]:
    """The bijection between Hugging Face's names and ours for one of the three models."""
    patterns = list(EMBEDDINGS)
    for i in range(config.n_layers):
        patterns += [(theirs.format(i), ours.format(i)) for theirs, ours in BLOCK]
    head = HEADS[architecture]
    if architecture == "DistilBertForSequenceClassification" and config.classifier_head == "linear":
        head = head[1:]
    rows = []
    for theirs, ours in patterns + head:
        ours, _, third = ours.partition(" ")
        for kind in ("weight", "bias") if "*" in ours else ("",):
            rows.append(Row(theirs.replace("*", kind), ours.replace("*", kind), int(third) if third else None))
    if architecture == "DistilBertModel":  # a bare encoder has neither prefix
        rows = [Row(r.theirs.removeprefix("distilbert."), r.ours.removeprefix("encoder."), r.third) for r in rows]
    return rows


def to_ours(rows: list[Row], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's tensors under our names; thirds are joined. Rows whose tensor is not there are left out."""
    ours: dict[str, list[Tensor]] = {}
    for row in rows:
        if row.theirs in theirs:
            ours.setdefault(row.ours, []).append(theirs[row.theirs])
    return {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in ours.items()}


def to_theirs(rows: list[Row], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under Hugging Face's names."""
    return {
        row.theirs: (ours[row.ours] if row.third is None else ours[row.ours].chunk(3)[row.third]).contiguous()
        for row in rows
    }


class Pretrained:
    """Gives a model `from_pretrained` and `save_pretrained`; the class name says which architecture it is."""

    head_is_fresh = False  # True after loading a checkpoint without a head: such a model needs training first

    @classmethod
    def from_pretrained(cls, model: str | Path, classifier_head: str | None = None, **changes):
        """From a directory, a short name or a hub id. `changes` are configuration fields to override (dropout, …).

        A head that the checkpoint has not, or has of another kind than `classifier_head`, is made fresh and announced.
        Raises `UserError` for whatever is missing, left over, misshapen, not finite or not readable.
        """
        directory = locate(str(model))
        config, tensors = read_checkpoint(directory)
        body = {row.theirs for row in encoder_rows(cls.__name__, config)}
        head = {row.theirs for row in name_map(cls.__name__, config)} - body
        found = head & tensors.keys()
        if found and found != head:
            raise UserError(f"{directory}: half a head: has {min(found)}, but no {min(head - found)}")
        if cls.__name__ == "DistilBertForSequenceClassification":
            wanted = classifier_head or (config.classifier_head if found else "linear")
            if not found or wanted != config.classifier_head:
                found = set()
                config = config.replace(classifier_head=wanted, seq_classif_dropout=0.1 if wanted == "linear" else 0.2)
        config = config.replace(**changes)
        rows = name_map(cls.__name__, config) if found else encoder_rows(cls.__name__, config)
        with torch.device("meta"):  # shapes only: what does not fit is refused before memory is taken for it
            shapes = {name: p.shape for name, p in cls(config).named_parameters()}
        check_shapes(rows, tensors, shapes, directory)
        network = cls(config)
        network.load_state_dict(to_ours(rows, tensors), strict=False)  # strictness was `check_shapes`
        network.head_is_fresh = bool(head) and not found
        if network.head_is_fresh:
            print(f"{model}: an encoder without this head; the head starts untrained", file=sys.stderr)
        return network

    def save_pretrained(self, directory: str | Path, state: dict[str, Tensor] | None = None) -> None:
        """Writes config.json and model.safetensors, in fp32. `state`: the values to write, if not the model's own."""
        directory, config = Path(directory), self.config
        ours = {name: tensor.detach().float().cpu() for name, tensor in (state or self.state_dict()).items()}
        tensors = to_theirs(name_map(type(self).__name__, config), ours)
        if type(self).__name__ == "DistilBertForSequenceClassification" and config.classifier_head == "linear":
            tensors = linear_head_as_transformers(tensors, config.n_layers)
        write_json(directory / "config.json", config.to_dict(type(self).__name__))
        write_atomically(
            directory / "model.safetensors",
            lambda path: safetensors.torch.save_file(tensors, path, metadata={"format": "pt"}),
        )


def encoder_rows(architecture: str, config: DistilBertConfig) -> list[Row]:
    """The part of the map that every checkpoint must fill."""
    return [row for row in name_map(architecture, config) if not row.ours.startswith("head.")]


def check_shapes(rows: list[Row], tensors: dict[str, Tensor], shapes: dict, directory: Path) -> None:
    """Raises `UserError` naming the first tensor, in both languages, that is missing, left over or of another shape."""
    for row in rows:
        shape = list(shapes[row.ours])
        if row.third is not None:
            shape[0] //= 3
        if row.theirs not in tensors:
            raise UserError(f"{directory}: tensor {row.theirs} (our {row.ours}) is missing")
        if list(tensors[row.theirs].shape) != shape:
            found = list(tensors[row.theirs].shape)
            raise UserError(f"{directory}: tensor {row.theirs} (our {row.ours}) has shape {found}, expected {shape}")
    known = {row.theirs for row in rows}
    for name in tensors:
        if name not in known and not re.match(OTHER_HEADS, name):
            raise UserError(f"{directory}: tensor {name} has no place in this model of {len(known)} tensors")


def read_checkpoint(directory: Path) -> tuple[DistilBertConfig, dict[str, Tensor]]:
    """Configuration and fp32 tensors of a directory, under DistilBERT's names with the prefix `distilbert.`."""
    tensors = as_distilbert(read_tensors(directory), directory)
    path = directory / "config.json"
    try:
        config = DistilBertConfig.from_dict(read_json(path)) if path.exists() else sizes_of(tensors, directory)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{directory}: tensor {name} holds NaN or infinite values")
    words = tensors.get("distilbert.embeddings.word_embeddings.weight")
    decoder = tensors.pop("vocab_projector.weight", words)
    if decoder is not None and words is not None and not torch.equal(decoder, words):
        raise UserError(f"{directory}: vocab_projector.weight differs from the word embeddings; this model ties the two")
    if "classifier.weight" in tensors:
        if "pre_classifier.weight" not in tensors:
            config = config.replace(classifier_head="linear")
        elif config.classifier_head == "linear":
            tensors = linear_head_from_transformers(tensors, directory)
    return config, tensors


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the shards that model.safetensors.index.json lists."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if not single.exists() and not index.exists():
        raise UserError(f"{directory}: holds no model.safetensors; expected a directory in Hugging Face's layout")
    files = [single]
    if not single.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise UserError(f"{index}: weight_map is missing or not an object of file names")
        files = [directory / Path(name).name for name in sorted(set(weight_map.values()))]  # .name: never outside
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= safetensors.torch.load_file(file)
        except FileNotFoundError:
            raise UserError(f"{file}: this shard is missing; {index.name} lists it") from None
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise UserError(f"{file}: not a readable safetensors file ({str(error)[:100]}); is it complete?") from None
    return tensors


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
        for pattern, replacement in BERT:
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


def main() -> None:
    """`python -m distilbert.checkpoint PATH`: the map of a checkpoint, tensor by tensor."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise UserError("usage: python -m distilbert.checkpoint DIRECTORY (or a short name, say minilm)")
    config, tensors = read_checkpoint(locate(sys.argv[1]))
    rows = {row.theirs: row for name in HEADS for row in name_map(name, config)}
    for name, tensor in tensors.items():
        row = rows.get(name)
        ours = "(not used)" if row is None else row.ours + ("" if row.third is None else f", third {row.third + 1}")
        print(f"{name:62}  {ours:46}  {tuple(tensor.shape)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
