"""train_cls.py from flags to run directory: what is learnt, what repeats, what a resumed run owes to an uninterrupted one."""

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import TINY, imdb_members, train_and_record, write_tar
from safetensors.torch import load_file

import train_cls
import train_mlm
from data.batches import epoch_batches
from data.sources import Part, load
from distilbert import DistilBertForSequenceClassification, Tokenizer, infer_reviews
from distilbert.errors import UserError
from distilbert.logits import predict_logits
from distilbert.metrics import classification_metrics
from distilbert.optim import clip_grad_norm_
from distilbert.precision import Precision, has_compiler
from distilbert.predict import verdicts
from distilbert.resume import MAY_DIFFER
from distilbert.run import Run
from distilbert.start import load_weights

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["--train_size", "24", "--batch_size", "8", "--num_train_epochs", "2", "--logging_steps", "2"]  # 3 steps an epoch


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """curves.svg takes longer than these runs; test_run.py draws it."""
    monkeypatch.setattr("distilbert.run.draw_curves", lambda *_: False)


@pytest.fixture
def train(corpus, tmp_path):
    """A short run in a directory under tmp_path, with more flags behind the usual ones -> the directory."""

    def run(name: str, *flags) -> Path:
        train_cls.main([*TINY, *SHORT, "--data", str(corpus), "--output_dir", str(tmp_path / name), *map(str, flags)])
        return tmp_path / name

    return run


