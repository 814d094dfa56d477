"""The configuration: Hugging Face's names in, Hugging Face's names out, and nothing that a model cannot be built from."""

import dataclasses
import json
import math

import pytest
import transformers
from conftest import LABELS, SIZES, our_config, their_config
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbert.config import DistilBertConfig
from distilbert.errors import UserError
from distilbert.foreign import config_of_bert

RATES = {"dropout": 0.11, "attention_dropout": 0.22, "seq_classif_dropout": 0.33, "initializer_range": 0.04}
FIELDS = [field.name for field in dataclasses.fields(DistilBertConfig) if field.name not in ("classifier_head", "id2label")]


def read(**changes) -> DistilBertConfig:
    """Through a file's text, in which every key is a string."""
    return DistilBertConfig.from_dict(config_of_bert(json.loads(json.dumps(changes))))


def test_the_defaults_are_those_of_distilbert_base_uncased():
    mine, theirs = DistilBertConfig(), transformers.DistilBertConfig()
    same = [name for name in FIELDS if name != "seq_classif_dropout"]  # the linear head has 0.1
    assert {name: getattr(mine, name) for name in same} == {name: getattr(theirs, name) for name in same}
    assert (mine.classifier_head, mine.seq_classif_dropout) == ("linear", 0.1)
    assert mine.id2label == {0: "Negative", 1: "Positive"} and mine.num_labels == 2


def test_every_field_of_a_file_of_transformers_is_read():
    theirs = their_config(**RATES, pad_token_id=3)
    mine = read(**theirs.to_dict())
    assert {name: getattr(mine, name) for name in FIELDS} == {**SIZES, **RATES, "pad_token_id": 3}
    assert mine.id2label == LABELS and mine.num_labels == 5 and mine.classifier_head == "pre_classifier"


def test_every_field_we_write_is_read_by_transformers():
    mine = our_config(**RATES, pad_token_id=3)
    theirs = transformers.DistilBertConfig.from_dict(json.loads(json.dumps(mine.to_dict("DistilBertForMaskedLM"))))
    assert {name: getattr(theirs, name) for name in FIELDS} == {name: getattr(mine, name) for name in FIELDS}
    assert theirs.id2label == LABELS and theirs.label2id == {name: i for i, name in LABELS.items()}
    assert theirs.architectures == ["DistilBertForMaskedLM"] and theirs.activation == "gelu"
    assert theirs.tie_word_embeddings and not theirs.sinusoidal_pos_embds


def test_a_head_comes_with_its_dropout_unless_another_is_given():
    linear, theirs = DistilBertConfig(), DistilBertConfig(classifier_head="pre_classifier")
    assert theirs.seq_classif_dropout == transformers.DistilBertConfig().seq_classif_dropout == 0.2
    assert linear.replace(classifier_head="pre_classifier", seq_classif_dropout=None) == theirs
    assert DistilBertConfig(classifier_head="pre_classifier", seq_classif_dropout=0.3).seq_classif_dropout == 0.3


@pytest.mark.parametrize("classifier_head", ["linear", "pre_classifier"])
def test_what_is_written_is_read_back(classifier_head):
    config = our_config(**RATES, pad_token_id=3, classifier_head=classifier_head)
    assert read(**config.to_dict("DistilBertModel")) == config


@settings(database=None, derandomize=True)
@given(
    width=st.integers(1, 32),
    heads=st.integers(1, 256),
    labels=st.lists(st.text("aé 01_", max_size=5), min_size=2, max_size=12, unique=True).filter(
        lambda x: x != ["LABEL_0", "LABEL_1"]
    ),
    rate=st.floats(0, 0.99),
    head=st.sampled_from(["linear", "pre_classifier"]),
)
def test_any_allowed_configuration_survives_the_file(width, heads, labels, rate, head):
    config = DistilBertConfig(
        dim=width * heads, n_heads=heads, id2label=dict(enumerate(labels)), dropout=rate, classifier_head=head
    )
    assert read(**config.to_dict("DistilBertForSequenceClassification")) == config


def test_a_bert_file_describes_a_distilbert_under_other_names():
    theirs = transformers.BertConfig(
        vocab_size=61,
        max_position_embeddings=17,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_dropout_prob=0.11,
        attention_probs_dropout_prob=0.22,
        initializer_range=0.04,
        pad_token_id=3,
    )
    mine = read(**theirs.to_dict())
    expected = {**SIZES, **RATES, "pad_token_id": 3, "seq_classif_dropout": 0.2}
    assert {name: getattr(mine, name) for name in FIELDS} == expected


def test_keys_of_older_files_and_unknown_keys_are_ignored():
    old = {
        "tie_weights_": True,
        "torch_dtype": "float16",
        "output_past": True,
        "qa_dropout": 0.1,
        "transformers_version": "4.9",
    }
    assert read(**SIZES, **old) == read(**SIZES, model_type="distilbert")


