"""Checkpoints: what transformers writes we read, what we write transformers reads, and what is broken is refused by name."""

import json
import math
import sys

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from conftest import ARCHITECTURES, LABELS, SIZES, close, our_config, ragged_batch, randomise, their_config
from torch import nn

from distilbert import checkpoint, foreign
from distilbert import model as ours
from distilbert.errors import UserError
from distilbert.start import revision

MODEL, MLM, CLASSIFIER = (getattr(ours, name) for name in ARCHITECTURES)
AUTO = dict(zip(ARCHITECTURES, ("AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"), strict=True))
HEADS = [(MODEL, "linear"), (MLM, "linear"), (CLASSIFIER, "linear"), (CLASSIFIER, "pre_classifier")]
LIN1 = "distilbert.transformer.layer.1.ffn.lin1.weight"
WORDS = "distilbert.embeddings.word_embeddings.weight"


def written_by_transformers(directory, architecture="DistilBertForSequenceClassification", **changes):
    """Saves a random model of transformers -> (directory, the model in float64)."""
    theirs = randomise(getattr(transformers, architecture)(their_config(**changes)).eval())
    theirs.save_pretrained(directory)
    return directory, theirs.double()


def bert_written_by_transformers(directory, architecture, **changes):
    """The same of the BERT family. The classes are two, as in every config.json that does not name its classes."""
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=61, max_position_embeddings=17, **sizes, **changes)
    theirs = randomise(getattr(transformers, architecture)(config).eval())
    theirs.save_pretrained(directory)
    return directory, theirs.double()


def our_model(cls, classifier_head="linear", **changes):
    return randomise(cls(our_config(classifier_head=classifier_head, **changes)).eval())


def edit(directory, tensors=None, config=None):
    """Changes the files of a checkpoint in place: `tensors` and `config` get the dictionaries to work on."""
    file, settings = directory / "model.safetensors", directory / "config.json"
    if tensors is not None:
        content = safetensors.torch.load_file(file)
        tensors(content)
        safetensors.torch.save_file(content, file, metadata={"format": "pt"})
    if config is not None:
        content = json.loads(settings.read_text())
        config(content)
        settings.write_text(json.dumps(content))


def rename(*pairs):
    """For `edit`: the tensors whose names end with the first of a pair get the second instead."""

    def change(content):
        for old, new in pairs:
            for name in [name for name in content if name.endswith(old)]:
                content[name.removesuffix(old) + new] = content.pop(name)

    return change


def logits(model, *batch):
    with torch.no_grad():
        return model.double().eval()(*(batch or ragged_batch()))


def their_output(theirs, **more):
    ids, mask = ragged_batch()
    with torch.no_grad():
        return theirs(ids, attention_mask=mask, **more)[0]


def refused(directory, *words, cls=CLASSIFIER):
    """Asserts that the checkpoint is refused with a message that holds all of the words."""
    with pytest.raises(UserError) as error:
        cls.from_pretrained(directory)
    message = str(error.value)
    assert str(directory) in message
    message = message.replace(str(directory), "…")  # a test's directory bears its name, and so perhaps one of the words
    for word in words:
        assert word in message


# ---- the map, block by block


@pytest.mark.parametrize(("cls", "classifier_head"), HEADS)
def test_the_name_map_is_a_bijection_that_covers_every_parameter(cls, classifier_head):
    model = our_model(cls, classifier_head)
    rows = checkpoint.name_map(cls.__name__, model.config)
    assert len({row.theirs for row in rows}) == len({(row.ours, row.third) for row in rows}) == len(rows)
    assert {row.ours for row in rows} == dict(model.named_parameters()).keys() == model.state_dict().keys()
    back = checkpoint.to_ours(rows, checkpoint.to_theirs(rows, model.state_dict()))
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_names_of_the_map_are_the_tensors_that_transformers_writes(tmp_path, architecture):
    written_by_transformers(tmp_path, architecture)
    written = safetensors.torch.load_file(tmp_path / "model.safetensors").keys()
    rows = checkpoint.name_map(architecture, our_config(classifier_head="pre_classifier"))
    assert {row.theirs for row in rows} == written


def test_the_listing_of_a_checkpoint_names_each_tensor_in_both_languages(tmp_path, capsys, monkeypatch):
    written_by_transformers(tmp_path)
    listings = []
    for path in (tmp_path, tmp_path / "model.safetensors"):
        monkeypatch.setattr(sys, "argv", ["checkpoint", str(path)])
        checkpoint.main()
        listings.append(capsys.readouterr().out)
    assert listings[0] == listings[1]
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in listings[0].splitlines()}
    assert lines.keys() == safetensors.torch.load_file(tmp_path / "model.safetensors").keys()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["checkpoint", "model.safetensors"])
    checkpoint.main()
    assert capsys.readouterr().out == listings[0]
    assert lines[LIN1] == "encoder.blocks.1.feed_forward.expand.weight (20, 12)"
    assert lines["distilbert.transformer.layer.2.attention.v_lin.bias"] == "encoder.blocks.2.attention.qkv.bias, third 3 (12,)"
    assert lines["classifier.bias"] == "head.output.bias (5,)"


