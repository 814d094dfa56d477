"""Checkpoints in Hugging Face's layout: the name map, and strict reading and writing with it.

A file is read in three steps: `foreign.read_tensors` (bytes to named tensors), `foreign.as_distilbert` (older names and BERT's
become today's DistilBERT names), `to_ours`. Writing goes through the same map backwards.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from . import foreign
from .cli import printable, user_errors
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
    "DistilBertForSequenceClassification": [("pre_classifier.*", "head.pre_classifier.*"), ("classifier.*", "head.output.*")],
}


@dataclass(frozen=True)
class Row:
    """One line of the map: `theirs` is tensor `ours`, or one third of its rows: number 0, 1 or 2."""

    theirs: str
    ours: str
    third: int | None = None


def name_map(architecture: str, config: DistilBertConfig) -> list[Row]:
    """The map between Hugging Face's names and ours for one of the three models."""
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
    return {r.theirs: (ours[r.ours] if r.third is None else ours[r.ours].chunk(3)[r.third]).contiguous() for r in rows}


class Pretrained:
    """Gives a model `from_pretrained` and `save_pretrained`; the class name says which architecture it is."""

    head_is_fresh = False  # True after loading a checkpoint without a head: such a model needs training first

    @classmethod
    def from_pretrained(cls, model: str | Path, classifier_head: str | None = None, **changes):
        """From a directory, a short name or a hub id. `changes`: configuration fields to override (dropout, …), not sizes.

        If the checkpoint has no head, or one of another kind than `classifier_head`, a fresh one is made, and a line says so.
        Raises `UserError` for whatever is missing, left over, misshapen, not finite or not readable, and for a size to change.
        """
        architecture, directory = cls.__name__, locate(str(model))
        config, tensors, called = read_checkpoint(directory)
        if sizes := changes.keys() & {"vocab_size", "max_position_embeddings", "dim", "hidden_dim", "n_layers", "n_heads"}:
            raise UserError(f"{directory}: {min(sizes)} is the checkpoint's own, and loading can't change it")
        if architecture == "DistilBertModel":
            tensors, called = ({k.removeprefix("distilbert."): v for k, v in x.items()} for x in (tensors, called))
        stored = config  # the head as it is in the file: our linear head is saved in transformers' form
        if architecture == "DistilBertForSequenceClassification" and "pre_classifier" in {n.split(".")[0] for n in tensors}:
            stored = config.replace(classifier_head="pre_classifier")
        rows = name_map(architecture, stored)
        head = {row.theirs: row.ours for row in rows if row.ours.startswith("head.")}
        found = head.keys() & tensors.keys()
        if absent := found and head.keys() - found:
            lost = f"{foreign.file_name(min(absent), called)} (our {head[min(absent)]})"
            raise UserError(f"{directory}: half a head: has {called[min(found)]}, but no {lost}")
        rows = [row for row in rows if found or row.theirs not in head]  # the encoder is always needed
        with torch.device("meta"):  # shapes only: what does not fit is refused before memory is taken for it
            shapes = {name: p.shape for name, p in cls(stored).named_parameters()}
        foreign.check_tensors(rows, tensors, shapes, called, directory)
        tensors = {row.theirs: tensors[row.theirs].float() for row in rows}
        if found and stored != config:
            tensors = foreign.linear_head_from_transformers(tensors, directory)
        if architecture == "DistilBertForSequenceClassification":
            wanted = classifier_head or (config.classifier_head if found else "linear")
            if not found or wanted != config.classifier_head:
                found, config = set(), config.replace(classifier_head=wanted, seq_classif_dropout=None)
                tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(foreign.HEADS)}
            if found and (n := len(changes.get("id2label", config.id2label))) != config.num_labels:
                raise UserError(f"{directory}: its head tells {config.num_labels} classes apart, not {n} (id2label)")
        network = cls(config.replace(**changes))
        network.load_state_dict(to_ours(name_map(architecture, config), tensors), strict=False)  # `check_tensors` was strict
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
            tensors = foreign.linear_head_as_transformers(tensors, config.n_layers)
        write = partial(safetensors.torch.save_file, tensors, metadata={"format": "pt"})
        write_atomically(directory / "model.safetensors", write)  # first, as it takes long: no old weights beside a new config
        write_json(directory / "config.json", config.to_dict(type(self).__name__))


def read_checkpoint(directory: Path) -> tuple[DistilBertConfig, dict[str, Tensor], dict[str, str]]:
    """Configuration, tensors under DistilBERT's names with the prefix `distilbert.`, and what the file calls each."""
    tensors, called = foreign.as_distilbert(foreign.read_tensors(directory), directory)
    path = directory / "config.json"
    try:
        raw = foreign.config_of_bert(read_json(path)) if path.exists() else {}
        config = DistilBertConfig.from_dict(raw) if path.exists() else foreign.sizes_of(tensors, directory)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if any(task in str(raw.get("architectures")) for task in foreign.OTHER_TASKS):  # whose tensors have our heads' names
        theirs = [name for name in tensors if name.startswith(("classifier.", "pre_classifier."))]
        tensors, called = ({name: x for name, x in named.items() if name not in theirs} for named in (tensors, called))
        config = config.replace(id2label=DistilBertConfig().id2label)
    if not any(name.startswith("pre_classifier.") for name in tensors) and "classifier.weight" in tensors:
        if "classifier_head" in raw:  # we write both layers, of a linear head, too
            raise UserError(f"{directory}: half a head: has {called['classifier.weight']}, but no pre_classifier.weight")
        config = config.replace(classifier_head="linear", seq_classif_dropout=None)
    return config, tensors, called


def main() -> None:
    """`python -m distilbert.checkpoint PATH`: the map of a checkpoint, tensor by tensor."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise UserError("usage: python -m distilbert.checkpoint DIRECTORY (or model.safetensors in it, or a name, say minilm)")
    directory = locate(sys.argv[1].removesuffix("model.safetensors") or ".")
    config, _, called = read_checkpoint(directory)
    rows = {row.theirs: row for name in HEADS for row in name_map(name, config)}
    for file_name, ours, shape in foreign.listing(directory, rows, called):
        print(printable(f"{file_name:62}  {ours:51}  {shape}"))


if __name__ == "__main__":
    with user_errors():
        main()
