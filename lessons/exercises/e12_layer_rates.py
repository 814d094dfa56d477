"""Lesson 12, exercise 1: a rate for every parameter."""

from distilbert.config import DistilBertConfig
from distilbert.model import DistilBertForSequenceClassification
from distilbert.optim import parameter_groups


def rates(names: list[str], peak: float, layer_decay: float, head: float) -> dict[str, float]:
    """The rate of each parameter, from its name in our models ("encoder.blocks.1.attention.qkv.weight", "head.output.bias").

    The last block (the highest number among `names`) has the peak rate, each block below it layer_decay times that of the one
    above, the embeddings layer_decay times that of block 0; all that is not the encoder's has the head's.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e12_layer_rates.py


def test_four_parts():
    names = ["encoder.embeddings.words.weight", "encoder.blocks.0.attention.qkv.bias"]
    names += ["encoder.blocks.1.feed_forward.expand.weight", "head.output.weight"]
    expected = [0.25e-4, 0.5e-4, 1e-4, 1e-3]
    found = rates(names, peak=1e-4, layer_decay=0.5, head=1e-3)
    assert found.keys() == set(names)
    assert all(abs(found[name] - rate) < 1e-12 for name, rate in zip(names, expected, strict=True))


def test_it_agrees_with_the_project_on_every_parameter():
    sizes = {"vocab_size": 9, "dim": 4, "hidden_dim": 4, "n_layers": 12, "n_heads": 1}  # 12: block 10 is no block 1
    model = DistilBertForSequenceClassification(DistilBertConfig(**sizes))
    groups = parameter_groups(model, 1e-4, 0.01, head_learning_rate=3e-4, layer_decay=0.9)
    expected = {p: group["lr"] for group in groups for p in group["params"]}
    found = rates([name for name, _ in model.named_parameters()], 1e-4, 0.9, 3e-4)
    for name, parameter in model.named_parameters():
        assert abs(found[name] - expected[parameter]) < 1e-15, name