def test_a_file_that_names_no_head_means_transformers_own():
    assert (read().classifier_head, read().seq_classif_dropout) == ("pre_classifier", 0.2)
    assert read(seq_classif_dropout=0.3).seq_classif_dropout == 0.3
    assert (read(classifier_head="linear").classifier_head, read(classifier_head="linear").seq_classif_dropout) == (
        "linear",
        0.1,
    )


# ---- labels


def test_labels_are_ordered_by_number_not_by_alphabet():
    names = {str(i): f"class {i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert list(read(id2label=names).id2label.items()) == [(i, f"class {i}") for i in range(11)]


def test_the_two_placeholders_become_our_names_and_other_names_stay():
    assert read(id2label={"0": "LABEL_0", "1": "LABEL_1"}).id2label == {0: "Negative", 1: "Positive"}
    three = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert read(id2label=three).id2label == three
    assert read(id2label={"0": "bad", "1": "good"}).id2label == {0: "bad", 1: "good"}


@pytest.mark.parametrize(
    "labels",
    [{"0": "a"}, {}, {"0": "a", "2": "b"}, {"1": "a", "2": "b"}, {"a": "b"}, "names", 5, {str(i): "x" for i in range(1001)}],
)
def test_labels_that_are_not_numbered_from_zero_are_refused(labels):
    with pytest.raises(UserError, match="id2label"):
        read(id2label=labels)


# ---- refusals


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "roberta"),
        ("activation", "relu"),
        ("hidden_act", "gelu_new"),
        ("layer_norm_eps", 1e-5),
        ("position_embedding_type", "relative_key"),
        ("classifier_head", "mlp"),
        ("classifier_head", None),
        ("classifier_head", ["linear"]),
    ],
)
def test_what_this_model_does_not_have_is_refused_by_key_and_value(key, value):
    with pytest.raises(UserError) as error:
        read(**{key: value})
    assert key in str(error.value) and repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in FIELDS
        for value in ("12", None, True, [12], math.nan, math.inf, -1, 1e9)
        if (name, value) != ("seq_classif_dropout", None)  # which means the head's own
    ],
)
def test_a_value_that_is_no_number_or_far_out_is_refused_by_its_field(name, value):
    with pytest.raises(UserError, match=f"{name} is "):
        read(**{name: value})
    with pytest.raises(UserError, match=f"{name} is "):
        DistilBertConfig().replace(**{name: value})


@pytest.mark.parametrize("name", [*SIZES, "pad_token_id"])
def test_a_size_must_be_a_whole_number(name):
    with pytest.raises(UserError, match=f"{name} is 16.0, expected a whole number"):
        DistilBertConfig(**{name: 16.0})


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("vocab_size", 1_000_000),
        ("max_position_embeddings", 32_768),
        ("dim", 8_192),
        ("hidden_dim", 65_536),
        ("n_layers", 128),
        ("n_heads", 256),
    ],
)
def test_each_size_has_a_least_and_a_most(name, most):
    assert getattr(DistilBertConfig(**{"n_heads": 1, "dim": 8_192, name: most}), name) == most
    for value in (0, most + 1):
        with pytest.raises(UserError, match=rf"{name} is {value}, expected \d+ to {most}"):
            DistilBertConfig(**{"n_heads": 1, name: value})


def test_rates_below_one_are_allowed_and_one_is_not():
    assert DistilBertConfig(dropout=0.0, attention_dropout=0, seq_classif_dropout=0.99).attention_dropout == 0
    for name in ("dropout", "attention_dropout", "seq_classif_dropout"):
        with pytest.raises(UserError, match=f"{name} is 1.0, expected 0.0 to 0.99"):
            DistilBertConfig(**{name: 1.0})


def test_the_width_must_divide_into_the_heads():
    with pytest.raises(UserError, match="dim 12 does not divide into 5 heads"):
        our_config(n_heads=5)


def test_the_padding_id_must_be_in_the_vocabulary():
    assert our_config(pad_token_id=60).pad_token_id == 60
    with pytest.raises(UserError, match="pad_token_id 61 lies outside the vocabulary of 61"):
        our_config(pad_token_id=61)


def test_a_configuration_is_frozen_and_replace_makes_a_checked_copy():
    config = our_config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 24
    assert config.replace(dim=24).dim == 24 and config.dim == 12
    with pytest.raises(UserError):
        config.replace(dim=13)


def test_two_configurations_do_not_share_their_labels():
    first, second = DistilBertConfig(), DistilBertConfig()
    first.id2label[0] = "changed"
    assert second.id2label[0] == "Negative"
