"""Checkpoints that are not quite ours: shards, older names, BERT, no config.json, a linear head for transformers."""

import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .config import DistilBertConfig
from .errors import UserError
from .files import read_json

BERT = [  # part of BERT's name, part of DistilBERT's
    (".attention.self.query.", ".attention.q_lin."),
    (".attention.self.key.", ".attention.k_lin."),
    (".attention.self.value.", ".attention.v_lin."),
    (".attention.output.dense.", ".attention.out_lin."),
    (".attention.output.LayerNorm.", ".sa_layer_norm."),
    (".intermediate.dense.", ".ffn.lin1."),
    (".output.dense.", ".ffn.lin2."),
    (".output.LayerNorm.", ".output_layer_norm."),
    ("encoder.layer.", "transformer.layer."),
    ("cls.predictions.transform.dense.", "vocab_transform."),
    ("cls.predictions.transform.LayerNorm.", "vocab_layer_norm."),
    ("cls.predictions.decoder.", "vocab_projector."),
    ("cls.predictions.bias", "vocab_projector.bias"),
]
BERT_CONFIG = {  # a BERT config.json describes a DistilBERT under other names
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
OLDER = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")]
HEADS = ("vocab_", "pre_classifier.", "classifier.")
OTHER_HEADS = r"(pooler\.|cls\.|qa_outputs\.|.*\.position_ids$)"
OTHER_TASKS = ("TokenClassification", "MultipleChoice", "QuestionAnswering")
WORDS = "distilbert.embeddings.word_embeddings.weight"
DECODER = "vocab_projector.weight"
POSITIONS = "distilbert.embeddings.position_embeddings.weight"
TOKEN_TYPES = "distilbert.embeddings.token_type_embeddings.weight"


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the shards that model.safetensors.index.json lists."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if not single.exists() and not index.exists():
        pickle = "; its pytorch_model.bin could run code: load it in transformers, and save_pretrained writes safetensors"
        said = pickle if (directory / "pytorch_model.bin").exists() else "; expected a directory in Hugging Face's layout"
        raise UserError(f"{directory}: holds no model.safetensors{said}")
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


def as_distilbert(tensors: dict[str, Tensor], directory: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under today's DistilBERT names -> (these, what the file calls each). BERT's token types are folded.

    A single text has token type 0 at every position, so its row is added to each row of the *position* embeddings, and
    the sum is what it was. (Not to the word embeddings: they are the decoder of the MLM head too.)
    """
    bert = is_bert(tensors)
    renamed: dict[str, Tensor] = {}
    called: dict[str, str] = {}
    for name, tensor in tensors.items():
        new = name.removeprefix("bert.")
        for theirs, ours in OLDER + (BERT if bert else []):
            new = new.replace(theirs, ours)
        if re.match(OTHER_HEADS, new) or (bert and new.startswith(("classifier.", "pre_classifier."))):
            continue  # BERT's classifier reads its pooler, which DistilBERT has not
        if not new.startswith((*HEADS, "distilbert.")) and new.startswith(("embeddings.", "transformer.")):
            new = "distilbert." + new
        if new in renamed and not equal(renamed[new], tensor):
            raise UserError(f"{directory}: tensor {name} stands there twice, with different values")
        renamed[new], called[new] = tensor, name
    types, positions = renamed.pop(TOKEN_TYPES, None), renamed.get(POSITIONS)
    if types is not None and positions is not None and positions.is_floating_point():
        if types.ndim != 2 or len(types) == 0 or types.shape[1:] != positions.shape[1:] or not types.is_floating_point():
            raise UserError(f"{directory}: token_type_embeddings has shape {list(types.shape)}, unlike the positions'")
        renamed[POSITIONS] = positions.float() + types[0].float()  # a sum of halves, rounded to half, would be another
    return renamed, called


def equal(one: Tensor, other: Tensor) -> bool:
    """Of any number formats: torch.equal alone has an error for some."""
    return one is other or (one.shape == other.shape and torch.equal(one.float(), other.float()))


def config_of_bert(raw: dict) -> dict:
    """The content of a BERT's config.json as a DistilBERT's; any other comes back as it is. Its classes' names go, as their
    classifier does.
    """
    if raw.get("model_type", "bert" if "hidden_size" in raw else None) != "bert":  # the oldest files do not say
        return raw
    return {BERT_CONFIG.get(key, key): value for key, value in raw.items() if key != "id2label"} | {"model_type": "distilbert"}


def is_bert(names: Iterable[str]) -> bool:
    return any(".attention.self." in name for name in names)


def file_name(name: str, called: dict[str, str]) -> str:
    """What a file calls, or would call, the tensor that is `name` today."""
    if name in called:
        return called[name]
    if not any(old.startswith("distilbert.") for old in called.values()):
        name = name.removeprefix("distilbert.")
    if is_bert(called.values()):
        for theirs, ours in BERT:
            name = name.replace(ours, theirs)
        name = "bert." + name if any(old.startswith("bert.") for old in called.values()) else name
    return name


def check_tensors(rows: Iterable, tensors: dict[str, Tensor], shapes: dict, called: dict[str, str], directory: Path) -> None:
    """Raises `UserError` for the first tensor, named in both languages, that is missing, left over or not what it should be.

    `rows`: the name map; `shapes`: by our names; `called`: what the file calls its tensors.
    """
    for row in rows:
        shape = list(shapes[row.ours])
        if row.third is not None:
            shape[0] //= 3
        name = f"{directory}: tensor {file_name(row.theirs, called)} (our {row.ours})"
        if row.theirs not in tensors:
            raise UserError(f"{name} is missing")
        tensor = tensors[row.theirs]
        if list(tensor.shape) != shape:
            raise UserError(f"{name} has shape {list(tensor.shape)}, expected {shape}")
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise UserError(f"{name} has dtype {str(tensor.dtype)[6:]}, expected a floating-point one of 16 to 64 bits")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{name} holds NaN or infinite values")
    known = {row.theirs for row in rows}
    if "vocab_projector.bias" in known and not equal(tensors.get(DECODER, tensors[WORDS]), tensors[WORDS]):
        raise UserError(f"{directory}: vocab_projector.weight differs from the word embeddings; this model ties the two")
    of_others = tuple(head for head in HEADS if not any(name.startswith(head) for name in known))  # tasks than ours
    for name in tensors:
        if name not in known and not name.startswith(of_others) and name != DECODER:
            raise UserError(f"{directory}: tensor {file_name(name, called)} has no place in this model")


def listing(directory: Path, rows: dict, called: dict[str, str]) -> list[tuple[str, str, tuple[int, ...]]]:
    """Each tensor of a checkpoint: the file's name, what it is here, its shape. In the order of `rows`, the unused ones last.

    `rows`: the name map by today's names; `called`: what the file calls these.
    """
    order, today = list(rows), {old: name for name, old in called.items()}
    lines = []
    for old, tensor in read_tensors(directory).items():
        name, ours = today.get(old, ""), "(not used)"
        if name in rows:
            ours = rows[name].ours + ("" if rows[name].third is None else f", third {rows[name].third + 1}")
        elif name == TOKEN_TYPES:
            name, ours = POSITIONS, "its row 0 is added to the positions"
        elif name == DECODER:
            ours = "the word embeddings again"
        elif name.startswith("pre_classifier.") and "classifier.weight" in called:
            ours = "1 and a shift: a linear head, in transformers' form"
        place = order.index(name) if name in rows else len(order)
        lines.append((place, old, ours, tuple(tensor.shape)))
    return [line[1:] for line in sorted(lines)]


def sizes_of(tensors: dict[str, Tensor], directory: Path) -> DistilBertConfig:
    """A configuration for a directory without config.json, read off the tensors; heads are taken as 64 wide."""
    needed = (WORDS, POSITIONS, "distilbert.transformer.layer.0.ffn.lin1.weight")
    try:
        words, positions, expand = (tensors[name] for name in needed)
    except KeyError as error:
        raise UserError(f"no such file, and without tensor {error} the sizes can't be read off the weights") from None
    for name, tensor in zip(needed, (words, positions, expand), strict=True):
        if tensor.ndim != 2:
            raise UserError(f"no such file, and tensor {name} has shape {list(tensor.shape)}, expected two dimensions")
    n_heads = max(words.shape[1] // 64, 1)
    print(f"{directory}: no config.json; sizes are read off the weights, {n_heads} heads of 64 are a guess", file=sys.stderr)
    layers = {int(match[1]) for name in tensors if (match := re.match(r"distilbert\.transformer\.layer\.(\d+)\.", name))}
    return DistilBertConfig(
        vocab_size=words.shape[0],
        max_position_embeddings=positions.shape[0],
        dim=words.shape[1],
        hidden_dim=expand.shape[0],
        n_layers=len(layers),
        n_heads=n_heads,
        classifier_head="pre_classifier",
    )


def linear_head_as_transformers(tensors: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """Our one Linear as transformers' Linear, ReLU, Linear, with the same logits: in fp32, and to judge by, not to train on.

    h is the output of a norm, so |h| ≤ √D·max|γ| + max|β| ≤ C. Then relu(I·h + C) = h + C: the ReLU does nothing, and
    the second Linear takes W·C off its bias again. (Half precision would round h at the size of C, dropout drop C with it.)
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
    weight, bias = tensors["classifier.weight"], tensors["classifier.bias"]
    identity, shift = tensors["pre_classifier.weight"], tensors["pre_classifier.bias"]
    if not torch.equal(identity, torch.eye(len(identity))) or not (shift == shift[0]).all():
        raise UserError(
            f'{directory}: config.json says classifier_head "linear", but pre_classifier.weight is no identity or '
            'pre_classifier.bias not one number; for a head trained by transformers it should say "pre_classifier"'
        )
    whole = {name: tensor for name, tensor in tensors.items() if not name.startswith("pre_classifier.")}
    return whole | {"classifier.bias": (bias.double() + shift[0].double() * weight.double().sum(dim=1)).float()}