def listed(directory) -> dict[str, str]:
    """What each tensor of the file is here, by its name there, in the order of the listing."""
    config, _, called = checkpoint.read_checkpoint(directory)
    rows = {row.theirs: row for name in checkpoint.HEADS for row in checkpoint.name_map(name, config)}
    lines = foreign.listing(directory, rows, called)
    assert {name: shape for name, _, shape in lines} == {
        name: tuple(tensor.shape) for name, tensor in safetensors.torch.load_file(directory / "model.safetensors").items()
    }
    return {name: ours for name, ours, _ in lines}


def test_the_listing_of_a_bert_says_where_its_token_types_go_and_what_is_not_used(tmp_path):
    bert_written_by_transformers(tmp_path, "BertForPreTraining")
    lines = listed(tmp_path)
    assert lines["bert.embeddings.token_type_embeddings.weight"] == "its row 0 is added to the positions"
    assert lines["bert.encoder.layer.1.attention.self.key.bias"] == "encoder.blocks.1.attention.qkv.bias, third 2"
    assert lines["bert.pooler.dense.weight"] == lines["cls.seq_relationship.bias"] == "(not used)"
    assert next(iter(lines)) == "bert.embeddings.word_embeddings.weight" and list(lines.values())[-1] == "(not used)"


def test_the_listing_of_a_linear_head_of_ours_says_what_its_first_linear_is(tmp_path):
    our_model(CLASSIFIER).save_pretrained(tmp_path)
    lines = listed(tmp_path)
    assert lines["classifier.weight"] == "head.output.weight"
    assert lines["pre_classifier.bias"] == "1 and a shift: a linear head, in transformers' form"


def test_the_listing_of_a_masked_lm_knows_the_tied_decoder(tmp_path):
    written_by_transformers(tmp_path, "DistilBertForMaskedLM")
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    safetensors.torch.save_file(tensors | {"vocab_projector.weight": tensors[WORDS].clone()}, tmp_path / "model.safetensors")
    lines = listed(tmp_path)
    assert lines["vocab_projector.weight"] == "the word embeddings again" and lines["vocab_projector.bias"] == "head.bias"


def test_the_listing_does_not_take_another_tasks_head_for_ours(tmp_path):
    written_by_transformers(tmp_path, "DistilBertForTokenClassification")
    lines = listed(tmp_path)
    assert lines["classifier.weight"] == "(not used)" and lines[LIN1] == "encoder.blocks.1.feed_forward.expand.weight"


# ---- what transformers writes, we read


@pytest.mark.parametrize("cls", [MODEL, MLM, CLASSIFIER])
def test_a_checkpoint_of_transformers_loads_with_equal_outputs(tmp_path, cls):
    directory, theirs = written_by_transformers(tmp_path, cls.__name__)
    mine = cls.from_pretrained(directory)
    assert not mine.head_is_fresh
    assert {parameter.dtype for parameter in mine.parameters()} == {torch.float32}
    close(logits(mine), their_output(theirs))


@pytest.mark.parametrize("cls", [MODEL, MLM, CLASSIFIER])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_encoder_of_any_checkpoint_loads_into_any_model(tmp_path, architecture, cls):
    directory, theirs = written_by_transformers(tmp_path, architecture)
    mine = cls.from_pretrained(directory)
    encoder = getattr(theirs, "distilbert", theirs)
    close(logits(getattr(mine, "encoder", mine)), their_output(encoder))
    assert mine.head_is_fresh == (cls is not MODEL and cls.__name__ != architecture)


def test_transformers_classifier_is_read_with_its_own_head_and_dropout(tmp_path):
    config = CLASSIFIER.from_pretrained(written_by_transformers(tmp_path)[0]).config
    assert (config.classifier_head, config.seq_classif_dropout, config.id2label) == ("pre_classifier", 0.2, LABELS)


def test_half_precision_files_are_read_as_fp32(tmp_path):
    directory, theirs = written_by_transformers(tmp_path)
    edit(directory, lambda content: content.update({name: tensor.bfloat16() for name, tensor in content.items()}))
    mine = CLASSIFIER.from_pretrained(directory)
    assert {parameter.dtype for parameter in mine.parameters()} == {torch.float32}
    close(logits(mine), their_output(theirs.bfloat16().double()))


def test_older_names_and_keys_of_distilbert_are_understood(tmp_path):
    directory, theirs = written_by_transformers(tmp_path, "DistilBertForMaskedLM")

    def older(content):
        rename(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))(content)
        assert "distilbert.embeddings.LayerNorm.gamma" in content
        content["distilbert.embeddings.position_ids"] = torch.arange(17).unsqueeze(0)
        content["vocab_projector.weight"] = content[WORDS].clone()

    def v4(content):
        for key in ("tie_word_embeddings", "dtype", "transformers_version", "bos_token_id", "eos_token_id"):
            content.pop(key, None)
        content |= {"tie_weights_": True, "torch_dtype": "float32", "output_past": True, "num_labels": 5}

    edit(directory, older, v4)
    mine = MLM.from_pretrained(directory)
    assert not mine.head_is_fresh
    close(logits(mine), their_output(theirs))


