"""The run directory: its files, its record and log, who may write there, its card and its curves."""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from conftest import our_config, randomise
from matplotlib.axes import Axes
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch._inductor.exc import InductorError

import train_cls
from data.batches import tokenise
from data.sources import load
from distilbert import DistilBertForMaskedLM, DistilBertForSequenceClassification, Tokenizer, cli, curves, files
from distilbert.arguments import TrainingArguments
from distilbert.card import model_card
from distilbert.curves import draw_curves
from distilbert.directory import without_paths
from distilbert.errors import UserError
from distilbert.log import Progress
from distilbert.metrics import classification_metrics
from distilbert.optim import AdamW
from distilbert.resume import write_checkpoint
from distilbert.run import Run
from distilbert.start import check_device, full_precision, load_weights, machine, starting_point, step_seed

FIGURES = {
    "n",
    "accuracy",
    "accuracy_interval",
    "precision",
    "recall",
    "f1",
    "roc_auc",
    "loss",
    "confusion_matrix",
    "ece",
    "brier",
}


def record(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


def log(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def contents(directory: Path) -> dict[Path, bytes]:
    """All files, but for the lock, which is empty and stays."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


def arguments(directory: Path, **changes) -> train_cls.Arguments:
    return train_cls.Arguments(model="scratch-tiny", output_dir=str(directory), device="cpu", precision="fp32", **changes)


class Small(nn.Module):
    """Three numbers to save and restore."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))


def opened(run: Run) -> tuple[Small, AdamW, torch.amp.GradScaler]:
    """What a run would train, after a fresh start."""
    assert run.begin() is None
    model, scaler = Small(), torch.amp.GradScaler("cpu", enabled=False)
    optimizer = AdamW(model.parameters())
    run.restore(model, optimizer, scaler, None)
    return model, optimizer, scaler


def step(
    run: Run, loss=1.0, norm=1.5, examples: int = 4, tokens: int = 40, seconds=2.0, skipped=False, epoch_ended=False
) -> None:
    texts = np.arange(run.progress.step, run.progress.step + examples)
    run.count(torch.tensor(loss), torch.tensor(norm), examples, tokens, seconds, skipped, epoch_ended, texts)


# ---- what a finished run leaves


def test_a_finished_run_holds_its_files_and_nothing_temporary(finished):
    names = {path.relative_to(finished.directory).as_posix() for path in finished.directory.rglob("*")}
    files = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    files |= {"README.md", "run.json", "log.jsonl", "curves.svg", "known.hashes", ".lock"}
    files |= {"checkpoint", "checkpoint/arguments.json"}
    for folder in ("checkpoint/step-16", "checkpoint/step-24"):
        files |= {folder, f"{folder}/tensors.safetensors", f"{folder}/state.json"}
    assert names == files


def test_the_record_has_its_keys_with_whole_numbers_for_counts(finished):
    found = record(finished.directory)
    keys = {"arguments", "versions", "machine", "revision", "data", "metrics", "seconds", "peak_memory_bytes"}
    assert keys <= found.keys()
    counts = {"train": 128, "validation": 16, "test": 16, "dropped_duplicates": 0}
    assert {name: found["data"][name] for name in counts} == counts
    for part in ("validation", "test"):
        assert found["metrics"][part].keys() >= FIGURES and found["metrics"][part]["n"] == 16
        assert sum(map(sum, found["metrics"][part]["confusion_matrix"])) == 16
    whole = [*found["data"].values(), *(metrics["n"] for metrics in found["metrics"].values()), found["peak_memory_bytes"]]
    assert all(isinstance(value, int) for value in whole if not isinstance(value, str))
    assert (
        found["versions"]["torch"] == torch.__version__ and {"tokenizers", "safetensors", "numpy"} <= found["versions"].keys()
    )
    assert 0 < found["seconds"] < 600 and 1e7 < found["peak_memory_bytes"] < 1e11
    fields = train_cls.Arguments.__dataclass_fields__
    assert found["arguments"].keys() == fields.keys()
    assert (found["arguments"]["device"], found["arguments"]["max_length"]) == ("cpu", 48)
    saved = json.loads((finished.directory / "tokenizer_config.json").read_text())
    assert saved["model_max_length"] == 512  # what the model can read, which is more than this run did


def test_the_fingerprint_changes_with_a_text_and_the_revision_with_the_starting_weights(
    finished, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("distilbert.run.draw_curves", lambda *_: False)
    (tmp_path / "toy.jsonl").write_text(corpus.read_text().replace(" film", " movie", 1))
    flags = ["--model", str(finished.directory), "--data", str(tmp_path / "toy.jsonl"), "--output_dir", str(tmp_path / "run")]
    train_cls.main([*finished.flags, *flags, "--max_steps", "1"])
    before, after = record(finished.directory), record(tmp_path / "run")
    assert len(before["data"]["fingerprint"]) >= 16
    assert len({before["data"]["fingerprint"], after["data"]["fingerprint"]}) == 2
    weights = hashlib.sha256((finished.directory / "model.safetensors").read_bytes()).hexdigest()
    assert (before["revision"], after["revision"]) == ("random", f"sha256:{weights}")


def test_the_recorded_test_metrics_are_those_of_the_last_forward(finished, corpus):
    labels = load(str(corpus))["test"].labels
    expected = classification_metrics(finished.test_logits, labels)
    assert json.loads(json.dumps(expected)) == record(finished.directory)["metrics"]["test"]


def test_what_may_be_published_names_no_path_host_or_user(finished, corpus, tmp_path, monkeypatch):
    user, home = pwd.getpwuid(os.getuid()).pw_name, str(Path.home())
    monkeypatch.setattr(socket, "gethostname", lambda: "the-host")
    monkeypatch.setattr("platform.node", lambda: "the-host")
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "the-user")
    monkeypatch.setattr("distilbert.run.draw_curves", lambda *_: False)
    flags = [
        "--model",
        str(finished.directory),
        "--data",
        str(corpus),
        "--output_dir",
        str(tmp_path / "second"),
        "--max_steps",
        "1",
    ]
    train_cls.main([*flags, "--precision", "fp32", "--max_length", "48"])
    for directory in (finished.directory, tmp_path / "second"):
        for name in ("run.json", "README.md", "log.jsonl", "config.json", "tokenizer_config.json"):
            text = (directory / name).read_text()
            secrets = [
                "private-folder",
                str(tmp_path),
                os.getcwd(),
                "the-host",
                "the-user",
                user,
                *[home] * (home != "/"),
            ]
            assert not [secret for secret in secrets if secret in text], name
    published = record(tmp_path / "second")["arguments"]
    assert (published["model"], published["data"], published["output_dir"]) == ("judge", "toy.jsonl", "second")


def test_the_log_has_a_line_for_each_logged_step_and_one_for_each_evaluation(finished):
    lines = log(finished.directory)
    training = [line for line in lines if "loss" in line]
    assert all(line.keys() == {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "seconds"} for line in training)
    assert [line["step"] for line in training] == [3, 6, 9, 12, 15, 18, 21, 24]
    assert all(isinstance(line[key], int) for line in training for key in ("step", "epoch", "tokens"))
    evaluations = [line for line in lines if "loss" not in line]
    assert all(line.keys() == {"step", "epoch"} | {f"eval_{name}" for name in FIGURES} for line in evaluations)
    assert [(line["step"], line["epoch"]) for line in evaluations] == [(8, 1), (16, 2), (24, 3)]
    best = next(line for line in evaluations if line["step"] == record(finished.directory)["best_step"])
    validation = record(finished.directory)["metrics"]["validation"]
    assert {f"eval_{name}": value for name, value in validation.items()} == {
        k: v for k, v in best.items() if k.startswith("eval_")
    }


def test_the_log_counts_each_real_token_of_each_epoch_once(finished, corpus):
    tokenizer, parts = Tokenizer.from_pretrained(finished.directory), load(str(corpus))
    table = tokenise(parts["train"].texts, tokenizer.encode_batch, "test")
    assert sum(line.get("tokens", 0) for line in log(finished.directory)) == 3 * int(np.minimum(table.lengths, 48).sum())
    seconds = sum(line.get("seconds", 0) for line in log(finished.directory))
    assert seconds == pytest.approx(record(finished.directory)["seconds"], abs=0.06)


# ---- along the way


def test_a_line_of_the_log_is_the_mean_over_the_examples_since_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr("distilbert.log.time.perf_counter", lambda: 0.0)  # no time passes while the losses are fetched
    with Run(arguments(tmp_path)) as run:
        opened(run)
        step(run, loss=2.0, examples=3, tokens=31, seconds=0.5)
        step(run, loss=6.0, examples=1, tokens=7, seconds=0.25, epoch_ended=True)
        run.log_training(9, 0.125)
        step(run, loss=5.0, examples=2, tokens=11, seconds=4.0)
        step(run, loss=math.inf, norm=math.inf, tokens=5, seconds=1.0, skipped=True)
        run.log_training(9, 0.0625)
    first, second = log(tmp_path)
    assert first == {
        "step": 2, "epoch": 1, "loss": 3.0, "learning_rate": 0.125, "grad_norm": 1.5, "tokens": 38, "seconds": 0.75
    }  # fmt: skip
    assert second == {
        "step": 4, "epoch": 1, "loss": 5.0, "learning_rate": 0.0625, "grad_norm": None, "tokens": 16, "seconds": 5.0
    }  # fmt: skip
    assert (run.progress.steps_in_epoch, run.progress.seconds) == (2, 5.75)


def test_what_the_log_waits_for_the_device_is_time_of_training(tmp_path, monkeypatch):
    with Run(arguments(tmp_path)) as run:
        opened(run)
        step(run, loss=2.0, examples=3, tokens=30, seconds=0.5)
        clock = iter((10.0, 12.5))  # before and after the losses are fetched
        monkeypatch.setattr("distilbert.log.time.perf_counter", lambda: next(clock))
        run.log_training(9, 0.125)
    assert (log(tmp_path)[0]["seconds"], run.progress.seconds) == (3.0, 3.0)


@pytest.mark.parametrize("wrong", [{"loss": math.nan}, {"loss": math.inf}, {"norm": math.nan}, {"norm": math.inf}], ids=str)
def test_a_step_that_went_wrong_is_named_with_its_texts_and_nothing_is_saved(tmp_path, wrong):
    with Run(arguments(tmp_path)) as run:
        model, optimizer, scaler = opened(run)
        step(run)
        step(run, **wrong)
        step(run, loss=math.nan)
        for report in (lambda: run.log_training(9, 0.1), lambda: run.save(model, optimizer, scaler, {})):
            with pytest.raises(UserError, match=r"in step 2, on the training sequences number 1, 2, 3, 4; .*--learning_rate"):
                report()
    assert not list(tmp_path.glob("checkpoint/step-*"))


def test_twenty_overflows_in_a_row_end_the_run_and_nineteen_do_not(tmp_path):
    with Run(arguments(tmp_path)) as run:
        opened(run)
        for skipped in (*[True] * 19, False, *[True] * 19):
            step(run, loss=math.nan, norm=math.nan, skipped=skipped) if skipped else step(run)
        assert (run.progress.skipped, run.progress.skipped_in_a_row) == (38, 19)
        with pytest.raises(UserError, match=r"20 steps in a row, up to step 40;.*--precision fp32"):
            step(run, skipped=True)


def test_only_a_higher_score_is_best_and_nan_never(tmp_path):
    with Run(arguments(tmp_path)) as run:
        opened(run)
        verdicts = []
        for score in (float("nan"), 0.3, float("nan"), 0.3, 0.2, 0.4):
            step(run)
            verdicts.append(run.log_evaluation({"loss": score, "n": 5}, score))
    assert verdicts == [False, True, False, False, False, True]
    assert run.progress.best == {"step": 6, "score": 0.4, "metrics": {"loss": 0.4, "n": 5}}
    assert [line["eval_loss"] for line in log(tmp_path)] == [None, 0.3, None, 0.3, 0.2, 0.4]


@pytest.mark.parametrize(("every", "due"), [(None, [3, 6, 7]), (2, [2, 4, 6, 7])])
def test_evaluations_are_due_at_epochs_ends_or_every_so_many_steps_and_at_the_end(tmp_path, every, due):
    run = Run(arguments(tmp_path, eval_steps=every))
    found = []
    for number in range(1, 8):
        run.progress.step = number
        found += [number] * run.evaluation_is_due(epoch_ended=number % 3 == 0, ended=number == 7)
    assert found == due


def test_what_a_gpu_has_still_to_do_before_a_validation_counts_as_training(tmp_path, monkeypatch):
    with Run(arguments(tmp_path, eval_steps=2)) as run:
        opened(run)
        for _ in range(2):
            step(run)
            assert len(run.window) == run.progress.step and run.evaluation_is_due(False, False) == (run.progress.step == 2)
        assert run.window == [] and run.progress.loss == 8.0  # fetched before the validation, whose first look would wait


@pytest.mark.parametrize(("error", "leaves"), [(UserError("the disk is full"), []), (SystemExit(143), [1]), (None, [1])])
def test_a_process_that_fails_alone_waits_for_no_other_before_it_says_so(tmp_path, monkeypatch, error, leaves):
    left = []
    run = Run(arguments(tmp_path))
    monkeypatch.setattr(run.workers, "leave", lambda: left.append(1))  # nccl's waits for all
    with contextlib.suppress(UserError, SystemExit), run:
        if error:
            raise error
    assert left == leaves


def test_a_checkpoint_is_due_at_epochs_ends_by_steps_by_minutes_and_on_a_signal(tmp_path, monkeypatch):
    run = Run(arguments(tmp_path, save_steps=5, save_minutes=2.0))
    now = run.saved_at
    monkeypatch.setattr("time.monotonic", lambda: now)
    run.progress.step = 4
    assert not run.checkpoint_is_due(at_an_end=False) and run.checkpoint_is_due(at_an_end=True)
    run.progress.step = 10
    assert run.checkpoint_is_due(at_an_end=False)
    run.progress.step, now = 11, now + 119
    assert not run.checkpoint_is_due(at_an_end=False)
    now += 2
    assert run.checkpoint_is_due(at_an_end=False)
    monkeypatch.setattr("distilbert.run.gather", lambda *_: {})
    monkeypatch.setattr("distilbert.run.write_checkpoint", lambda *_: None)
    run.save(None, None, SimpleNamespace(state_dict=dict), {})
    assert not run.checkpoint_is_due(at_an_end=False)
    now, run.signal = run.saved_at, signal.SIGTERM
    assert run.checkpoint_is_due(at_an_end=False)


def test_a_stopped_worker_ends_after_the_one_that_saves(tmp_path, monkeypatch):
    """torchrun ends them all as soon as one has failed, and 130 is a failure."""
    run, waited = Run(arguments(tmp_path)), []
    monkeypatch.setattr(run.workers, "wait", lambda: waited.append(run.stop))
    run.exit_if_stopped()
    assert waited == []
    run.signal = signal.SIGTERM
    with pytest.raises(SystemExit):
        run.exit_if_stopped(ended=True)
    assert waited == [signal.SIGTERM]


def test_processes_that_find_other_checkpoints_are_refused(tmp_path, monkeypatch):
    run = Run(arguments(tmp_path))
    monkeypatch.setattr(run.workers, "largest", lambda step: max(step, {0: 7}.get(step, step)))  # elsewhere a run is at step 7
    with run, pytest.raises(UserError, match="on a disk that all share"):
        run.begin()


def test_every_process_refuses_a_directory_that_is_taken(finished, tmp_path, monkeypatch):
    """One that went on would wait for the first in vain, and end in a traceback. The first alone says why."""
    run = Run(arguments(shutil.copytree(finished.directory, tmp_path / "run")))
    with pytest.raises(UserError, match="already holds a run"):
        run.begin()
    monkeypatch.setattr(run.workers, "rank", 1)
    with pytest.raises(SystemExit, match="2"):
        run.begin()


def test_a_signal_counts_once_every_worker_knows_of_it(tmp_path, monkeypatch):
    run = Run(arguments(tmp_path))
    run.signal = signal.SIGTERM  # it came after this step's checkpoint: the others go on, and so does this one
    run.exit_if_stopped()
    assert run.checkpoint_is_due(at_an_end=False)
    with pytest.raises(SystemExit, match="143"):
        run.exit_if_stopped()
    other = Run(arguments(tmp_path / "other"))
    monkeypatch.setattr(other.workers, "largest", lambda mine: max(mine, signal.SIGINT))  # another worker has been signalled
    with pytest.raises(SystemExit, match="130"):
        other.exit_if_stopped(ended=True)


def test_a_checkpoint_of_another_version_is_refused_in_words(tmp_path):
    with Run(arguments(tmp_path)) as run:
        opened(run)
    write_checkpoint(tmp_path / "checkpoint", 3, {"x": torch.zeros(1)}, {"progress": {"stride": 3}, "scaler": {}})
    with (
        Run(arguments(tmp_path, resume=True)) as run,
        pytest.raises(UserError, match=r"another version of this project; start anew: --overwrite"),
    ):
        run.begin()


def test_a_checkpoint_gives_back_everything_that_was_put_in(tmp_path):
    with Run(arguments(tmp_path)) as run:
        model, optimizer, scaler = opened(run)
        for number in range(3):
            model.p.grad = torch.tensor([0.5, -0.25, 7.0]) * number
            optimizer.step()
            step(run, loss=0.1 + number, seconds=1 / 3, epoch_ended=number == 1)
        run.log_evaluation({"loss": 0.7}, score=0.9)
        run.save(model, optimizer, scaler, full_precision(model, optimizer))
        expected = run.progress
    assert expected.loss == pytest.approx(4 * (0.1 + 1.1 + 2.1), rel=1e-6) and (expected.epoch, expected.steps_in_epoch) == (
        1,
        1,
    )
    with Run(arguments(tmp_path, resume=True)) as again:
        other, fresh = Small(), None
        other.p.data.zero_()
        fresh = AdamW(other.parameters())
        best = again.restore(other, fresh, scaler, again.begin())
    assert again.progress == expected
    assert torch.equal(other.p, model.p) and torch.equal(best["p"], model.p)
    assert fresh.state[other.p].keys() == optimizer.state[model.p].keys() and fresh.state[other.p]["step"] == 3
    assert all(torch.equal(fresh.state[other.p][key], optimizer.state[model.p][key]) for key in ("exp_avg", "exp_avg_sq"))
    assert type(fresh.state[other.p]["step"]) is int


def test_a_crash_while_saving_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    with Run(arguments(tmp_path)) as run:
        parts = opened(run)
        for _ in range(2):
            step(run)
            run.save(*parts, {})
        monkeypatch.setattr("distilbert.resume.os.replace", crash)
        step(run)
        with pytest.raises(KeyboardInterrupt):
            run.save(*parts, {})
    monkeypatch.undo()
    with Run(arguments(tmp_path, resume=True)) as again:
        again.restore(*parts, again.begin())
        assert again.progress.step == 2
        step(again)
        again.save(*parts, {})
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == ["arguments.json", "step-2", "step-3"]


def test_the_seed_of_a_step_is_its_own():
    seeds = {step_seed(seed, step, rank) for seed in range(20) for step in range(50) for rank in range(2)}
    assert len(seeds) == 2000 and step_seed(3, 5) == step_seed(3, 5) and max(seeds) >= 2**63
    torch.manual_seed(max(seeds))  # torch takes 64 bits


def test_full_precision_is_a_copy_of_what_the_optimizer_knows():
    model = Small()
    optimizer = AdamW(model.parameters(), master_weights=True)
    model.to(torch.bfloat16)
    model.p.grad = torch.full((3,), 1e-3, dtype=torch.bfloat16)
    optimizer.step()
    kept = full_precision(model, optimizer)["p"]
    assert kept.dtype == torch.float32 and not torch.equal(kept, model.p.float())
    expected = kept.clone()
    optimizer.step()
    assert torch.equal(kept, expected)
    load_weights(model, {"p": torch.tensor([5.0, 6.0, 7.0])})
    assert model.p.tolist() == [5.0, 6.0, 7.0] and model.p.dtype == torch.bfloat16


# ---- who may write there


def test_a_directory_in_which_another_process_trains_is_refused(finished, tmp_path):
    holder = (
        "import fcntl, sys; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        for flag in ("--seed=0", "--overwrite", "--resume"):
            with pytest.raises(UserError, match=r"--output_dir .* another process is training there"):
                train_cls.main([*finished.flags, "--output_dir", str(tmp_path), flag])
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        other.communicate("\n")
    with Run(arguments(tmp_path)):  # the kernel let go of it when the process ended
        pass


def test_the_lock_is_held_during_a_run_and_released_after_it_even_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), Run(arguments(tmp_path)):
        with open(tmp_path / ".lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise ZeroDivisionError
    with Run(arguments(tmp_path)):
        pass


def test_a_downloaded_model_in_the_output_directory_counts_as_a_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with Run(arguments(tmp_path)) as run, pytest.raises(UserError, match="--overwrite"):
        run.begin()
    assert (tmp_path / "config.json").read_text() == "{}"


def test_overwrite_removes_what_the_old_run_had_and_keeps_other_files(finished, tmp_path):
    shutil.copytree(finished.directory, tmp_path / "run")
    for name in ("notes.txt", "calibration.json", "calibration-sst2.json", "eval-toy.json", "eval-toy.svg"):
        (tmp_path / "run" / name).write_text("{}")
    (tmp_path / "run" / "checkpoint" / ".arguments.json.7.part").write_text("{")  # of a process that was killed
    with Run(arguments(tmp_path / "run", overwrite=True)) as run:
        opened(run)
    left = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*")}
    assert left == {".lock", "checkpoint", "checkpoint/arguments.json", "notes.txt"}


MISTYPED = pytest.mark.parametrize("flags", ["--data nowhere.jsonl", "--model nowhere", "--max_length 9999"])


@MISTYPED
def test_a_mistyped_flag_beside_overwrite_does_not_cost_the_old_run(finished, tmp_path, flags):
    shutil.copytree(finished.directory, tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(UserError):
        train_cls.main([*finished.flags, "--output_dir", str(tmp_path / "run"), "--overwrite", *flags.split()])
    assert contents(tmp_path) == before


@MISTYPED
def test_after_a_mistyped_flag_nothing_is_left_and_the_right_command_is_not_refused(finished, tmp_path, flags):
    with pytest.raises(UserError):
        train_cls.main([*finished.flags, "--output_dir", str(tmp_path / "p" / "q"), *flags.split()])
    assert os.listdir(tmp_path) == []
    with Run(arguments(tmp_path / "p" / "q")) as run:
        opened(run)


def test_a_run_may_be_overwritten_by_one_that_starts_from_it(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("distilbert.run.draw_curves", lambda *_: False)
    shutil.copytree(finished.directory, tmp_path / "run")
    directory = str(tmp_path / "run")
    train_cls.main([*finished.flags, "--model", directory, "--output_dir", directory, "--overwrite", "--max_steps", "1"])
    found = record(tmp_path / "run")
    assert found["metrics"]["test"]["accuracy"] > 0.9  # it did start from what had learnt
    weights = hashlib.sha256((finished.directory / "model.safetensors").read_bytes()).hexdigest()
    assert found["revision"] == f"sha256:{weights}"


def test_a_resumed_run_names_the_weights_it_started_from_whatever_stands_there_now(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("distilbert.run.draw_curves", lambda *_: False)
    start = shutil.copytree(finished.directory, tmp_path / "start")
    flags = [*finished.flags, "--model", str(start), "--output_dir", str(tmp_path / "run")]
    train_cls.main([*flags, "--max_steps", "2"])
    before = record(tmp_path / "run")["revision"]
    shutil.copy(tmp_path / "run" / "model.safetensors", start)
    train_cls.main([*flags, "--max_steps", "3", "--resume"])
    assert record(tmp_path / "run")["revision"] == before


def test_a_run_that_overwrites_its_own_start_can_be_resumed(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("distilbert.run.draw_curves", lambda *_: False)
    shutil.copytree(finished.directory, tmp_path / "run")
    flags = [*finished.flags, "--model", str(tmp_path / "run"), "--output_dir", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_cls.main([*flags, "--overwrite", "--num_train_epochs", "1"])
    assert not (tmp_path / "run" / "run.json").exists()
    train_cls.main([*flags, "--resume", "--num_train_epochs", "1"])
    assert record(tmp_path / "run")["steps"] == 8


def test_files_that_are_not_a_runs_are_not_replaced_unasked(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    for flags in ({}, {"resume": True}):
        with Run(arguments(tmp_path, **flags)) as run, pytest.raises(UserError, match="files that a run would replace"):
            run.begin()
    assert (tmp_path / "README.md").read_text() == "mine" and len(os.listdir(tmp_path)) == 1
    with pytest.raises(UserError, match="--output_dir is empty"):
        Run(train_cls.Arguments(output_dir=""))


def test_resume_where_a_killed_run_left_its_log_alone_starts_fresh_and_no_other_flag_does(tmp_path, capsys):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    with Run(arguments(tmp_path)) as run, pytest.raises(UserError, match="already holds a run"):
        run.begin()
    with Run(arguments(tmp_path, resume=True)) as run:
        opened(run)
        assert "no checkpoint in" in capsys.readouterr().out and (tmp_path / "log.jsonl").exists() is False


@pytest.mark.parametrize("name", [".lock", "log.jsonl"])
def test_a_link_in_a_strangers_run_directory_is_not_written_through(finished, tmp_path, name):
    shutil.copytree(finished.directory, tmp_path / "run")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match=r"can't be written to|is a link, expected a file"):
        train_cls.main([*finished.flags, "--num_train_epochs", "9", "--output_dir", str(tmp_path / "run"), "--resume"])
    assert (tmp_path / "mine").read_text() == "mine" and contents(tmp_path / "run") == before


def test_a_run_clears_up_after_itself_and_no_other(tmp_path):
    for folder in ("checkpoint", "another/checkpoint"):
        (tmp_path / folder / ".step-4.part").mkdir(parents=True)
    with Run(arguments(tmp_path)) as run:
        opened(run)
    assert not (tmp_path / "checkpoint" / ".step-4.part").exists() and (tmp_path / "another/checkpoint/.step-4.part").exists()


def test_a_strangers_unfinished_files_and_checkpoints_stay(tmp_path):
    mine = tmp_path / ".report.docx.part", tmp_path / ".album.part" / "song.mp3", tmp_path / "checkpoint" / ".video.part"
    for path in (*mine, tmp_path / ".run.json.123.part"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with Run(arguments(tmp_path)) as run:
        opened(run)
    assert all(path.exists() for path in mine) and not (tmp_path / ".run.json.123.part").exists()
    weights = tmp_path / "other" / "checkpoint" / "step-4" / "weights"
    weights.parent.mkdir(parents=True)
    weights.write_text("mine")
    with Run(arguments(tmp_path / "other")) as run, pytest.raises(UserError, match="--overwrite"):
        run.begin()
    assert weights.exists()


def test_checkpoints_of_a_former_run_go_even_where_the_folder_is_a_link(finished, tmp_path):
    shutil.copytree(finished.directory, tmp_path / "run")
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "disk")
    (tmp_path / "run" / "checkpoint").symlink_to(tmp_path / "disk")
    with Run(arguments(tmp_path / "run", overwrite=True)) as run:
        opened(run)
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["arguments.json"]


@pytest.mark.parametrize(("model", "kept"), [("owner/name", "owner/name"), ("/home/me/mlm", "mlm"), ("../mlm", "mlm")])
def test_a_record_names_a_hub_id_whole_and_of_a_path_the_last_part(model, kept):
    flags = vars(train_cls.Arguments(model=model, data="/home/me/films.csv", output_dir="runs/cls"))
    found = without_paths(flags)
    assert (found["model"], found["data"], found["output_dir"]) == (kept, "films.csv", "cls")


def test_the_log_is_on_the_disk_before_the_checkpoint_that_knows_its_length(tmp_path, monkeypatch):
    with Run(arguments(tmp_path)) as run:
        parts, done = opened(run), []
        monkeypatch.setattr("distilbert.run.os.fsync", lambda _: done.append("log"))
        monkeypatch.setattr("distilbert.run.write_checkpoint", lambda *_: done.append("checkpoint"))
        run.save(*parts, {})
    assert done == ["log", "checkpoint"]


@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: raw[:-20] + b"\0" * 20], ids=["cut", "zeros"])
def test_resume_after_a_power_cut_goes_on_behind_the_last_whole_line(finished, tmp_path, damage):
    shutil.copytree(finished.directory, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "log.jsonl").write_bytes(damage((tmp_path / "run" / "log.jsonl").read_bytes()))
    train_cls.main([*finished.flags, "--output_dir", str(tmp_path / "run"), "--resume", "--num_train_epochs", "4"])
    assert log(tmp_path / "run")[-1]["epoch"] == 4 and len(log(tmp_path / "run")) > len(log(finished.directory))


def test_a_log_that_came_back_shorter_is_not_remembered_as_longer(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st')
    with Run(arguments(tmp_path)) as run:
        assert run.place.clear("scratch-tiny", False, 7, log_bytes=100) == len('{"step": 1}\n')
    with Run(arguments(tmp_path)) as run:
        assert run.place.clear("scratch-tiny", False, 7, log_bytes=12) == 12


@pytest.mark.parametrize("kind", [UserError, ValueError, OSError])  # the last two are matplotlib's, of odd settings
def test_a_run_is_finished_where_its_curves_cannot_be_drawn(finished, tmp_path, monkeypatch, capsys, kind):
    def fail(*_):
        raise kind("log.jsonl: not a whole log")

    monkeypatch.setattr("distilbert.run.draw_curves", fail)
    train_cls.main([*finished.flags, "--output_dir", str(tmp_path / "run"), "--max_steps", "1"])
    assert (tmp_path / "run" / "run.json").exists() and "no curves.svg: log.jsonl: not a whole log" in capsys.readouterr().out


def test_a_run_whose_pipe_ends_by_the_same_ctrl_c_goes_on_to_save(tmp_path, monkeypatch):
    pipes = [os.pipe() for _ in range(2)]
    for reader, _ in pipes:
        os.close(reader)
    with open(pipes[0][1], "w") as error, open(pipes[1][1], "w") as output, Run(arguments(tmp_path)) as run:
        opened(run)
        monkeypatch.setattr(sys, "stderr", error)
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(BrokenPipeError):
            run.say("nobody reads it, and nobody has stopped the run")
        run._stop(signal.SIGINT, None)
        assert run.checkpoint_is_due(False)
        run.say("saved")


@pytest.mark.parametrize(("stopped", "ends"), [(True, SystemExit), (False, InductorError)])
def test_a_compiler_that_the_same_ctrl_c_ended_is_no_failure_of_its_own(tmp_path, stopped, ends):
    with pytest.raises(ends), Run(arguments(tmp_path)) as run:
        if stopped:
            run._stop(signal.SIGINT, None)
        raise InductorError(RuntimeError("killed"), None)


def test_what_was_measured_of_the_weights_before_does_not_stand_beside_the_new_ones(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished.directory, tmp_path / "run")
    written, finish = [run / "eval-toy.json", run / "calibration.json"], Run.finish

    def measured_before(*args):
        for path in written:
            path.write_text("{}")
        finish(*args)

    monkeypatch.setattr(Run, "finish", measured_before)
    train_cls.main([*finished.flags, "--output_dir", str(run), "--resume", "--num_train_epochs", "4"])
    assert (run / "run.json").exists() and not any(path.exists() for path in written)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fills a pipe as large as Linux's")
def test_a_signal_while_a_full_pipe_is_waited_for_is_answered(tmp_path, monkeypatch):
    """Python's buffer refuses a signal handler that prints while the print before it still waits."""
    reader, writer = os.pipe()
    with open(writer, "w") as error, Run(arguments(tmp_path)) as run:
        opened(run)
        monkeypatch.setattr(sys, "stderr", error)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        print("x" * 1_000_000, file=sys.stderr, flush=True)  # more than the pipe takes
        assert run.checkpoint_is_due(False)
    os.close(reader)


def test_a_resumed_run_says_that_other_processes_and_threads_round_otherwise(tmp_path, monkeypatch, capsys):
    with Run(arguments(tmp_path)) as run:
        parts = opened(run)
        step(run)
        run.save(*parts, {})
    Run(arguments(tmp_path, resume=True)).begin()
    assert "computed by" not in capsys.readouterr().out
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    Run(arguments(tmp_path, resume=True)).begin()
    said = f"computed by 1 processes of {threads} threads so far, and now by 1 of {threads + 1}: sums"
    assert said in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at Linux's list of mapped files")
def test_a_resumed_run_lets_go_of_the_checkpoint_that_it_read(tmp_path):
    with Run(arguments(tmp_path)) as run:
        parts = opened(run)
        step(run)
        run.save(*parts, {"p": torch.ones(3)})
    again = Run(arguments(tmp_path, resume=True))
    tensors = again.begin()
    assert set(tensors) == {"model/p", "best/p"} and "tensors.safetensors" not in Path("/proc/self/maps").read_text()
    assert again.restore(*parts, tensors)["p"].tolist() == [1, 1, 1] and not tensors


def test_a_step_that_is_a_link_is_removed_and_not_followed(finished, tmp_path):
    run = shutil.copytree(finished.directory, tmp_path / "run")
    (tmp_path / "mine").mkdir()
    for name in ("step-99", ".step-99.part"):
        (run / "checkpoint" / name).symlink_to(tmp_path / "mine")
    with Run(arguments(run, overwrite=True)) as fresh:
        opened(fresh)
    assert (tmp_path / "mine").exists() and os.listdir(run / "checkpoint") == ["arguments.json"]


def test_a_run_of_any_name_stands_in_the_legend(finished, tmp_path, monkeypatch):
    shutil.copytree(finished.directory, tmp_path / "_try")
    monkeypatch.chdir(tmp_path / "_try")
    seen = []
    monkeypatch.setattr(Axes, "legend", lambda panel: seen.extend(panel.get_legend_handles_labels()[1]))
    draw_curves([tmp_path / "_try", Path(".")], tmp_path / "curves.svg")
    assert [name.strip() for name in seen] == ["_try", "_try"]


def test_a_run_whose_name_is_no_mathematics_is_drawn_and_finished(finished, tmp_path):
    directory = tmp_path / "$a_2_2$"
    train_cls.main([*finished.flags, "--output_dir", str(directory), "--max_steps", "1"])
    assert (directory / "run.json").exists() and (directory / "curves.svg").exists()


def test_a_run_that_is_being_replaced_is_no_finished_run_from_the_first_moment(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished.directory, tmp_path / "run")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("distilbert.directory.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        train_cls.main([*finished.flags, "--output_dir", str(run), "--overwrite"])
    assert not (run / "run.json").exists() and list(run.glob("checkpoint/step-*"))


def test_resume_without_its_log_gives_a_log_that_can_be_read(finished, tmp_path):
    shutil.copytree(finished.directory, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "log.jsonl").unlink()
    train_cls.main([*finished.flags, "--output_dir", str(tmp_path / "run"), "--resume"])
    assert b"\0" not in (tmp_path / "run" / "log.jsonl").read_bytes()


# ---- a full disk


def ends_with(capsys, function, *args) -> tuple[int, str]:
    """Exit status and stderr of a program whose body is `function`."""
    with pytest.raises(SystemExit) as stopped, cli.user_errors():
        function(*args)
    return stopped.value.code, capsys.readouterr().err


def test_a_full_disk_ends_a_run_with_two_lines_and_whole_files(finished, tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Run(arguments(tmp_path)) as run:
        parts = opened(run)
        step(run)
        run.save(*parts, {})
        monkeypatch.setattr(files.os, "fsync", full)
        step(run)
        status, said = ends_with(capsys, run.save, *parts, {})
    assert status == 2 and "disk is full" in said and "--resume" in said and len(said.splitlines()) <= 2
    assert load_file(tmp_path / "checkpoint" / "step-1" / "tensors.safetensors").keys() == {"model/p"}
    assert not (tmp_path / "checkpoint" / "step-2").exists()


def test_a_disk_that_fills_up_while_tensors_are_written_ends_a_run_with_two_lines(tmp_path, monkeypatch, capsys):
    def full(*_, **__):  # as safetensors 0.8.0 raises it on a full file system
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with Run(arguments(tmp_path)) as run:
        parts = opened(run)
        step(run)
        status, said = ends_with(capsys, run.save, *parts, {})
    assert status == 2 and "disk is full" in said


# ---- card, curves, machine


def front_matter(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_has_the_front_matter_of_the_hub_and_the_records_own_numbers(finished):
    text, found = (finished.directory / "README.md").read_text(), record(finished.directory)
    header = front_matter(text)
    assert header["pipeline_tag"] == "text-classification" and header["library_name"] == "transformers"
    (model,) = header["model-index"]
    (result,) = model["results"]
    assert (model["name"], result["dataset"]["name"], result["task"]["type"]) == ("judge", "toy.jsonl", "text-classification")
    stated = {metric["type"]: metric["value"] for metric in result["metrics"]}
    test = found["metrics"]["test"]
    assert stated == {name: pytest.approx(test[name], abs=5e-5) for name, value in test.items() if isinstance(value, float)}
    assert {"accuracy", "precision", "recall", "f1", "roc_auc", "loss"} <= stated.keys()
    for heading in ("## Test results (16 texts", "## Intended use", "## Out of scope", "## Limits", "## Training"):
        assert heading in text
    low, high = test["accuracy_interval"]
    assert f"{low:.4f} to {high:.4f}" in text
    (_, false_positive), (false_negative, _) = test["confusion_matrix"]
    wrong = round((1 - test["accuracy"]) * 16)
    mistakes = (
        f"Of 16 test texts it judged {wrong} wrong: {false_positive} negative ones as\npositive, {false_negative} positive"
    )
    assert mistakes in text and f"off by {test['ece']:.4f} on average" in text
    for name, value in found["arguments"].items():
        assert f"| {name} | {value} |" in text
    assert "train 128, validation 16, test 16, dropped duplicates 0" in text


def test_the_card_counts_the_mistakes_of_either_kind(finished):
    found = record(finished.directory)
    found["metrics"]["test"]["confusion_matrix"] = [[6, 2], [1, 7]]
    text = model_card(found, "DistilBertForSequenceClassification")
    assert "Of 16 test texts it judged 3 wrong: 2 negative ones as\npositive, 1 positive ones as negative." in text


def test_the_card_of_a_linear_head_says_what_transformers_can_do_with_it(finished):
    found = record(finished.directory)
    text = model_card(found, "DistilBertForSequenceClassification")
    assert "Auto model classes; the classifier there in float32 and to judge,\nnot to train further.\n" in text
    found["arguments"]["classifier_head"] = "pre_classifier"
    assert "Auto model classes.\n" in model_card(found, "DistilBertForSequenceClassification")


def test_the_card_speaks_of_film_reviews_only_where_they_were_read(finished):
    found = record(finished.directory)
    assert "judging whether a text like those of `toy.jsonl` is" in model_card(found, "DistilBertForSequenceClassification")
    found["arguments"]["data"] = "aclImdb_v1.tar.gz"
    assert "judging whether an English film review is" in model_card(found, "DistilBertForSequenceClassification")


def test_the_card_leaves_out_what_is_no_number_and_a_language_that_nobody_told(finished):
    found = record(finished.directory)
    found["metrics"]["test"]["precision"] = math.nan  # nothing was judged positive
    header = front_matter(text := model_card(found, "DistilBertForSequenceClassification"))
    (result,) = header["model-index"][0]["results"]
    assert "precision" not in {metric["type"] for metric in result["metrics"]} and "nan" not in text
    assert "language" not in header
    found["arguments"]["data"] = "sample"
    assert front_matter(model_card(found, "DistilBertForSequenceClassification"))["language"] == "en"


def test_the_card_and_the_record_tell_how_long_it_was_trained(finished):
    found, last = record(finished.directory), json.loads((finished.directory / "log.jsonl").read_text().splitlines()[-1])
    assert (found["steps"], found["epochs"]) == (last["step"], last["epoch"])
    assert f"{found['steps']} steps, {found['epochs']} whole epochs" in (finished.directory / "README.md").read_text()


def test_the_card_is_one_that_the_hubs_own_library_reads(finished):
    from huggingface_hub import ModelCard

    card = ModelCard.load(finished.directory / "README.md")
    assert {result.metric_type for result in card.data.eval_results} >= {"accuracy", "f1"}
    assert {result.dataset_name for result in card.data.eval_results} == {"toy.jsonl"}


def test_the_card_of_a_masked_language_model_speaks_of_hidden_words(finished):
    found = record(finished.directory) | {"metrics": {"test": {"n": 7, "perplexity": 8.5, "loss": 2.25}}}
    text = model_card(found, "DistilBertForMaskedLM")
    assert front_matter(text)["pipeline_tag"] == "fill-mask" and "hidden words" in text
    assert "| perplexity | 8.5000 |" in text and "95%" not in text
    assert "judged" not in text  # nothing was


@pytest.mark.parametrize("name", ["try: two", "2026", "[draft]", "#1"])
def test_a_runs_name_is_a_string_in_the_front_matter_whatever_it_is(finished, name):
    found = record(finished.directory)
    found["arguments"] |= {"output_dir": name, "data": name}
    (model,) = front_matter(model_card(found, "DistilBertForSequenceClassification"))["model-index"]
    assert model["name"] == model["results"][0]["dataset"]["name"] == name


def test_the_curves_of_two_runs_are_drawn_with_their_names(finished, tmp_path):
    for name in ("plain", "fancy"):
        shutil.copytree(finished.directory, tmp_path / name, ignore=shutil.ignore_patterns("checkpoint", "*.safetensors"))
    assert draw_curves([tmp_path / "plain", tmp_path / "fancy"], tmp_path / "both.svg")
    picture = (tmp_path / "both.svg").read_text()
    assert picture.startswith("<?xml") and "<!-- plain -->" in picture and "<!-- fancy -->" in picture
    for words in ("loss", "validation accuracy", "learning rate", "speed", "optimizer step", "real tokens per second"):
        assert f"<!-- {words} -->" in picture
    assert (finished.directory / "curves.svg").read_text().startswith("<?xml")


def test_curves_of_a_log_with_half_a_line_are_refused_in_words(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    with pytest.raises(UserError, match=r"log\.jsonl: not a whole log"):
        draw_curves([tmp_path], tmp_path / "curves.svg")
    assert not (tmp_path / "curves.svg").exists()


def test_the_curves_are_the_lines_of_the_log(finished, tmp_path, monkeypatch):
    drawn, panels = [], []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda axes, x, y, **_: drawn.append((x, y)) or panels.append(axes))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda _: None)
    draw_curves([finished.directory], tmp_path / "curves.svg")
    titles = ["loss", "loss", "validation accuracy", "learning rate", "speed"]
    assert [axes.get_title() for axes in panels] == titles
    training = [line for line in log(finished.directory) if "loss" in line]
    evaluations = [line for line in log(finished.directory) if "eval_loss" in line]
    speed = [line["tokens"] / line["seconds"] for line in training]
    steps = [line["step"] for line in training]
    assert drawn == [
        (steps, [line["loss"] for line in training]),
        ([8, 16, 24], [line["eval_loss"] for line in evaluations]),
        ([8, 16, 24], [line["eval_accuracy"] for line in evaluations]),
        (steps, [line["learning_rate"] for line in training]),
        (steps, speed),
    ]


def test_the_curves_of_a_masked_lm_show_perplexity_and_masked_accuracy(tmp_path, monkeypatch):
    second, scale = Axes.secondary_yaxis, []
    monkeypatch.setattr(
        Axes, "secondary_yaxis", lambda axes, *at, functions: scale.extend(functions) or second(axes, *at, functions=functions)
    )
    losses = [(0, 10.3), (7, 5.1), (14, 4.2)]
    lines = [{"step": step, "epoch": 0, "eval_loss": loss, "eval_masked_accuracy": 1 / loss} for step, loss in losses]
    lines += [{"step": 7, "epoch": 0, "loss": 6.0, "learning_rate": 0.1, "grad_norm": 1.0, "tokens": 5, "seconds": 1.0}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert draw_curves([tmp_path], tmp_path / "curves.svg")
    picture = (tmp_path / "curves.svg").read_text()
    assert "<!-- perplexity -->" in picture and "<!-- validation accuracy -->" in picture
    there, back = scale
    assert there(2.0) == pytest.approx(math.exp(2)) and back(there(2.0)) == pytest.approx(2.0)


def test_curves_survive_a_nan_in_the_log(tmp_path):
    lines = [
        {"step": 1, "epoch": 0, "loss": None, "learning_rate": 0.1, "grad_norm": None, "tokens": 5, "seconds": 0.0},
        {"step": 1, "epoch": 0, "eval_loss": None, "eval_accuracy": None},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert draw_curves([tmp_path], tmp_path / "curves.svg")


def test_without_matplotlib_nothing_is_drawn_and_nothing_breaks(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw_curves([finished.directory], tmp_path / "curves.svg") is False
    assert not (tmp_path / "curves.svg").exists()


def test_the_curves_program_draws_the_runs_that_it_is_given(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["curves", str(finished.directory)])
    curves.main()
    assert "<!-- judge -->" in (tmp_path / "curves.svg").read_text() and capsys.readouterr().out == "wrote curves.svg\n"


def test_the_curves_program_says_how_it_is_used(tmp_path, monkeypatch):
    for names in ([], [str(tmp_path)]):
        monkeypatch.setattr(sys, "argv", ["curves", *names])
        with pytest.raises(UserError, match=r"log\.jsonl"):
            curves.main()


def test_the_machine_is_kinds_and_counts(monkeypatch):
    monkeypatch.setattr("platform.node", lambda: pytest.fail("asked for the host's name"))
    found = machine()
    assert found.keys() == {"system", "processor", "threads", "gpu"} and isinstance(found["threads"], int)


def test_of_gpus_the_record_and_the_card_name_the_one_that_was_used(finished, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A100")
    assert [machine(device)["gpu"] for device in ("cpu", "cuda", "mps")] == [None, "A100", "Apple GPU"]
    found = record(finished.directory)
    used = found["machine"]
    for gpu, where in ((None, f"{used['processor']}, {used['threads']} threads"), ("A100", "A100")):
        card = model_card(found | {"machine": used | {"gpu": gpu}}, "DistilBertForSequenceClassification")
        assert f" seconds of training\non {where};\n" in card


@pytest.mark.parametrize(
    ("device", "batch_size", "kind", "terms"),
    [
        *(("mps", 64, DistilBertForSequenceClassification, "32,768"), ("mps", 63, DistilBertForSequenceClassification, "")),
        *(("cpu", 64, DistilBertForSequenceClassification, ""), ("mps", 1, DistilBertForMaskedLM, "40,000")),
    ],
)
def test_sums_that_a_macs_gpu_may_get_wrong_are_warned_of(tmp_path, capsys, monkeypatch, device, batch_size, kind, terms):
    moved = []  # to a Mac's GPU that computes as the CPU does
    monkeypatch.setattr(nn.Module, "to", lambda model, device: moved.append(device) or model)
    DistilBertForMaskedLM(our_config(vocab_size=40_000, max_position_embeddings=512)).save_pretrained(tmp_path)
    Tokenizer.from_texts(["a film"]).save_pretrained(tmp_path)
    given = {"model": str(tmp_path), "device": device, "batch_size": batch_size, "max_length": 512}
    starting_point(kind, TrainingArguments(precision="fp32", **given), [])
    said = capsys.readouterr().err
    assert (f"--device mps: a gradient here is a product over up to {terms} terms" in said) == bool(terms)
    assert ("--device mps" in said) == bool(terms)
    assert moved == ["mps"] * (device == "mps"), "compared with the CPU before it trains"


class LosesItsBias(torch.autograd.Function):
    """Adds a bias, whose gradient then gets lost."""

    @staticmethod
    def forward(context, x, bias):
        return x + bias

    @staticmethod
    def backward(context, upstream):
        return upstream, torch.zeros(upstream.shape[-1])


@pytest.mark.parametrize("kind", [DistilBertForSequenceClassification, DistilBertForMaskedLM])
def test_a_macs_gpu_that_computes_otherwise_than_the_cpu_is_refused(monkeypatch, kind):
    """The device is the CPU here, with a layer broken once the model has moved."""
    model, breaks = randomise(kind(our_config(vocab_size=200))).train(), {}

    def move(network, device):
        linear = network.encoder.blocks[0].feed_forward.expand
        linear.forward = breaks.get(device, linear.forward).__get__(linear)
        return network

    monkeypatch.setattr(nn.Module, "to", move)
    check_device(model, "mps")  # dropout is off, and nothing is broken
    assert model.training and all(p.grad is None for p in model.parameters())
    breaks["mps"] = lambda self, x: x @ self.weight.T + 0 * self.bias
    check_device(model, "cuda")  # which torch's own tests cover
    with pytest.raises(UserError, match=r"--device mps: this GPU and this torch get outputs wrong, by \d+% .* --device cpu"):
        check_device(model, "mps")
    breaks["mps"] = lambda self, x: LosesItsBias.apply(x @ self.weight.T, self.bias)
    with pytest.raises(UserError, match=r"get the gradients of encoder.blocks.0.feed_forward.expand.bias wrong, by 100%"):
        check_device(model, "mps")
    breaks["mps"] = lambda self, x: x @ self.weight.T + math.nan * self.bias
    with pytest.raises(UserError, match=r"get outputs wrong, by nan%"):
        check_device(model, "mps")


@pytest.mark.parametrize(("precision", "steps", "refused"), [("bf16", 65, True), ("bf16", 64, False), ("fp32", 65, False)])
def test_more_batches_a_step_than_bf16_gradients_can_add_up_are_refused(precision, steps, refused):
    given = TrainingArguments(model="scratch-tiny", precision=precision, gradient_accumulation_steps=steps)
    expected = pytest.raises(UserError, match=r"--gradient_accumulation_steps 65: .* use 64 at most, or --precision fp32")
    with expected if refused else contextlib.nullcontext():
        starting_point(DistilBertForSequenceClassification, given, ["a film"])


def test_a_fresh_progress_is_all_zeros():
    assert not any(asdict(Progress()).values())


def test_a_progress_bar_is_drawn_on_a_terminal_only(tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(
        "distilbert.log.tqdm",
        lambda **options: SimpleNamespace(n=0, update=drawn.append, set_postfix_str=drawn.append, close=lambda: None),
    )
    with Run(arguments(tmp_path)) as run:
        opened(run)
        for terminal in (False, True):
            monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
            step(run)
            run.log_training(9, 1e-3)
            assert ("/9  loss" in capsys.readouterr().err) == (not terminal) and bool(drawn) == terminal
