"""Each published recipe, for two steps, from files laid out as those of distilbert-base-uncased on the hub."""

import json
from pathlib import Path

import pytest
import transformers
from conftest import imdb_members, write_tar
from safetensors.torch import load_file, save_file

import evaluate
import train_cls
import train_mlm

SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
WORDS = ["this", "is", "review", "train", "test", "pos", "neg", "unsup", "/", "_", ".", *"0123456789"]


@pytest.fixture
def published(tmp_path, monkeypatch) -> Path:
    """Fresh weights, a sixth as wide: 105 tensors, the decoder not among them; ids, keys and six blocks of the original."""
    monkeypatch.setattr("distilbert.run.draw_curves", lambda *_: False)
    directory = tmp_path / "distilbert-base-uncased"
    directory.mkdir()
    sizes = {"dim": 128, "n_heads": 2, "hidden_dim": 512, "n_layers": 6, "max_position_embeddings": 512, "vocab_size": 200}
    theirs = transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**sizes))
    tensors = {name: tensor.clone() for name, tensor in theirs.state_dict().items() if name != "vocab_projector.weight"}
    assert len(tensors) == 105
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {"activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dropout": 0.1}
    config |= {"initializer_range": 0.02, "model_type": "distilbert", "pad_token_id": 0, "qa_dropout": 0.1}
    config |= {"seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True}
    (directory / "config.json").write_text(json.dumps(config | {"transformers_version": "4.10.0.dev0"} | sizes))
    pieces = [SPECIAL.get(i, f"[unused{i}]") for i in range(200)]
    pieces[110 : 110 + len(WORDS)] = WORDS
    (directory / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return directory


def test_both_published_systems_start_from_the_hubs_files_and_end_in_runs(published, tmp_path, capsys):
    data = ["--data", str(write_tar(tmp_path / "aclImdb.tar.gz", imdb_members(per_class=40, unlabelled=200)))]
    short = ["--max_steps", "2", "--logging_steps", "1"]
    adapted, first, second = (tmp_path / name for name in ("mlm", "dapt-imdb", "imdb-384"))

    train_mlm.main(["--preset", "dapt-imdb", "--model", str(published), *data, *short, "--output_dir", str(adapted)])
    assert "untrained" not in capsys.readouterr().err  # the masked LM's head came along
    train_cls.main(["--preset", "dapt-imdb", "--model", str(adapted), *data, *short, "--output_dir", str(first)])
    train_cls.main(["--preset", "imdb-384", "--model", str(published), *data, *short, "--output_dir", str(second)])
    assert capsys.readouterr().err.count("untrained") == 2  # the classifiers' heads did not

    recipe = json.loads((adapted / "run.json").read_text())["arguments"]
    assert train_mlm.PRESETS["dapt-imdb"].items() <= recipe.items()

    before = load_file(published / "model.safetensors")
    query = "distilbert.transformer.layer.5.attention.q_lin.weight"
    for run in (adapted, first, second):
        record = json.loads((run / "run.json").read_text())
        assert record["best_step"] in (1, 2) and record["metrics"]["test"]["n"] > 0
        change = (load_file(run / "model.safetensors")[query] - before[query]).abs().max()
        assert 0 < change < 1e-3  # two steps away from the weights of the file
        assert transformers.AutoConfig.from_pretrained(run).dim == 128
    evaluate.main(["--model", str(first), "--part", "validation"])
    assert json.loads((first / "eval-aclImdb-validation.json").read_text())["n"] == 16