def test_a_bare_encoder_with_position_ids_and_no_prefix_is_understood(tmp_path):
    directory, theirs = written_by_transformers(tmp_path, "DistilBertModel")
    edit(directory, lambda content: content.update({"embeddings.position_ids": torch.arange(17)[None]}))
    close(logits(CLASSIFIER.from_pretrained(directory).encoder), their_output(theirs))


def test_a_decoder_that_differs_from_the_word_embeddings_is_refused(tmp_path):
    directory, _ = written_by_transformers(tmp_path, "DistilBertForMaskedLM")
    edit(directory, lambda content: content.update({"vocab_projector.weight": content[WORDS] + 1}))
    refused(directory, "vocab_projector.weight", "ties", cls=MLM)


# ---- BERT


BERTS = ["BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"]


@pytest.mark.parametrize("older_names", [False, True])
@pytest.mark.parametrize("architecture", BERTS)
def test_a_bert_encoder_is_a_distilbert_encoder_for_single_segments(tmp_path, capsys, architecture, older_names):
    directory, theirs = bert_written_by_transformers(tmp_path, architecture)
    if older_names:
        edit(directory, rename(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")))
    mine = CLASSIFIER.from_pretrained(directory)
    assert mine.head_is_fresh and "untrained" in capsys.readouterr().err  # a classifier that reads BERT's pooler is no head
    assert mine.config.classifier_head == "linear"
    close(logits(mine.encoder), their_output(getattr(theirs, "bert", theirs)), 1e-5)


@pytest.mark.parametrize("older_names", [False, True])
@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "BertForPreTraining"])
def test_berts_mlm_head_is_distilberts(tmp_path, architecture, older_names):
    directory, theirs = bert_written_by_transformers(tmp_path, architecture)

    def older(content):
        rename(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))(content)
        content["cls.predictions.decoder.weight"] = content["bert.embeddings.word_embeddings.weight"].clone()
        content["cls.predictions.decoder.bias"] = content["cls.predictions.bias"].clone()
        content["bert.embeddings.position_ids"] = torch.arange(17)[None]

    edit(directory, older if older_names else None)
    mine = MLM.from_pretrained(directory)
    assert not mine.head_is_fresh
    close(logits(mine), their_output(theirs), 1e-5)


def test_a_bert_without_an_mlm_head_gets_a_fresh_one(tmp_path, capsys):
    mine = MLM.from_pretrained(bert_written_by_transformers(tmp_path, "BertModel")[0])
    assert mine.head_is_fresh and "untrained" in capsys.readouterr().err