def record(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


def log(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def arguments(directory: Path) -> dict:
    return json.loads((directory / "checkpoint" / "arguments.json").read_text())


def saved(directory: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(directory / "checkpoint" / f"step-{step}" / "tensors.safetensors")


def progress(directory: Path, step: int) -> dict:
    return json.loads((directory / "checkpoint" / f"step-{step}" / "state.json").read_text())["progress"]


def outcome(directory: Path) -> tuple:
    """Everything of a run that its flags determine: weights, log, metrics."""
    lines = [{key: value for key, value in line.items() if key != "seconds"} for line in log(directory)]
    names = ("metrics", "best_step", "data", "revision")
    return (directory / "model.safetensors").read_bytes(), lines, {name: record(directory)[name] for name in names}


def say_epoch_one_is_best(monkeypatch):
    """Later validations score less, so that the end of a run needs weights that training has left behind."""
    original = Run.log_evaluation
    monkeypatch.setattr(Run, "log_evaluation", lambda self, metrics, score: original(self, metrics, -self.progress.step))


# ---- what is learnt


def test_the_toy_task_is_learnt(finished):
    metrics = record(finished.directory)["metrics"]
    assert metrics["test"]["n"] == 16 and metrics["test"]["accuracy"] > 0.9 and metrics["test"]["roc_auc"] > 0.9
    losses = [line["loss"] for line in log(finished.directory) if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("head", ["linear", "pre_classifier"])
def test_transformers_loads_the_run_and_computes_the_same_logits(finished, corpus, tmp_path, head):
    if head == "linear":
        directory, logits = finished.directory, finished.test_logits
    else:
        directory = tmp_path / "run"
        flags = [*finished.flags, "--output_dir", str(directory), "--classifier_head", head, "--num_train_epochs", "1"]
        logits = train_and_record([*flags, "--model", str(finished.directory)])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    texts = load(str(corpus))["test"].texts
    batch = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}  # DistilBERT has no token types
    with torch.inference_mode():
        theirs = model(**batch).logits.numpy()
    assert logits[:, 0].std() > 0.1
    np.testing.assert_allclose(theirs, logits, rtol=0, atol=1e-5)
    ours = DistilBertForSequenceClassification.from_pretrained(directory)
    assert ours.config.classifier_head == head  # transformers' form of a linear head is read back as linear
    sequences = [np.array(ids) for ids in Tokenizer.from_pretrained(directory).encode_batch(texts, 48)]
    np.testing.assert_allclose(predict_logits(ours, sequences, 0), logits, rtol=0, atol=1e-5)


def test_the_pipeline_of_transformers_gives_the_verdicts_of_infer_reviews(finished, corpus):
    texts = load(str(corpus))["test"].texts
    model = DistilBertForSequenceClassification.from_pretrained(finished.directory)
    ours = infer_reviews(texts, model, Tokenizer.from_pretrained(finished.directory))
    theirs = transformers.pipeline("text-classification", model=str(finished.directory))(texts)
    assert {label for _, label, _ in ours} == {"Negative", "Positive"}
    assert [verdict["label"] for verdict in theirs] == [label for _, label, _ in ours]
    assert [verdict["score"] for verdict in theirs] == pytest.approx([confidence for *_, confidence in ours], abs=1e-5)


def test_the_rate_of_each_step_rises_over_the_warmup_and_falls_to_the_end(train):
    flags = ("--max_steps", 5, "--warmup_ratio", 0.4, "--logging_steps", 1, "--learning_rate", 6e-3)
    rates = [line["learning_rate"] for line in log(train("run", *flags)) if "learning_rate" in line]
    assert rates == pytest.approx([0, 3e-3, 6e-3, 4e-3, 2e-3], rel=1e-12)


RECIPE = [
    "--learning_rate 1e-3", "--head_learning_rate 1e-3", "--layer_decay 0.5", "--weight_decay 0.5", "--decay_all",
    "--max_grad_norm 0.01", "--warmup_ratio 0.5", "--lr_scheduler_type constant_with_warmup", "--min_lr_ratio 0.9",
    "--dropout 0.3", "--batching random", "--max_length 9", "--truncation tail --max_length 9", "--batch_size 6",
    "--truncation head --max_length 9", "--gradient_accumulation_steps 2", "--classifier_head pre_classifier",
    "--precision bf16", "--num_train_epochs 3", "--max_steps 5", "--train_size 16", "--seed 1",
]  # fmt: skip


NO_RECIPE = (
    "model data split keep_duplicates keep_breaks eval_size preset output_dir overwrite resume device compile eval_batch_size "
)
NO_RECIPE += "logging_steps eval_steps save_steps save_minutes"


@pytest.mark.parametrize(("head", "rate"), [("linear", 0.1), ("pre_classifier", 0.2)])
def test_each_head_has_its_own_dropout_from_scratch_too(train, head, rate):
    directory = train("run", "--model", "scratch-tiny", "--max_steps", 1, "--classifier_head", head)
    assert json.loads((directory / "config.json").read_text())["seq_classif_dropout"] == rate


def test_every_flag_of_the_recipe_changes_what_is_learnt(train):
    named = {word[2:] for flags in RECIPE for word in flags.split() if word.startswith("--")}
    assert named == {item.name for item in fields(train_cls.Arguments)} - set(NO_RECIPE.split())
    learnt = {}
    for flags in ["", *RECIPE]:
        directory = train(str(len(learnt)), "--num_train_epochs", 1, *flags.split())
        learnt[flags] = (directory / "model.safetensors").read_bytes()
    for flags, weights in learnt.items():
        assert [other for other in learnt if learnt[other] == weights] == [flags]


def test_breaks_reach_the_vocabulary_only_when_they_are_kept(corpus, tmp_path, train):
    (tmp_path / "breaks.jsonl").write_text(corpus.read_text().replace(" film", "<br />film"))
    for keep in (False, True):
        run = train(str(keep), "--data", tmp_path / "breaks.jsonl", "--max_steps", 1, *["--keep_breaks"] * keep)
        assert ("br" in Tokenizer.from_pretrained(run).backend.get_vocab()) == keep


def test_no_flag_of_the_reports_changes_what_is_learnt(train):
    expected = (train("plain") / "model.safetensors").read_bytes()
    flags = "--logging_steps 1 --save_steps 1 --save_minutes 0 --eval_batch_size 5 --overwrite".split()  # noqa: SIM905
    assert (train("chatty", *flags) / "model.safetensors").read_bytes() == expected


def test_accumulated_batches_give_every_parameter_the_gradient_of_the_whole(train):
    flags = ["--train_size", 20, "--max_steps", 1, "--dropout", 0, "--batching", "random", "--warmup_ratio", 0]
    whole = train("whole", *flags, "--batch_size", 20)
    split = train("split", *flags, "--batch_size", 8, "--gradient_accumulation_steps", 3)  # 8, 8 and 4
    means = {name: tensor for name, tensor in saved(whole, 1).items() if name.startswith("exp_avg/")}  # a tenth of the gradient
    assert len(means) == 30 and all(tensor.abs().max() > 0 for tensor in means.values())
    for name, tensor in means.items():
        torch.testing.assert_close(saved(split, 1)[name], tensor, rtol=0, atol=1e-5 * tensor.abs().max().item())
    assert log(split)[0]["loss"] == pytest.approx(log(whole)[0]["loss"], abs=1e-6)
    assert log(split)[0]["grad_norm"] == pytest.approx(log(whole)[0]["grad_norm"], rel=1e-5)
    assert log(split)[0]["tokens"] == log(whole)[0]["tokens"]


def test_each_epoch_and_each_seed_has_an_order_of_its_own(train, monkeypatch):
    seen = []
    monkeypatch.setattr(train_cls, "epoch_batches", lambda *args: seen.append(args[1:]) or epoch_batches(*args))
    train("run", "--seed", 4, "--batching", "random")
    assert seen == [(8, 4, 0, "random"), (8, 4, 1, "random")]


def test_an_epoch_takes_what_the_division_leaves_over_and_the_warmup_too(train):
    """24 texts are three batches of 10, and these are two steps; a quarter of four steps and a little is two."""
    flags = ["--batch_size", 10, "--gradient_accumulation_steps", 2, "--logging_steps", 1]
    directory = train("run", *flags, "--warmup_ratio", 0.26, "--learning_rate", 1e-3)
    assert record(directory)["steps"] == 4 and record(directory)["epochs"] == 2
    rates = [line["learning_rate"] for line in log(directory) if "loss" in line]
    assert rates == pytest.approx([0, 5e-4, 1e-3, 5e-4])


def test_bf16_does_not_round_the_weights_that_it_starts_from(finished, train):
    """The warmup's first step has rate zero: what was read is what is saved."""
    before = load_file(finished.directory / "model.safetensors")
    after = load_file(
        train("run", "--model", finished.directory, "--precision", "bf16", "--max_steps", 1) / "model.safetensors"
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in before.values())


# ---- the best epoch


def test_the_best_epoch_is_what_remains(train, monkeypatch):
    accuracies = iter([0.5, 0.9, 0.7, 0.1])  # three validations, then the test
    monkeypatch.setattr(
        train_cls, "classification_metrics", lambda *args: classification_metrics(*args) | {"accuracy": next(accuracies)}
    )
    directory = train("run", "--num_train_epochs", 3)
    kept = load_file(directory / "model.safetensors")["distilbert.embeddings.word_embeddings.weight"]
    name = "model/encoder.embeddings.words.weight"
    assert torch.equal(kept, saved(directory, 6)[name]) and not torch.equal(kept, saved(directory, 9)[name])
    assert record(directory)["best_step"] == 6
    assert record(directory)["metrics"]["validation"]["accuracy"] == 0.9
    assert record(directory)["metrics"]["test"]["accuracy"] == 0.1


def test_the_test_part_is_measured_with_the_best_epoch(train, monkeypatch):
    accuracies, calls = iter([0.9, 0.1, 0.5]), []  # two validations, then the test
    monkeypatch.setattr(
        train_cls, "classification_metrics", lambda *args: classification_metrics(*args) | {"accuracy": next(accuracies)}
    )
    monkeypatch.setattr(train_cls, "predict_logits", lambda *args: calls.append((args, predict_logits(*args))) or calls[-1][1])
    directory = train("run", "--num_train_epochs", 2)
    (_, *rest), logits = calls[-1]
    kept = predict_logits(DistilBertForSequenceClassification.from_pretrained(directory), *rest)
    assert record(directory)["best_step"] == 3
    assert kept == pytest.approx(logits, abs=1e-4)


def test_of_equally_good_epochs_the_first_remains(train, monkeypatch):
    monkeypatch.setattr(train_cls, "classification_metrics", lambda *args: classification_metrics(*args) | {"accuracy": 0.5})
    assert record(train("run"))["best_step"] == 3


def test_an_epoch_whose_score_is_nan_never_wins(train, monkeypatch):
    accuracies = iter([math.nan, 0.2, math.nan, 0.5])
    monkeypatch.setattr(
        train_cls, "classification_metrics", lambda *args: classification_metrics(*args) | {"accuracy": next(accuracies)}
    )
    directory = train("run", "--num_train_epochs", 3)
    assert record(directory)["best_step"] == 6
    assert [line["eval_accuracy"] for line in log(directory) if "eval_n" in line] == [None, 0.2, None]


def test_an_epoch_of_nan_logits_never_wins(train, monkeypatch):
    values = iter([math.nan, 0.0, 0.0])  # validation after epochs 1 and 2, then the test: the finite ones say Positive
    monkeypatch.setattr(train_cls, "predict_logits", lambda _, texts, *__: np.tile([0.0, next(values) + 1], (len(texts), 1)))
    assert record(train("run"))["best_step"] == 6


def test_a_run_that_diverged_is_an_error_that_keeps_the_checkpoint_before(train, monkeypatch, tmp_path):
    factors = iter([1.0, 1.0, 1.0, math.nan, 1.0, 1.0])

    def poison(parameters, _):
        factor = next(factors)
        return torch.stack([p.grad.mul_(factor).sum() for p in parameters]).sum()

    monkeypatch.setattr(train_cls, "clip_grad_norm_", poison)
    with pytest.raises(UserError, match=r"norm nan in step 4, on the training sequences number .* --learning_rate"):
        train("run")
    assert [path.name for path in (tmp_path / "run" / "checkpoint").glob("*step*")] == ["step-3"]
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_run_without_one_finite_validation_is_an_error_in_words(train, monkeypatch):
    monkeypatch.setattr(train_cls, "predict_logits", lambda _, texts, *__: np.full((len(texts), 2), math.nan))
    with pytest.raises(UserError, match="no validation gave a finite loss"):
        train("run")


# ---- the same again


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(train):
    first, again, other = train("first"), train("again"), train("other", "--seed", 1)
    assert outcome(first) == outcome(again)
    assert outcome(first)[0] != outcome(other)[0]


class Killed(Exception):
    """Stands for a power cut: nothing of the program runs after it."""


def train_and_die(train, monkeypatch, saves: int, *flags) -> None:
    """A run that ends where it would write checkpoint number `saves` + 1, with all that it logged before."""
    original, left = Run.save, iter(range(saves))

    def save(*args):
        if next(left, None) is None:
            raise Killed
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", save)
        with pytest.raises(Killed):
            train("cut", *flags)


def test_the_record_is_the_last_file_of_a_run(train, tmp_path, monkeypatch):
    def crash(*_):
        raise Killed

    monkeypatch.setattr("distilbert.run.model_card", crash)
    with pytest.raises(Killed):
        train("run")
    assert (tmp_path / "run" / "model.safetensors").exists() and not (tmp_path / "run" / "run.json").exists()


def scale_high(monkeypatch, scale: float, growth_interval: int = 2000) -> None:
    """In fp16, the first steps overflow; the scale grows again after `growth_interval` steps that do not."""
    options = {"init_scale": scale, "backoff_factor": 2.0**-12, "growth_interval": growth_interval}
    monkeypatch.setattr(
        Precision, "scaler", lambda self: torch.amp.GradScaler(self.device, enabled=self.kind == "fp16", **options)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("saves", "last", "save_steps"), [(2, 6, 100), (3, 4, 2)], ids=["epoch's end", "within an epoch"])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    train, tmp_path, monkeypatch, capsys, precision, saves, last, save_steps
):
    scale_high(monkeypatch, 2.0**36, growth_interval=2)
    say_epoch_one_is_best(monkeypatch)
    flags = ["--precision", precision, "--save_steps", save_steps, "--num_train_epochs", 3, "--logging_steps", 5]
    whole = train("whole", *flags)
    assert (0 < progress(whole, 9)["skipped"] < 5) == (precision == "fp16")
    train_and_die(train, monkeypatch, saves, *flags)
    assert log(tmp_path / "cut")[-1]["step"] > last  # lines that the resumed run has to write again
    capsys.readouterr()
    cut = train("cut", *flags, "--resume")
    assert f"resuming after step {last}\n" in capsys.readouterr().out
    assert outcome(cut) == outcome(whole)
    assert record(cut)["best_step"] == 3


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler, so --compile stays untested")
def test_a_compiled_run_is_resumed_bit_for_bit_and_learns_what_the_plain_one_does(train, monkeypatch, capsys):
    flags = ["--compile", "--precision", "fp32", "--save_steps", 2]
    whole = train("whole", *flags)
    assert "compiling: the first step takes" in capsys.readouterr().out
    plain = train("plain", *flags[1:])
    assert "compiling" not in capsys.readouterr().out
    train_and_die(train, monkeypatch, 2, *flags)
    assert outcome(train("cut", *flags, "--resume")) == outcome(whole)
    with pytest.raises(UserError, match="the run has --compile True, not False"):
        train("cut", "--overwrite", "--resume", "--save_steps", 2, "--precision", "fp32")
    compiled, other = (load_file(directory / "model.safetensors") for directory in (whole, plain))
    assert any(not torch.equal(compiled[name], other[name]) for name in compiled)  # rounded in another order
    for name, tensor in compiled.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-4, msg=name)


def test_a_run_resumed_twice_is_still_the_uninterrupted_one(train, monkeypatch):
    whole = train("whole", "--save_steps", 1)
    train_and_die(train, monkeypatch, 1, "--save_steps", 1)
    train_and_die(train, monkeypatch, 3, "--save_steps", 1, "--resume")
    assert outcome(train("cut", "--save_steps", 1, "--resume")) == outcome(whole)


@pytest.mark.parametrize("part", ["tensors.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(train, tmp_path, monkeypatch, capsys, part):
    whole = train("whole", "--save_steps", 1)
    train_and_die(train, monkeypatch, 4, "--save_steps", 1)
    path = tmp_path / "cut" / "checkpoint" / "step-4" / part
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.write_bytes(content)
    capsys.readouterr()
    cut = train("cut", "--save_steps", 1, "--resume")
    said = capsys.readouterr().out
    assert "passed over" in said and "step-4" in said and "resuming after step 3" in said
    assert outcome(cut) == outcome(whole)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_checkpoint_that_the_system_does_not_let_us_read_is_not_passed_over(train, tmp_path, monkeypatch, name):
    train_and_die(train, monkeypatch, 4, "--save_steps", 1)
    saved = tmp_path / "cut" / "checkpoint"
    (saved / "step-4" / name).rename(tmp_path / "away")
    (saved / "step-4" / name).mkdir()  # a disk's error or a missing right ends in the same exception
    with pytest.raises(UserError, match=r"step-4: can't be read .*move it away"):
        train("cut", "--save_steps", 1, "--resume")
    assert {path.name for path in saved.glob("step-*")} == {"step-3", "step-4"}


def test_resume_without_a_whole_checkpoint_starts_fresh_and_says_so(train, tmp_path, monkeypatch, capsys):
    fresh = train("fresh", "--resume")
    assert f"no checkpoint in {fresh}: starting fresh" in capsys.readouterr().out
    train_and_die(train, monkeypatch, 1)
    (tmp_path / "cut" / "checkpoint" / "step-3" / "tensors.safetensors").write_bytes(b"")
    cut = train("cut", "--resume")
    said = capsys.readouterr().out
    assert "passed over" in said and "starting fresh" in said
    assert outcome(cut) == outcome(fresh) == outcome(train("plain"))


def test_resume_on_a_finished_run_says_so_and_changes_nothing(finished, capsys):
    before = {path: path.read_bytes() for path in finished.directory.rglob("*") if path.is_file()}
    train_cls.main([*finished.flags, "--resume"])
    assert "finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in finished.directory.rglob("*") if path.is_file()} == before


def test_more_epochs_may_be_asked_of_a_finished_run_and_its_record_says_when(train, capsys):
    directory = train("run")
    train("run", "--resume")
    assert record(directory)["lengthened_at"] == [] and "longer than" not in capsys.readouterr().out
    train("run", "--num_train_epochs", 3, "--resume")
    assert (
        record(directory)["lengthened_at"] == [6] and "9 steps (lengthened at step 6)" in (directory / "README.md").read_text()
    )
    assert "longer than planned: from here on the learning rate is that of a run of the new length" in capsys.readouterr().out
    assert log(directory)[-1]["step"] == 9 and record(directory)["arguments"]["num_train_epochs"] == 3
    with pytest.raises(UserError, match="--num_train_epochs 2 is less than the run's 3"):
        train("run", "--resume")


def test_a_finished_run_that_is_asked_for_more_is_not_finished_until_it_has_it(train, tmp_path, monkeypatch):
    run = train("cut")
    measured = ("eval-toy.json", "eval-toy.svg", "calibration.json", "calibration-sst2.json")
    for name in measured:
        (run / name).write_text("{}")  # of the weights of two epochs
    train_and_die(train, monkeypatch, 0, "--num_train_epochs", 3, "--resume")
    assert not any((run / name).exists() for name in ("run.json", *measured))
    train_and_die(train, monkeypatch, 0, "--num_train_epochs", 3, "--resume")
    train("cut", "--num_train_epochs", 3, "--resume")
    assert record(run)["epochs"] == 3 and record(run)["lengthened_at"] == [6], "once, however often it died before it was saved"


def test_a_run_of_the_other_script_is_not_gone_on_with(corpus, tmp_path, train):
    train_mlm.main([*TINY, "--data", str(corpus), "--max_steps", "1", "--output_dir", str(tmp_path / "run")])
    with pytest.raises(UserError, match="the run has --corpus, which is no flag of this script"):
        train("run", "--resume")


def test_a_run_that_is_older_than_a_flag_has_its_default(train, monkeypatch, tmp_path):
    train_and_die(train, monkeypatch, 1)
    stored = tmp_path / "cut" / "checkpoint" / "arguments.json"
    stored.write_text(json.dumps({name: value for name, value in arguments(tmp_path / "cut").items() if name != "truncation"}))
    with pytest.raises(UserError, match="the run has --truncation head-tail, not tail"):
        train("cut", "--resume", "--truncation", "tail")
    assert record(train("cut", "--resume"))["epochs"] == 2


def test_a_run_of_a_gpu_is_not_gone_on_with_where_there_is_none(train, monkeypatch, tmp_path):
    train_and_die(train, monkeypatch, 1)
    stored = tmp_path / "cut" / "checkpoint" / "arguments.json"
    stored.write_text(json.dumps(arguments(tmp_path / "cut") | {"device": "cuda"}))
    with pytest.raises(UserError, match="the run is of a machine with --device cuda; go on there, or start anew"):
        train("cut", "--resume", "--device", "auto")


def test_a_finished_run_of_another_recipe_is_not_this_one(train):
    train("run")
    with pytest.raises(UserError, match="the run has --learning_rate"):
        train("run", "--resume", "--learning_rate", "1e-4")


def test_a_finished_run_without_its_checkpoints_is_still_of_one_recipe(finished, tmp_path, capsys):
    run = shutil.copytree(finished.directory, tmp_path / finished.directory.name)
    shutil.rmtree(run / "checkpoint")
    flags = [*finished.flags, "--output_dir", str(run), "--resume"]
    train_cls.main(flags)
    assert "holds a finished run" in capsys.readouterr().out
    with pytest.raises(UserError, match="the run has --seed"):
        train_cls.main([*flags, "--seed", "77"])
    with pytest.raises(UserError, match="the run has --classifier_head, which is no flag of this script"):
        train_mlm.main(["--output_dir", str(run), "--resume"])


@pytest.mark.parametrize("length", [["--max_steps", "5"], ["--num_train_epochs", "1"]])
def test_resume_without_the_runs_length_keeps_it(finished, tmp_path, monkeypatch, length):
    """The default is 5 epochs of 8 steps."""
    flags = [*finished.flags, "--output_dir", str(tmp_path / "cut")]
    where = flags.index("--num_train_epochs")
    del flags[where : where + 2]
    train_and_die(lambda _, *more: train_cls.main([*flags, *more]), monkeypatch, 2, *length, "--save_steps", "1")
    train_cls.main([*flags, "--resume"])
    steps = record(tmp_path / "cut")["steps"]
    assert steps == (5 if "--max_steps" in length else 8)
    before = (tmp_path / "cut" / "run.json").stat().st_mtime_ns
    train_cls.main([*flags, "--resume"])  # finished: nothing is left to do
    assert (tmp_path / "cut" / "run.json").stat().st_mtime_ns == before


def test_a_run_of_its_default_length_may_only_grow(finished, tmp_path):
    """Which is 5 epochs of 8 steps."""
    flags = [*finished.flags, "--output_dir", str(tmp_path / "run")]
    where = flags.index("--num_train_epochs")
    del flags[where : where + 2]
    train_cls.main(flags)
    found = record(tmp_path / "run")
    assert (found["steps"], found["arguments"]["num_train_epochs"]) == (40, 5)
    with pytest.raises(UserError, match="--num_train_epochs 2 is less than the run's 5; it may only grow"):
        train_cls.main([*flags, "--resume", "--num_train_epochs", "2"])
    assert record(tmp_path / "run") == found


def test_a_length_in_steps_does_not_become_one_in_epochs(finished, tmp_path):
    flags = [*finished.flags, "--output_dir", str(tmp_path / "run")]
    train_cls.main([*flags, "--max_steps", "30"])
    with pytest.raises(UserError, match="--max_steps 30; give that or more, or leave --num_train_epochs out"):
        train_cls.main([*flags, "--resume"])  # of 3 epochs, 24 steps
    assert record(tmp_path / "run")["steps"] == 30


def test_fewer_steps_than_a_run_has_made_are_refused(train):
    train("run", "--max_steps", 4)
    with pytest.raises(UserError, match="--max_steps 3 is less than the run's 4; it may only grow"):
        train("run", "--resume", "--max_steps", 3)


def test_a_length_in_epochs_does_not_become_one_in_steps(train, monkeypatch):
    """Which might be a shorter one, with another schedule."""
    train_and_die(train, monkeypatch, 1)
    with pytest.raises(UserError, match="the run has --num_train_epochs 2, which --max_steps 5 might shorten"):
        train("cut", "--resume", "--max_steps", 5)


def test_a_finished_run_whose_checkpoints_are_gone_is_not_replaced_unasked(finished, tmp_path):
    run = shutil.copytree(finished.directory, tmp_path / "run")
    for step in run.glob("checkpoint/step-*"):
        shutil.rmtree(step)
    flags = [*finished.flags, "--output_dir", str(run), "--num_train_epochs", "9", "--resume"]
    with pytest.raises(UserError, match="has no checkpoint to --resume"):
        train_cls.main(flags)
    assert (run / "model.safetensors").exists() and (run / "run.json").exists()
    (run / "run.json").unlink()  # as a run is left that was lengthened, and killed
    with pytest.raises(UserError, match="has no checkpoint to --resume"):
        train_cls.main(flags)
    (run / "model.safetensors").unlink()  # what is left is a run that was killed before its first checkpoint
    train_cls.main([*finished.flags, "--output_dir", str(run), "--resume"])


@pytest.mark.parametrize("changed", ["sizes", "tokenizer"])
def test_resume_from_a_start_that_has_changed_is_refused_and_nothing_changes(finished, tmp_path, train, monkeypatch, changed):
    start = shutil.copytree(finished.directory, tmp_path / "start")
    train_and_die(train, monkeypatch, 1, "--model", start)
    tokenizer = Tokenizer.from_pretrained(start)
    vocabulary = sorted(tokenizer.backend.get_vocab(), key=tokenizer.backend.token_to_id)
    if changed == "tokenizer":
        Tokenizer.from_vocabulary([*vocabulary[:5], *reversed(vocabulary[5:])]).save_pretrained(start, 512)
    else:
        model = DistilBertForSequenceClassification.from_pretrained(start)
        DistilBertForSequenceClassification(model.config.replace(n_layers=1)).save_pretrained(start)
    before = {path: path.read_bytes() for path in (tmp_path / "cut").rglob("*") if path.is_file()}
    said = {"sizes": "of a model of other sizes", "tokenizer": "the tokenizer of --model .* has changed"}[changed]
    with pytest.raises(UserError, match=f"--resume: .*{said}"):
        train("cut", "--model", start, "--resume")
    assert {path: path.read_bytes() for path in (tmp_path / "cut").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "flags",
    ["--learning_rate 1e-3", "--batch_size 6", "--seed 1", "--precision bf16", "--train_size 25", "--dropout 0.5"],
)
def test_resume_with_another_recipe_is_refused_and_nothing_changes(train, tmp_path, monkeypatch, flags):
    train_and_die(train, monkeypatch, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"--resume: the run has {flags.split()[0]} "):
        train("cut", "--resume", *flags.split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_may_differ_on_resume_is_no_part_of_the_recipe():
    """By DESIGN: lengths upward, how often it is told and saved; and where, and how many texts are judged at once."""
    free = {"num_train_epochs", "max_steps", "resume", "overwrite", "output_dir", "logging_steps", "save_steps", "save_minutes"}
    assert set(MAY_DIFFER) == free | {"eval_batch_size"}


def test_resume_on_texts_that_have_changed_is_refused(corpus, tmp_path, train, monkeypatch):
    copy = tmp_path / "toy.jsonl"
    copy.write_text(corpus.read_text())
    train_and_die(train, monkeypatch, 1, "--data", copy)
    copy.write_text(corpus.read_text().replace("lovely", "dreadful"))
    with pytest.raises(UserError, match=r"toy\.jsonl"):
        train("cut", "--data", copy, "--resume")


def test_resume_on_labels_that_have_changed_is_refused(corpus, tmp_path, train, monkeypatch):
    copy = tmp_path / "toy.jsonl"
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    copy.write_text("\n".join(map(json.dumps, rows)))
    train_and_die(train, monkeypatch, 1, "--data", copy, "--train_size", 128)
    rows[0]["label"], rows[1]["label"] = rows[1]["label"], rows[0]["label"]
    copy.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"the texts or labels of --data .*toy\.jsonl have changed"):
        train("cut", "--data", copy, "--train_size", 128, "--resume")


def test_resume_may_change_what_is_only_reported_and_keeps_what_auto_meant(train, tmp_path, monkeypatch):
    for fast, name in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("distilbert.precision.fast_bf16", lambda _, fast=fast: fast)
        train_and_die(train, monkeypatch, 1, "--precision", "auto", "--device", "auto", "--overwrite")
        assert arguments(tmp_path / "cut")["precision"] == name and arguments(tmp_path / "cut")["device"] == "cpu"
        monkeypatch.setattr("distilbert.precision.fast_bf16", lambda _, fast=fast: not fast)
        changed = ["--logging_steps", 1, "--save_steps", 1, "--save_minutes", 0, "--eval_batch_size", 5]
        train("cut", "--precision", "auto", "--device", "auto", "--resume", *changed)
        assert record(tmp_path / "cut")["arguments"]["precision"] == name


def test_a_run_is_neither_overwritten_nor_touched_unasked(finished):
    before = {path: path.read_bytes() for path in finished.directory.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"already holds a run.*--resume.*--overwrite"):
        train_cls.main(finished.flags)
    assert {path: path.read_bytes() for path in finished.directory.rglob("*") if path.is_file()} == before


def test_a_run_whose_checkpoints_are_gone_is_not_said_to_be_resumable(finished, tmp_path):
    run = shutil.copytree(finished.directory, tmp_path / "run")
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(UserError, match=r"already holds a run.* has no checkpoint to --resume; to replace .*--overwrite"):
        train_cls.main([*finished.flags, "--output_dir", str(run), "--num_train_epochs", "9", "--resume"])


def test_overwrite_replaces_a_run_and_leaves_no_line_of_it(train):
    expected = outcome(train("plain", "--seed", 1))
    train("run", "--max_steps", 9, "--save_steps", 1)
    directory = train("run", "--seed", 1, "--overwrite")
    assert outcome(directory) == expected
    assert sorted(path.name for path in (directory / "checkpoint").iterdir()) == ["arguments.json", "step-3", "step-6"]


# ---- steps


def test_max_steps_ends_in_the_middle_of_an_epoch_and_goes_on_over_many(train):
    for steps in (2, 8):
        lines = log(train(f"run{steps}", "--max_steps", steps))
        assert lines[-1]["step"] == steps and "eval_loss" in lines[-1]
        assert [line["step"] for line in lines if "eval_loss" in line] == {2: [2], 8: [3, 6, 8]}[steps]


def test_eval_steps_replaces_the_validations_at_the_epochs_ends_but_not_the_last(train):
    lines = log(train("run", "--eval_steps", 4))
    assert [line["step"] for line in lines if "eval_loss" in line] == [4, 6]


@pytest.mark.parametrize("flags", [("--save_steps", 2), ("--save_minutes", 0)], ids=str)
def test_only_the_last_two_checkpoints_remain(train, flags):
    directory = train("run", *flags, "--max_steps", 8)
    names = {"--save_steps": ["step-6", "step-8"], "--save_minutes": ["step-7", "step-8"]}[flags[0]]
    assert sorted(path.name for path in (directory / "checkpoint").glob("*step*")) == names


def test_a_step_that_overflows_in_fp16_teaches_nothing_and_the_schedule_waits_for_it(train, monkeypatch):
    scale_high(monkeypatch, 2.0**40)
    flags = ["--precision", "fp16", "--warmup_ratio", 0.5, "--max_steps", 8, "--logging_steps", 1, "--learning_rate", 4e-3]
    directory = train("run", *flags)
    skipped = progress(directory, 8)["skipped"]
    assert 1 < skipped < 6
    rates = [line["learning_rate"] for line in log(directory) if "learning_rate" in line]
    assert rates == pytest.approx(([0.0] * skipped + [0, 1e-3, 2e-3, 3e-3, 4e-3, 3e-3, 2e-3, 1e-3])[:8], rel=1e-12)
    norms = [line["grad_norm"] for line in log(directory) if "grad_norm" in line]
    assert norms[:skipped] == [None] * skipped and all(0 < norm < 100 for norm in norms[skipped:])


def test_a_run_of_overflows_alone_leaves_weights_and_optimizer_untouched(train, monkeypatch):
    scale_high(monkeypatch, 2.0**100)
    directory = train("run", "--precision", "fp16", "--max_steps", 2, "--save_steps", 1)
    first, second = saved(directory, 1), saved(directory, 2)
    assert progress(directory, 2)["skipped"] == 2
    assert {name.split("/")[0] for name in first} == {"model"} and {name.split("/")[0] for name in second} == {"model", "best"}
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---- signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(train, tmp_path, monkeypatch, capsys, number, status):
    whole = train("whole")
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    numbers = iter([number])

    def clip_and_be_stopped(*args):
        for once in numbers:
            os.kill(os.getpid(), once)
        return clip_grad_norm_(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_cls, "clip_grad_norm_", clip_and_be_stopped)
        with pytest.raises(SystemExit) as stopped:
            train("cut")
    assert stopped.value.code == status
    assert "--resume" in capsys.readouterr().out
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert [path.name for path in (tmp_path / "cut" / "checkpoint").glob("*step*")] == ["step-1"]
    assert outcome(train("cut", "--resume")) == outcome(whole)


def test_a_signal_before_the_first_step_leaves_the_former_run_as_it_was(train, monkeypatch, capsys):
    run = train("run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def load_and_be_stopped(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return load(*args)

    monkeypatch.setattr(train_cls, "load", load_and_be_stopped)
    with pytest.raises(SystemExit) as stopped:
        train("run", "--overwrite")
    assert stopped.value.code == 130 and "before the first step: nothing was changed" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_signal_during_the_last_test_ends_the_run_before_its_record_and_after_a_resume_too(train, tmp_path, monkeypatch):
    whole = train("whole")

    def stopped_and_load(*args):  # what comes between the last step and the test
        os.kill(os.getpid(), signal.SIGTERM)
        return load_weights(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_cls, "load_weights", stopped_and_load)
        for flags in ((), ("--resume",)):
            with pytest.raises(SystemExit) as stopped:
                train("cut", *flags)
            assert stopped.value.code == 143 and not (tmp_path / "cut" / "run.json").exists()
    assert outcome(train("cut", "--resume")) == outcome(whole)


def test_what_is_said_to_be_saved_is_saved(train, tmp_path, monkeypatch, capsys):
    """Also when the signal comes just after the question whether to save: then the next step is the last."""
    original, signals = Run.checkpoint_is_due, iter([signal.SIGINT])

    def due_and_then_a_signal(*args):
        due = original(*args)
        for number in signals:
            os.kill(os.getpid(), number)
        return due

    monkeypatch.setattr(Run, "checkpoint_is_due", due_and_then_a_signal)
    with pytest.raises(SystemExit):
        train("run")
    assert "saved at step 2" in capsys.readouterr().out
    assert (tmp_path / "run" / "checkpoint" / "step-2").exists()


def test_control_c_ends_the_program_with_130_a_checkpoint_and_no_traceback(corpus, tmp_path):
    flags = [*TINY, "--data", corpus, "--output_dir", tmp_path / "run", "--logging_steps", "1", "--num_train_epochs", "9999"]
    command = [sys.executable, "train_cls.py", *map(str, flags)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        told = next(line for line in program.stderr if line.startswith("step 2/"))
        program.send_signal(signal.SIGINT)
        output, errors = program.communicate(timeout=60)
    assert "loss" in told and program.returncode == 130
    assert "Traceback" not in errors and "--resume" in output
    last = log(tmp_path / "run")[-1]["step"]
    assert progress(tmp_path / "run", last)["step"] == last >= 2
    assert f"saved at step {last}." in output


# ---- presets, parts and the start


@pytest.mark.parametrize("preset", train_cls.PRESETS)
def test_a_run_by_a_preset_has_its_flags_and_explicit_flags_win(tmp_path, preset, capsys):
    data = write_tar(tmp_path / "aclImdb.tar.gz", imdb_members(per_class=40))
    flags = ["--preset", preset, "--model", "scratch-tiny", "--data", str(data), "--max_steps", "2", "--logging_steps", "1"]
    train_cls.main([*flags, "--output_dir", str(tmp_path / "run")])
    found = arguments(tmp_path / "run")
    assert (train_cls.PRESETS[preset] | {"model": "scratch-tiny"}).items() <= found.items()
    assert found["preset"] == preset and found["max_steps"] == 2
    assert "is a cut of IMDb" not in capsys.readouterr().out
    assert [line["step"] for line in log(tmp_path / "run") if "loss" in line] == [1, 2]
    sizes = {"dapt-imdb": (80, 16, 64), "imdb-384": (72, 8, 80)}[preset]
    assert tuple(record(tmp_path / "run")["data"][part] for part in ("train", "validation", "test")) == sizes
    train_cls.main([*flags, "--output_dir", str(tmp_path / "run"), "--overwrite", "--learning_rate", "3e-4", "--seed", "5"])
    assert {**found, "learning_rate": 3e-4, "seed": 5, "overwrite": True} == arguments(tmp_path / "run")


@pytest.mark.parametrize("keep", [False, True])
def test_training_texts_that_are_also_held_out_are_dropped_and_counted_unless_kept(corpus, tmp_path, keep):
    rows = [json.loads(line) for line in corpus.read_text().splitlines()[:40]]
    for i, row in enumerate(rows):
        row["split"] = "test" if i < 6 else "validation" if i < 14 else "train"
    rows += [rows[3] | {"split": "train"}, rows[9] | {"split": "train"}, rows[20] | {"split": "train"}]
    (tmp_path / "toy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = [*TINY, "--data", str(tmp_path / "toy.jsonl"), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    train_cls.main([*flags, *["--keep_duplicates"] * keep])
    data = record(tmp_path / "run")["data"]
    expected = {"train": 29 if keep else 27, "validation": 8, "test": 6, "dropped_duplicates": 0 if keep else 2}
    assert {name: data[name] for name in expected} == expected


def test_a_run_starts_from_another_run(finished, corpus, tmp_path, train):
    same_head = train("same", "--model", finished.directory, "--learning_rate", 0, "--max_steps", 1)
    before, after = (load_file(directory / "model.safetensors") for directory in (finished.directory, same_head))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-5)
    assert (same_head / "tokenizer.json").read_text() == (finished.directory / "tokenizer.json").read_text()


def test_a_head_of_another_kind_starts_fresh_and_is_announced(finished, tmp_path, train, capsys):
    train("run", "--model", finished.directory, "--classifier_head", "pre_classifier", "--learning_rate", 0, "--max_steps", 1)
    assert not load_file(tmp_path / "run" / "model.safetensors")["classifier.bias"].any()
    assert "untrained" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["linear", "pre_classifier"])
def test_a_trained_classifier_calls_its_classes_as_it_learnt_them(finished, tmp_path, train, head):
    """Whatever the checkpoint that it started from called them."""
    source = shutil.copytree(finished.directory, tmp_path / "source")
    config = json.loads((source / "config.json").read_text()) | {"id2label": {"0": "POSITIVE", "1": "NEGATIVE"}}
    (source / "config.json").write_text(json.dumps(config))
    run = train("run", "--model", source, "--classifier_head", head, "--max_steps", 1)
    assert json.loads((run / "config.json").read_text())["id2label"] == {"0": "Negative", "1": "Positive"}


@pytest.mark.parametrize("head", ["linear", "pre_classifier"])
def test_a_classifier_of_three_classes_is_refused_at_once(finished, tmp_path, train, head):
    source = tmp_path / "three"
    model = DistilBertForSequenceClassification.from_pretrained(finished.directory)
    config = model.config.replace(classifier_head="pre_classifier", id2label={0: "against", 1: "neutral", 2: "for"})
    DistilBertForSequenceClassification(config).save_pretrained(source)
    Tokenizer.from_pretrained(finished.directory).save_pretrained(source, 512)
    with pytest.raises(UserError, match="tells 3 classes apart; these labels are of two classes"):
        train("run", "--model", source, "--classifier_head", head, "--max_steps", 1)


@pytest.mark.parametrize("mistakes", [0, 2])
def test_the_end_shows_five_verdicts_one_of_them_wrong_if_there_is_one(mistakes):
    labels = np.array([0, 1, 0, 1, 1, 0, 1])
    figures = {"f1": 0.25, "roc_auc": 0.75, "accuracy_interval": (0.125, 0.875)}
    logits = np.eye(2)[labels] * [[3.0, 5.0]]
    logits[[4, 5][:mistakes]] *= -1
    part = Part([f"text\n{i} " + "long " * 50 for i in range(7)], labels, [])
    said = verdicts(logits, part, classification_metrics(logits, labels) | figures).splitlines()
    interval = "(95% interval 0.1250 to 0.8750) on 7 texts, F1 0.2500, ROC-AUC 0.7500"
    assert said[0] == f"test accuracy {(7 - mistakes) / 7:.4f} {interval}"
    found = [line.split()[:5] for line in said[2:]]
    expected = [["right", *rest] for rest in (("Negative", "0.95", "text", "0"), ("Positive", "0.99", "text", "1"))]
    expected += [["right", "Negative", "0.95", "text", "2"], ["right", "Positive", "0.99", "text", "3"]]
    wrong = ["WRONG", "Negative", "0.99", "text", "4"]
    assert found == ([wrong, *expected] if mistakes else [*expected, ["right", "Positive", "0.99", "text", "4"]])


def test_a_cut_of_imdb_that_is_asked_of_other_texts_is_said_to_cut_nothing(train, capsys):
    train("run", "--split", "seed-b")
    assert "--split seed-b is a cut of IMDb, and these texts are not: --data imdb\n" in capsys.readouterr().out


def test_little_text_is_read_five_times_and_much_of_it_three_times(corpus, tmp_path):
    flags = [*TINY, "--data", str(corpus), "--train_size", "8", "--batch_size", "8", "--output_dir"]
    train_cls.main([*flags, str(tmp_path / "little")])
    assert log(tmp_path / "little")[-1]["epoch"] == 5
    rows = [{"text": f"{('dull', 'lovely')[i % 2]} film", "label": i % 2} for i in range(1_250)]
    (tmp_path / "much.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train_cls.main([*TINY, "--data", str(tmp_path / "much.jsonl"), "--keep_duplicates", "--batch_size", "1000", "--output_dir",
                    str(tmp_path / "much")])  # fmt: skip
    assert log(tmp_path / "much")[-1]["epoch"] == 3


def quickstart() -> list[str]:
    """The first command of the README that trains."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python train_cls.py")]
    return shlex.split(lines[0], comments=True)[1:]


def test_the_quickstart_ends_with_a_model_and_verdicts(tmp_path):
    flags = ["--model", "scratch-tiny", "--max_steps", "4", "--output_dir", str(tmp_path / "run")]
    program = subprocess.run([sys.executable, *quickstart(), *flags], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert program.returncode == 0 and "forked" not in program.stderr, program.stderr  # the tokenizers' warning
    assert record(tmp_path / "run")["arguments"]["data"] == "sample"
    lines = log(tmp_path / "run")
    (validation,) = (line for line in lines if "eval_loss" in line)
    figures = "  ".join(f"{name} {validation[f'eval_{name}']:.4f}" for name in ("loss", "accuracy", "f1"))
    assert f"step 4, epoch 0: validation {figures}  (best so far)\n" in program.stdout
    tokens = sum(line["tokens"] for line in lines if "loss" in line) / 64  # four batches of sixteen
    (mean,) = re.findall(r"^(\d+) tokens a sequence on average, once cut, \w+ on \w+$", program.stdout, re.MULTILINE)
    assert abs(int(mean) - tokens) < 10
    assert re.search(r"^step 4/4  loss \d\.\d{4}  rate 3\.3e-05  [\d,]+ tokens/s  0\.0 min left$", program.stderr, re.MULTILINE)
    assert "test accuracy" in program.stdout and program.stdout.count("\nright  ") >= 4
    assert "evaluate.py" in program.stdout.splitlines()[-1]
