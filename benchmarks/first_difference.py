"""Our model and transformers' side by side: which layer is the first to differ?

    python benchmarks/first_difference.py runs/cls

Each side reads the checkpoint by itself; both compute the same ids in float64, and hooks compare what each layer gives. The
layers are paired by the name map that loads checkpoints. Ends with status 1 where a layer differs by more than 1e-10.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformers
from torch import Tensor, nn

from distilbert import foreign
from distilbert.checkpoint import name_map
from distilbert.cli import flag, parse, user_errors
from distilbert.errors import UserError
from distilbert.explain import hooked
from distilbert.hub import locate
from distilbert.trace import load_with_its_head

TOLERANCE = 1e-10
THEIRS = {
    "DistilBertModel": transformers.AutoModel,
    "DistilBertForMaskedLM": transformers.AutoModelForMaskedLM,
    "DistilBertForSequenceClassification": transformers.AutoModelForSequenceClassification,
}


@dataclass(frozen=True)
class Arguments:
    """Names the first layer in which our model differs from transformers', of the same checkpoint."""

    model: str = flag("minilm", "directory, hub id, minilm or distilbert-base-uncased", positional=True)


@dataclass(frozen=True)
class Layer:
    """A layer under both names; its outputs differ by at most `difference`, and their largest value is `size`."""

    ours: str
    theirs: str
    difference: float
    size: float


def load_both(path: str) -> tuple[nn.Module, nn.Module]:
    """Our model and transformers', in float64 and eval mode, each read from the files at `path`.

    Two sums that a reader of ours rounds to fp32 are rounded on their side too, by formulas of its own: BERT's token types
    in the positions, and the bias of a linear head without the shift that it has in the file.
    """
    directory = locate(path)
    if not (directory / "config.json").exists():
        raise UserError(f"{directory}: has no config.json, without which transformers does not know the sizes")
    ours = load_with_its_head(path)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # it reports each tensor that its class has no use for
    theirs = THEIRS[type(ours).__name__].from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        embeddings = theirs.base_model.embeddings
        if hasattr(embeddings, "token_type_embeddings"):
            embeddings.position_embeddings.weight += embeddings.token_type_embeddings.weight[0]
            embeddings.token_type_embeddings.weight.zero_()
        theirs.double()
        if hasattr(theirs, "pre_classifier") and ours.config.classifier_head == "linear":
            shift = theirs.pre_classifier.bias[0] * theirs.classifier.weight.sum(dim=1)
            theirs.classifier.bias.copy_((theirs.classifier.bias + shift).float().double() - shift)
    return ours.double().eval(), theirs.eval()


def compare(ours: nn.Module, theirs: nn.Module) -> list[Layer]:
    """The layers in the order in which our model computes them, on random ids of two sequences, one of them padded."""
    T = min(24, ours.config.max_position_embeddings)
    input_ids = torch.randint(0, ours.config.vocab_size, (2, T), generator=torch.Generator().manual_seed(0))
    attention_mask = (torch.arange(T) < torch.tensor([[T], [T // 2 + 1]])).long()
    found, expected = {}, {}
    with hooked(*record(ours, found), *record(theirs, expected)), torch.inference_mode():
        encoder = ours if type(ours).__name__ == "DistilBertModel" else ours.encoder
        hidden = encoder(input_ids, attention_mask)  # every row: what the head does not read is compared too
        if type(ours).__name__ == "DistilBertForMaskedLM":
            ours.head(hidden, encoder.embeddings.words.weight)
        elif encoder is not ours:
            ours.head(hidden[:, 0])
        theirs(input_ids, attention_mask=attention_mask)
        own = ours(input_ids, attention_mask)  # and the whole, with its short cuts
    pairs = paired_names(ours, theirs)
    layers = [layer for name in found for layer in compared(name, pairs.get(name, []), found, expected)]
    return [*layers, *compared("the whole", [("the whole", None)], {"the whole": own}, {"the whole": expected[""]})]


def paired_names(ours: nn.Module, theirs: nn.Module) -> dict[str, list[tuple[str, int | None]]]:
    """Our module -> transformers' modules of the same parameters, each with the third of our output that it stands for."""
    _, called = foreign.as_distilbert(dict(theirs.named_parameters()), Path("transformers"))
    pairs: dict[str, list[tuple[str, int | None]]] = {}
    for row in name_map(type(ours).__name__, ours.config):
        name = called[row.theirs if row.theirs in called else "distilbert." + row.theirs]
        pair = (name.rpartition(".")[0], row.third)
        if pair not in pairs.setdefault(row.ours.rpartition(".")[0], []):
            pairs[row.ours.rpartition(".")[0]].append(pair)
    return pairs


def compared(name: str, pairs: list[tuple[str, int | None]], found: dict[str, Tensor], expected: dict) -> list[Layer]:
    """Our output `name` against each of its pairs; outputs of different shapes differ infinitely."""
    layers = []
    for their_name, third in pairs:
        output = found[name] if third is None else found[name].chunk(3, dim=-1)[third]
        wanted = expected[their_name]
        difference = (output - wanted).abs().max().item() if output.shape == wanted.shape else float("inf")
        label = name if third is None else f"{name}, third {third + 1}"
        layers.append(Layer(label, their_name, difference, wanted.abs().max().item()))
    return layers


def first_difference(layers: list[Layer]) -> Layer | None:
    return next((layer for layer in layers if not layer.difference <= TOLERANCE), None)  # NaN is a difference


def record(model: nn.Module, outputs: dict[str, Tensor]) -> list:
    """Hooks that keep the first output of each module, in the order in which they end."""

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple, output) -> None:
            first = output if isinstance(output, Tensor) else output[0]
            outputs.setdefault(name, first)

        return hook

    return [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]


def main(argv: list[str] | None = None) -> None:
    """`python benchmarks/first_difference.py PATH`: the table, and the first layer to differ."""
    args = parse(Arguments, argv)
    layers = compare(*load_both(args.model))
    print(f"{'ours':42} {'transformers':54} difference  largest value")
    for layer in layers:
        print(f"{layer.ours:42} {layer.theirs:54} {layer.difference:10.1e}  {layer.size:13.3g}")
    first = first_difference(layers)
    if first is None:
        return print(f"\nno layer differs by more than {TOLERANCE:.0e}")
    print(f"\nthe first to differ: {first.ours} (transformers: {first.theirs}), by {first.difference:.1e}")
    sys.exit(1)


if __name__ == "__main__":
    with user_errors():
        main()