def test_a_bert_encoder_loads_as_a_bare_encoder(tmp_path):
    directory, theirs = bert_written_by_transformers(tmp_path, "BertModel")
    close(logits(MODEL.from_pretrained(directory)), their_output(theirs), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_bert_is_folded_in_fp32(tmp_path, dtype):
    directory, theirs = bert_written_by_transformers(tmp_path, "BertForMaskedLM")
    edit(directory, lambda content: content.update({name: tensor.to(dtype) for name, tensor in content.items()}))
    close(logits(MLM.from_pretrained(directory)), their_output(theirs.to(dtype).double()), 1e-5)


def test_a_bert_whose_decoder_differs_from_the_word_embeddings_is_refused(tmp_path):
    directory, _ = bert_written_by_transformers(tmp_path, "BertForMaskedLM")
    edit(directory, lambda content: content.update({"cls.predictions.decoder.weight": torch.zeros(61, 12)}))
    refused(directory, "differs from the word embeddings", cls=MLM)


def test_another_decoder_is_no_matter_to_a_model_that_reads_none(tmp_path):
    directory, theirs = bert_written_by_transformers(tmp_path, "BertForMaskedLM")
    edit(directory, lambda content: content.update({"cls.predictions.decoder.weight": torch.zeros(64, 12)}))
    close(logits(MODEL.from_pretrained(directory)), their_output(theirs.bert), 1e-5)
    assert CLASSIFIER.from_pretrained(directory).head_is_fresh


def test_a_bert_whose_config_does_not_say_so_is_read_as_one(tmp_path):
    directory, theirs = bert_written_by_transformers(tmp_path, "BertModel")
    config = json.loads((directory / "config.json").read_text())
    del config["model_type"]
    (directory / "config.json").write_text(json.dumps(config))
    close(logits(MODEL.from_pretrained(directory)), their_output(theirs), 1e-5)


@pytest.mark.parametrize("size", ["vocab_size", "max_position_embeddings", "dim", "hidden_dim", "n_layers", "n_heads"])
def test_a_size_can_not_be_changed_by_loading(tmp_path, size):
    our_model(CLASSIFIER).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{size} is the checkpoint's own"):
        CLASSIFIER.from_pretrained(tmp_path, **{size: 2})


def test_two_tensors_that_become_one_must_be_equal(tmp_path):
    directory, _ = bert_written_by_transformers(tmp_path, "BertForMaskedLM")
    edit(directory, lambda content: content.update({"cls.predictions.decoder.bias": content["cls.predictions.bias"] + 1}))
    refused(directory, "cls.predictions", "twice", cls=MLM)


# ---- a layout seen on the hub: an encoder with the prefix, one Linear, perhaps no config.json


@pytest.mark.parametrize("with_config", [True, False])
def test_a_linear_head_without_pre_classifier_is_read_as_one(tmp_path, with_config):
    """Width 128 is two heads of 64, which is what a directory without config.json is taken to have."""
    directory, theirs = written_by_transformers(tmp_path, "DistilBertModel", dim=128)
    encoder = {"distilbert." + name: tensor.float() for name, tensor in theirs.state_dict().items()}
    torch.manual_seed(0)
    C = 5 if with_config else 2  # the classes are named in config.json, or else two
    weight, bias = torch.randn(C, 128), torch.randn(C)
    head = {"classifier.weight": weight, "classifier.bias": bias}
    safetensors.torch.save_file(encoder | head, directory / "model.safetensors")
    if not with_config:
        (directory / "config.json").unlink()
    mine = CLASSIFIER.from_pretrained(directory)
    assert mine.config.classifier_head == "linear" and mine.config.n_heads == 2 and not mine.head_is_fresh
    assert mine.config.seq_classif_dropout == 0.1
    close(logits(mine), F.linear(their_output(theirs)[:, 0], weight.double(), bias.double()))


def test_a_trained_head_of_other_classes_than_are_asked_for_is_refused_and_an_encoder_gets_a_head_of_as_many(tmp_path):
    directory, _ = written_by_transformers(tmp_path)
    with pytest.raises(UserError, match=r"its head tells 5 classes apart, not 2 \(id2label\)"):
        CLASSIFIER.from_pretrained(directory, id2label={0: "no", 1: "yes"})
    assert CLASSIFIER.from_pretrained(directory, id2label=dict(enumerate("abcde"))).config.id2label[4] == "e"
    bare, _ = written_by_transformers(tmp_path / "bare", "DistilBertModel")
    assert CLASSIFIER.from_pretrained(bare, id2label={0: "a", 1: "b", 2: "c"}).head.output.out_features == 3


@pytest.mark.parametrize("cls", [MLM, CLASSIFIER])
def test_without_a_config_the_sizes_are_read_off_the_tensors_and_the_heads_said_to_be_a_guess(tmp_path, capsys, cls):
    directory, theirs = written_by_transformers(tmp_path, cls.__name__, dim=128, id2label={0: "no", 1: "yes"})
    (directory / "config.json").unlink()
    close(logits(cls.from_pretrained(directory)), their_output(theirs))
    assert "no config.json; sizes are read off the weights, 2 heads of 64 are a guess" in capsys.readouterr().err


def test_without_a_config_transformers_head_has_transformers_dropout(tmp_path):
    directory, _ = written_by_transformers(tmp_path, dim=128, id2label={0: "no", 1: "yes"})
    (directory / "config.json").unlink()
    assert CLASSIFIER.from_pretrained(directory).config.seq_classif_dropout == 0.2


def test_a_checkpoint_with_neither_a_config_nor_the_tensor_that_tells_a_size_is_refused(tmp_path):
    directory, _ = written_by_transformers(tmp_path)
    (directory / "config.json").unlink()
    edit(directory, lambda content: content.pop(WORDS))
    refused(directory, "config.json", WORDS)


# ---- what we write, transformers reads


@pytest.mark.parametrize(("cls", "classifier_head"), HEADS)
def test_transformers_auto_classes_read_what_we_write(tmp_path, cls, classifier_head):
    mine = our_model(cls, classifier_head)
    mine.save_pretrained(tmp_path)
    auto = getattr(transformers, AUTO[cls.__name__])
    theirs, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs).__name__ == cls.__name__
    assert {kind: list(names) for kind, names in info.items() if names} == {}
    close(their_output(theirs.double().eval()), logits(mine), 1e-5 if cls is CLASSIFIER else 1e-10)


def test_transformers_learns_the_names_of_the_classes(tmp_path):
    our_model(CLASSIFIER).save_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == LABELS and config.label2id == {name: i for i, name in LABELS.items()}
    assert config.architectures == ["DistilBertForSequenceClassification"]


def test_any_saved_model_gives_transformers_an_encoder(tmp_path):
    mine = our_model(CLASSIFIER)
    mine.save_pretrained(tmp_path)
    theirs, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    close(their_output(theirs.double().eval()), logits(mine.encoder))


@pytest.mark.parametrize(("cls", "classifier_head"), [HEADS[0], HEADS[1], HEADS[3]])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, cls, classifier_head):
    mine = our_model(cls, classifier_head, dropout=0.25)
    mine.save_pretrained(tmp_path / "new" / "folder")
    back = cls.from_pretrained(tmp_path / "new" / "folder")
    assert back.config == mine.config and not back.head_is_fresh
    assert all(torch.equal(tensor, mine.state_dict()[name]) for name, tensor in back.state_dict().items())


