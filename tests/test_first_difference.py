"""benchmarks/first_difference.py finds nothing where nothing is wrong, and names the layer where something is."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import ARCHITECTURES, SIZES, our_config, randomise, their_config

import distilbert.model as ours
from benchmarks import first_difference as tool
from distilbert.errors import UserError

BERTS = ("BertModel", "BertForMaskedLM", "BertForPreTraining")
KINDS = (*ARCHITECTURES, *BERTS, "linear")


def checkpoint(directory, kind: str) -> str:
    """A tiny checkpoint of this kind, every parameter random: transformers' own, or our classifier with a linear head."""
    if kind == "linear":
        model = ours.DistilBertForSequenceClassification(our_config())
    elif kind in BERTS:
        sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2}
        config = transformers.BertConfig(vocab_size=61, max_position_embeddings=17, **sizes)
        model = getattr(transformers, kind)(config)
    else:
        model = getattr(transformers, kind)(their_config())
    randomise(model).save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("kind", KINDS)
def test_of_one_checkpoint_both_compute_the_same_in_every_layer(tmp_path, kind, capsys):
    tool.main([checkpoint(tmp_path, kind)])
    table = capsys.readouterr().out
    assert "no layer differs by more than 1e-10" in table
    layers = tool.compare(*tool.load_both(str(tmp_path)))
    heads = {"DistilBertModel": 0, "BertModel": 0, "DistilBertForSequenceClassification": 2, "linear": 1}
    assert len(layers) == 2 + 8 * SIZES["n_layers"] + heads.get(kind, 3) + 1  # embeddings, blocks, head, the whole
    assert max(layer.difference for layer in layers) < 1e-12
    assert all(layer.ours in table and layer.theirs in table for layer in layers)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "DistilBertForSequenceClassification", "linear"])
def test_whatever_parameter_is_changed_its_layer_is_named(tmp_path, kind):
    mine, theirs = tool.load_both(checkpoint(tmp_path, kind))
    for name, parameter in mine.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            if "embeddings" in name and parameter.ndim == 2:
                parameter[:, 0] += 1e-5  # of every word or position, because no id may ask for the last
            else:
                parameter[-1:] += 1e-5  # of q, k and v, the last
        module = name.rpartition(".")[0]
        expected = "encoder.embeddings.norm" if module.endswith("positions") else module
        found = tool.first_difference(tool.compare(mine, theirs))
        assert found.ours == expected + (", third 3" if module.endswith("qkv") else ""), name
        with torch.no_grad():
            parameter.copy_(before)
    assert tool.first_difference(tool.compare(mine, theirs)) is None


def test_a_wrong_formula_is_named_at_the_first_layer_after_it(tmp_path, monkeypatch):
    mine, theirs = tool.load_both(checkpoint(tmp_path, "DistilBertModel"))
    right = F.gelu  # transformers took hold of it when it was imported, so that only ours is broken
    monkeypatch.setattr(ours.F, "gelu", lambda x: right(x, approximate="tanh") if x.shape[-1] == 20 else right(x))
    layers = tool.compare(mine, theirs)
    monkeypatch.undo()
    assert tool.first_difference(layers).ours == "blocks.0.feed_forward.contract"
    monkeypatch.setattr(ours, "FAR_BELOW", 0.0)
    assert tool.first_difference(tool.compare(mine, theirs)).ours == "blocks.0.attention.output"


def test_a_short_cut_that_goes_wrong_is_named_as_the_whole(tmp_path, monkeypatch):
    mine, theirs = tool.load_both(checkpoint(tmp_path, "linear"))
    monkeypatch.setattr(ours, "take_rows", lambda x, rows: x[:, 1:2])
    assert tool.first_difference(tool.compare(mine, theirs)).ours == "the whole"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_layer_that_gives_no_number_differs(tmp_path, value):
    mine, theirs = tool.load_both(checkpoint(tmp_path, "DistilBertModel"))
    with torch.no_grad():
        mine.blocks[1].feed_forward.expand.bias[3] = value
    assert tool.first_difference(tool.compare(mine, theirs)).ours == "blocks.1.feed_forward.expand"


def test_a_difference_is_printed_and_ends_with_status_1(tmp_path, monkeypatch, capsys):
    mine, theirs = tool.load_both(checkpoint(tmp_path, "DistilBertModel"))
    with torch.no_grad():
        theirs.transformer.layer[2].sa_layer_norm.bias[0] += 0.5
    monkeypatch.setattr(tool, "load_both", lambda path: (mine, theirs))
    with pytest.raises(SystemExit) as ended:
        tool.main([str(tmp_path)])
    assert ended.value.code == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "the first to differ: blocks.2.attention_norm (transformers: transformer.layer.2.sa_layer_norm), by 5.0e-01"


def test_a_checkpoint_without_sizes_is_refused_in_words(tmp_path):
    checkpoint(tmp_path, "DistilBertModel")
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        tool.main([str(tmp_path)])