def test_a_saved_linear_head_comes_back_as_a_linear_head(tmp_path):
    mine = our_model(CLASSIFIER)
    mine.save_pretrained(tmp_path)
    back = CLASSIFIER.from_pretrained(tmp_path)
    assert back.config == mine.config and back.config.classifier_head == "linear" and not back.head_is_fresh
    for name, tensor in mine.state_dict().items():
        close(back.state_dict()[name], tensor, 1e-5 if name == "head.output.bias" else 0)
    close(logits(back), logits(mine), 1e-5)


def test_a_linear_head_is_read_from_a_half_precision_file_too(tmp_path):
    our_model(CLASSIFIER).save_pretrained(tmp_path)
    edit(tmp_path, lambda content: content.update({name: tensor.half() for name, tensor in content.items()}))
    back = CLASSIFIER.from_pretrained(tmp_path)
    assert back.config.classifier_head == "linear" and not back.head_is_fresh


def test_files_are_fp32_whatever_the_model_is_and_of_the_state_that_is_given(tmp_path):
    mine = our_model(CLASSIFIER, "pre_classifier")
    state = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    mine.bfloat16().save_pretrained(tmp_path, state)
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    rows = checkpoint.name_map("DistilBertForSequenceClassification", mine.config)
    for name, tensor in checkpoint.to_theirs(rows, state).items():
        assert saved[name].dtype == torch.float32 and torch.equal(saved[name], tensor)
    mine.save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in safetensors.torch.load_file(tmp_path / "model.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_relu_of_a_linear_head_written_for_transformers_never_cuts(sign):
    """The most that a norm can give: all of the variance in one place, where its weight is largest."""
    torch.manual_seed(0)
    norm = nn.LayerNorm(12, eps=1e-12)
    with torch.no_grad():
        norm.weight.uniform_(0.1, 0.5)
        norm.bias.uniform_(-0.5, 0.1)
        norm.weight[7], norm.bias[7] = sign * 3.0, -1.5
    tensors = {"classifier.weight": torch.randn(5, 12), "classifier.bias": torch.randn(5)}
    tensors |= {f"distilbert.transformer.layer.2.output_layer_norm.{name}": p.detach() for name, p in norm.named_parameters()}
    head = foreign.linear_head_as_transformers(tensors, 3)
    h = norm(torch.eye(12)[7:8] * -1e3 * sign).double()
    assert h.min() < -1.5 - 3 * math.sqrt(10)
    hidden = torch.relu(F.linear(h, head["pre_classifier.weight"].double(), head["pre_classifier.bias"].double()))
    expected = F.linear(h, tensors["classifier.weight"].double(), tensors["classifier.bias"].double())
    close(F.linear(hidden, head["classifier.weight"].double(), head["classifier.bias"].double()), expected, 1e-5)


# ---- heads: whole, wholly absent, of another kind, of another task


def test_an_absent_head_is_made_fresh_announced_and_marked(tmp_path, capsys):
    directory, _ = written_by_transformers(tmp_path, "DistilBertModel")
    capsys.readouterr()
    mine = CLASSIFIER.from_pretrained(directory)
    captured = capsys.readouterr()
    assert captured.out == "" and str(directory) in captured.err and "untrained" in captured.err
    assert mine.head_is_fresh and mine.config.classifier_head == "linear"
    assert torch.equal(mine.head.output.bias, torch.zeros(5)) and mine.head.output.weight.std() > 0


def test_a_whole_head_is_neither_announced_nor_marked(tmp_path, capsys):
    directory, _ = written_by_transformers(tmp_path)
    capsys.readouterr()
    assert not CLASSIFIER.from_pretrained(directory).head_is_fresh
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("saved", "wanted", "rate"), [("linear", "pre_classifier", 0.2), ("pre_classifier", "linear", 0.1)])
def test_a_head_of_another_kind_than_asked_for_is_made_fresh(tmp_path, capsys, saved, wanted, rate):
    our_model(CLASSIFIER, saved).save_pretrained(tmp_path)
    mine = CLASSIFIER.from_pretrained(tmp_path, classifier_head=wanted)
    assert mine.head.output.weight.std() < 0.05 and torch.equal(mine.head.output.bias, torch.zeros(5))  # the file's: 0.5
    assert mine.head_is_fresh and "untrained" in capsys.readouterr().err
    assert (mine.config.classifier_head, mine.config.seq_classif_dropout) == (wanted, rate)
    again = CLASSIFIER.from_pretrained(tmp_path, classifier_head=saved)
    assert not again.head_is_fresh


def test_a_config_is_never_newer_than_its_weights(tmp_path, monkeypatch):
    """Weights take long to write: whoever is killed meanwhile leaves a model that can be read."""
    our_model(CLASSIFIER, "pre_classifier").save_pretrained(tmp_path)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        our_model(CLASSIFIER, "linear").save_pretrained(tmp_path)
    assert CLASSIFIER.from_pretrained(tmp_path).config.classifier_head == "pre_classifier"


def test_changes_override_the_files_configuration(tmp_path):
    directory, _ = written_by_transformers(tmp_path)
    mine = CLASSIFIER.from_pretrained(directory, dropout=0.4, seq_classif_dropout=0.3)
    assert mine.encoder.embeddings.dropout.p == 0.4
    assert mine.head.dropout.p == 0.3


@pytest.mark.parametrize("architecture", ["DistilBertForQuestionAnswering", "DistilBertForMaskedLM"])
def test_the_head_of_another_task_is_ignored(tmp_path, architecture):
    directory, theirs = written_by_transformers(tmp_path, architecture, id2label={0: "no", 1: "yes"})
    mine = CLASSIFIER.from_pretrained(directory)
    assert mine.head_is_fresh
    close(logits(mine.encoder), their_output(theirs.distilbert))


@pytest.mark.parametrize("architecture", ["DistilBertForTokenClassification", "DistilBertForMultipleChoice"])
def test_another_tasks_head_under_our_heads_names_is_ignored_with_its_classes(tmp_path, architecture):
    directory, _ = written_by_transformers(tmp_path, architecture, id2label={0: "other", 1: "person", 2: "place"})
    mine = CLASSIFIER.from_pretrained(directory)
    assert mine.head_is_fresh and mine.config.id2label == {0: "Negative", 1: "Positive"}


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("model_class", [MODEL, MLM, CLASSIFIER])
def test_the_classes_of_a_berts_dropped_classifier_are_dropped_with_it(tmp_path, classes, model_class):
    """Of one class: a BERT that scores pairs of sentences."""
    bert_written_by_transformers(tmp_path, "BertForSequenceClassification", num_labels=classes)
    mine = model_class.from_pretrained(tmp_path)
    assert mine.config.id2label == {0: "Negative", 1: "Positive"} and mine.head_is_fresh == (model_class is not MODEL)


HALVES = [
    (MLM, "pre_classifier", ("vocab_projector.bias",)),
    (MLM, "pre_classifier", ("vocab_transform.weight", "vocab_transform.bias")),
    (CLASSIFIER, "pre_classifier", ("classifier.weight",)),
    (CLASSIFIER, "pre_classifier", ("classifier.bias",)),
    (CLASSIFIER, "pre_classifier", ("classifier.weight", "classifier.bias")),
    (CLASSIFIER, "pre_classifier", ("pre_classifier.bias",)),
    (CLASSIFIER, "linear", ("classifier.weight",)),
    (CLASSIFIER, "linear", ("pre_classifier.bias",)),
    (CLASSIFIER, "pre_classifier", ("pre_classifier.weight",)),
    (CLASSIFIER, "linear", ("classifier.weight", "classifier.bias")),
]


@pytest.mark.parametrize(("cls", "classifier_head", "absent"), HALVES, ids=lambda x: x[0] if isinstance(x, tuple) else None)
def test_half_a_head_is_refused(tmp_path, cls, classifier_head, absent):
    our_model(cls, classifier_head).save_pretrained(tmp_path)
    edit(tmp_path, lambda content: [content.pop(name) for name in absent])
    refused(tmp_path, "half a head", f"no {min(absent)} (our head.", cls=cls)


@pytest.mark.parametrize("classifier_head", ["linear", "pre_classifier"])
def test_a_model_of_ours_that_lost_one_of_its_two_layers_is_not_taken_for_a_head_that_never_had_it(tmp_path, classifier_head):
    """A linear head is saved as two layers, the second with another bias."""
    our_model(CLASSIFIER, classifier_head).save_pretrained(tmp_path)
    edit(tmp_path, lambda content: [content.pop(f"pre_classifier.{kind}") for kind in ("weight", "bias")])
    refused(tmp_path, "half a head: has classifier.weight, but no pre_classifier.weight", cls=CLASSIFIER)


@pytest.mark.parametrize(
    ("cls", "other", "name"), [(MLM, CLASSIFIER, "vocab_transform.scale"), (CLASSIFIER, MLM, "classifier.norm.weight")]
)
def test_a_head_with_more_to_it_than_ours_is_refused_and_ignored_by_the_other_task(tmp_path, cls, other, name):
    """Without the tensor that it was trained with, it would compute something else."""
    our_model(cls).save_pretrained(tmp_path)
    edit(tmp_path, lambda content: content.update({name: torch.ones(3)}))
    refused(tmp_path, name, "has no place in this model", cls=cls)
    assert other.from_pretrained(tmp_path).head_is_fresh


def test_a_trained_pre_classifier_is_not_taken_for_a_linear_head(tmp_path):
    directory, _ = written_by_transformers(tmp_path)
    edit(
        directory, put("pre_classifier.bias", torch.full((12,), 16.0)), lambda content: content.update(classifier_head="linear")
    )
    refused(directory, "linear", "pre_classifier.weight")


def test_a_linear_heads_shift_must_be_the_same_number_everywhere(tmp_path):
    our_model(CLASSIFIER).save_pretrained(tmp_path)
    edit(tmp_path, lambda content: content["pre_classifier.bias"].add_(torch.arange(12)))
    refused(tmp_path, "pre_classifier.bias")


# ---- what is broken is refused by name


def put(name, tensor):
    return lambda content: content.update({name: tensor})


@pytest.mark.parametrize("cls", [MLM, CLASSIFIER])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop(LIN1), [LIN1, "encoder.blocks.1.feed_forward.expand.weight", "missing"]),
        (lambda content: content.pop(WORDS), [WORDS, "encoder.embeddings.words.weight", "missing"]),
        (put(LIN1, torch.zeros(12, 20)), [LIN1, "encoder.blocks.1.feed_forward.expand.weight", "[12, 20]", "[20, 12]"]),
        (
            put("distilbert.transformer.layer.2.attention.k_lin.bias", torch.zeros(13)),
            ["distilbert.transformer.layer.2.attention.k_lin.bias", "encoder.blocks.2.attention.qkv.bias", "[13]", "[12]"],
        ),
        (put("distilbert.transformer.layer.1.ffn.lin3.weight", torch.zeros(2)), ["layer.1.ffn.lin3.weight", "no place"]),
        (put("something", torch.zeros(2)), ["something", "no place"]),
        (put(LIN1, torch.zeros(20, 12, dtype=torch.int64)), [LIN1, "int64"]),
        (put(LIN1, torch.zeros(20, 12, dtype=torch.bool)), [LIN1, "bool"]),
        (lambda content: content[LIN1][3, 4].fill_(math.nan), [LIN1, "NaN"]),
        (lambda content: content[LIN1][3, 4].fill_(-math.inf), [LIN1, "infinite"]),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(tmp_path, cls, change, words):
    directory, _ = written_by_transformers(tmp_path, cls.__name__)
    edit(directory, change)
    refused(directory, *words, cls=cls)


@pytest.mark.parametrize("name", ["pre_classifier.bias", "classifier.weight", "classifier.bias"])
def test_a_misshapen_head_is_refused_by_name(tmp_path, name):
    directory, _ = written_by_transformers(tmp_path)
    edit(directory, put(name, torch.zeros(3, 7)))
    refused(directory, name, "[3, 7]")


@pytest.mark.parametrize("value", [torch.zeros(20, 12, dtype=torch.int64), torch.full((20, 12), math.nan)])
def test_a_wrong_dtype_or_value_is_named_in_both_languages(tmp_path, value):
    directory, _ = written_by_transformers(tmp_path)
    edit(directory, put(LIN1, value))
    refused(directory, LIN1, "encoder.blocks.1.feed_forward.expand.weight")


@pytest.mark.parametrize("change", [dict.pop, lambda content, name: content[name].fill_(math.nan)], ids=["missing", "NaN"])
def test_a_tensor_of_a_bert_file_is_named_as_the_file_calls_it(tmp_path, change):
    name = "encoder.layer.1.attention.self.key.weight"
    directory, _ = bert_written_by_transformers(tmp_path, "BertModel")
    edit(directory, lambda content: change(content, name))
    refused(directory, name)


def test_half_a_head_of_a_bert_file_is_named_as_the_file_calls_it(tmp_path):
    directory, _ = bert_written_by_transformers(tmp_path, "BertForMaskedLM")
    edit(directory, lambda content: content.pop("cls.predictions.transform.dense.weight"))
    refused(directory, "half a head", "cls.predictions.transform.dense.weight", cls=MLM)


def test_an_eight_bit_tensor_is_refused_by_name(tmp_path):
    directory, _ = written_by_transformers(tmp_path)
    edit(directory, put(LIN1, torch.zeros(20, 12).to(torch.float8_e4m3fn)))
    refused(directory, LIN1, "encoder.blocks.1.feed_forward.expand.weight", "float8")


def test_whole_numbers_as_positions_of_a_bert_file_are_refused(tmp_path):
    directory, _ = bert_written_by_transformers(tmp_path, "BertModel")
    edit(directory, put("embeddings.position_embeddings.weight", torch.ones(17, 12, dtype=torch.int64)))
    refused(directory, "embeddings.position_embeddings.weight", "int64")


@pytest.mark.parametrize(
    ("name", "shape"), [("classifier.weight", [12]), ("classifier.bias", [3]), ("pre_classifier.bias", [])], ids=str
)
def test_a_misshapen_linear_head_is_refused(tmp_path, name, shape):
    our_model(CLASSIFIER).save_pretrained(tmp_path)
    edit(tmp_path, put(name, torch.zeros(shape)))
    refused(tmp_path, name)


@pytest.mark.parametrize("name", [WORDS, LIN1.replace(".1.", ".0."), "distilbert.embeddings.position_embeddings.weight"])
def test_without_a_config_a_misshapen_tensor_is_refused(tmp_path, name):
    directory, _ = written_by_transformers(tmp_path)
    (directory / "config.json").unlink()
    edit(directory, put(name, torch.tensor(1.0)))
    refused(directory, name)


@pytest.mark.parametrize(
    "shape",
    [
        [12],
        [2, 13],
        [0, 12],
    ],
    ids=str,
)
def test_misshapen_token_types_are_refused(tmp_path, shape):
    directory, _ = bert_written_by_transformers(tmp_path, "BertModel")
    edit(directory, put("embeddings.token_type_embeddings.weight", torch.zeros(shape)))
    refused(directory, "token_type_embeddings")


@pytest.mark.parametrize(("n_layers", "words"), [(2, ["layer.2.", "no place"]), (4, ["layer.3.", "blocks.3.", "missing"])])
def test_another_number_of_blocks_than_config_says_is_refused(tmp_path, n_layers, words):
    directory, _ = written_by_transformers(tmp_path)
    edit(directory, config=lambda content: content.update(n_layers=n_layers))
    refused(directory, *words)


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 1_000_000, "dim": 8192, "n_heads": 8},
        {"hidden_dim": 65_536, "n_layers": 128},
        {"max_position_embeddings": 32_768},
        {"vocab_size": 1_000_000},
    ],
    ids=str,
)
def test_sizes_far_beyond_the_file_are_refused_before_memory_is_taken(tmp_path, monkeypatch, sizes):
    directory, _ = written_by_transformers(tmp_path)
    edit(directory, config=lambda content: content.update(sizes))

    def on_meta_only(tensor, *arguments, **options):
        assert tensor.is_meta, f"filled {list(tensor.shape)} in memory"
        return tensor

    monkeypatch.setattr(nn.init, "normal_", on_meta_only)
    refused(directory, "distilbert.", "our encoder.", "expected [")


@pytest.mark.parametrize("change", [{"n_heads": 5}, {"n_heads": 0}, {"vocab_size": 10**9}, {"dim": None}], ids=str)
def test_an_impossible_configuration_is_refused_with_the_name_of_its_file(tmp_path, change):
    directory, _ = written_by_transformers(tmp_path)
    edit(directory, config=lambda content: content.update(change))
    refused(directory, "config.json", *change)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b""], ids=str)
def test_a_config_that_is_no_json_object_is_refused(tmp_path, content):
    directory, _ = written_by_transformers(tmp_path)
    (directory / "config.json").write_bytes(content)
    refused(directory, "config.json")


@pytest.mark.parametrize("left", [0, 5, 400, -1], ids="{} bytes".format)
def test_a_truncated_file_is_refused(tmp_path, left):
    directory, _ = written_by_transformers(tmp_path)
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    refused(directory, "model.safetensors", "complete?")


def test_a_header_that_claims_more_than_the_file_is_refused(tmp_path):
    directory, _ = written_by_transformers(tmp_path)
    file = directory / "model.safetensors"
    file.write_bytes((2**62).to_bytes(8, "little") + file.read_bytes()[8:])
    refused(directory, "model.safetensors")


def test_a_directory_without_weights_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle, which nobody opens")
    refused(tmp_path, "holds no model.safetensors")


# ---- shards


def sharded(directory):
    """A classifier of transformers in several files, model-00001-of-… and an index."""
    theirs = randomise(transformers.DistilBertForSequenceClassification(their_config()).eval())
    theirs.save_pretrained(directory, max_shard_size="6KB")
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 2 and not (directory / "model.safetensors").exists()
    return theirs.double(), shards


def test_a_sharded_checkpoint_is_read_whole(tmp_path):
    theirs, _ = sharded(tmp_path)
    close(logits(CLASSIFIER.from_pretrained(tmp_path)), their_output(theirs))
    assert revision(str(tmp_path)) == "sharded"  # what a run's record says that it started from


def test_a_missing_shard_is_refused_by_name(tmp_path):
    _, shards = sharded(tmp_path)
    shards[1].unlink()
    refused(tmp_path, shards[1].name, "missing")


def test_a_truncated_shard_is_refused_by_name(tmp_path):
    _, shards = sharded(tmp_path)
    shards[1].write_bytes(shards[1].read_bytes()[:-3])
    refused(tmp_path, shards[1].name, "complete?")


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 5}}', '{"weight_map": {}}'])
def test_an_index_without_a_list_of_files_is_refused(tmp_path, index):
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    refused(tmp_path)


@pytest.mark.parametrize("name", ["..", "", "../outside.safetensors", "/etc/hostname", "a\0b"])
def test_an_index_that_points_elsewhere_is_refused(tmp_path, name):
    directory, _ = written_by_transformers(tmp_path / "checkpoint")
    (directory / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {WORDS: name}}))
    refused(directory)


def test_sizes_in_this_file_differ_from_each_other():
    numbers = [*SIZES.values(), len(LABELS), *ragged_batch()[0].shape, SIZES["dim"] // SIZES["n_heads"]]
    assert len(set(numbers)) == len(numbers)
