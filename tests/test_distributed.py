"""Several processes under torchrun: with dropout 0 the numbers of one process, whatever the shares."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, write_toy_corpus
from safetensors.torch import load_file

import train_cls
import train_mlm
from distilbert.distributed import Workers
from distilbert.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FLAGS = [*TINY, "--dropout", "0", "--logging_steps", "1", "--device", "cpu", "--num_train_epochs", "2"]


@contextlib.contextmanager
def launched(processes: int, *command: str):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = start if processes > 1 else [sys.executable]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": os.devnull}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen([*start, *command], cwd=ROOT, env=environment, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # none is left, as it should be
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_lines(process: subprocess.Popen, directory: Path, lines: int) -> None:
    """Until the log has so many; a minute at most."""
    for _ in range(1_200):
        assert process.poll() is None
        if (directory / "log.jsonl").exists() and len(log(directory)) >= lines:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {lines} lines of log in a minute")


def run(processes: int, *command: str) -> str:
    with launched(processes, *command) as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def log(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    for expected, found in zip(log(one), log(other), strict=True):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            relative = 1e-6 if key == "eval_perplexity" else 0  # 1e-6 of the loss, whose exponential it is
            assert found[key] == (pytest.approx(value, rel=relative, abs=1e-6) if isinstance(value, float) else value)
    expected, found = (load_file(directory / "model.safetensors") for directory in (one, other))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_the_shares_of_a_batch_are_the_batch(monkeypatch):
    workers, batch = Workers(), np.array([5, 3, 8, 1, 9])
    shares = []
    for workers.rank, workers.size in ((0, 3), (1, 3), (2, 3)):
        shares.append(workers.share(batch).tolist())
    assert shares == [[5, 1], [3, 9], [8]]


def test_one_process_alone_communicates_nothing():
    workers, model = Workers(), torch.nn.Linear(2, 2)
    assert (workers.rank, workers.size) == (0, 1) and not torch.distributed.is_initialized()
    assert workers.total(3, 5) == [3, 5] and workers.largest(7) == 7
    assert workers.add_up(model, 0.5) == 0.5 and model.weight.grad is None
    assert workers.share(np.arange(4)).tolist() == [0, 1, 2, 3]
    workers.leave()


def test_sums_are_in_fp32_and_of_zeros_for_an_empty_share_and_the_largest_number_is_no_sum(monkeypatch):
    asked, workers, model = [], Workers(), torch.nn.Linear(2, 2).bfloat16()
    monkeypatch.setattr(workers, "size", 2)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda tensor, *how: asked.append((tensor.dtype, *how)) or tensor.mul_(2)
    )
    model.weight.grad = torch.ones_like(model.weight)  # the bias has none
    assert workers.add_up(model, 0.5) == 1.0
    workers.total(3)
    workers.largest(3)
    operations = torch.distributed.ReduceOp
    assert asked == [(torch.float32,)] * 2 + [(torch.int64, operations.SUM), (torch.int64, operations.MAX)]
    assert (model.weight.grad == 2).all() and (model.bias.grad == 0).all() and model.bias.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("script", [train_cls, train_mlm])
def test_a_process_whose_share_of_a_step_is_empty_takes_it_in_fp16_too(tmp_path, monkeypatch, script):
    def add_up(workers, model, loss):  # the others' gradients
        assert all(p.grad is None for p in model.parameters())
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        return loss + 1

    monkeypatch.setattr(Workers, "share", lambda workers, batch: batch[:0])
    monkeypatch.setattr(Workers, "total", lambda workers, *counts: [5, 50])
    monkeypatch.setattr(Workers, "add_up", add_up)
    flags = ["--data", str(write_toy_corpus(tmp_path / "toy.jsonl", 50)), *FLAGS, "--precision", "fp16", "--max_steps", "2"]
    script.main([*flags, "--output_dir", str(tmp_path / "run")])
    assert [line["loss"] for line in log(tmp_path / "run") if "loss" in line] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("device", "local", "expected"),
    [
        ("auto", "2", UserError),
        ("cuda", "2", UserError),
        ("cpu", "2", ([], "gloo")),
        ("auto", "1", ([0], "cpu:gloo,cuda:nccl")),  # two machines with a GPU each
    ],
)
def test_each_process_has_a_gpu_of_its_own_or_none(monkeypatch, device, local, expected):
    taken, groups = [], []
    torchruns = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": local, "LOCAL_RANK": "0"}
    for name, value in (torchruns | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("distilbert.distributed.has_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", groups.append)
    if expected is UserError:
        with pytest.raises(UserError, match=r"2 processes .* --nproc-per-node 1, or --device cpu"):
            Workers(device)
        assert groups == []
    else:
        Workers(device)
        assert (taken, *groups) == expected


@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_number_of_processes_without_torchrun_is_refused(monkeypatch, missing):
    for name, value in {"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(UserError, match=f"{missing} is not set: start them by torchrun .*unset WORLD_SIZE"):
        Workers("cpu")


def test_an_empty_number_of_processes_is_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "")
    assert Workers("cpu").size == 1


@pytest.mark.parametrize("script", ["train_cls.py", "train_mlm.py"])
def test_two_processes_give_the_numbers_of_one(tmp_path, script):
    # 41 texts in batches of 5 with two to a step: unequal shares, a last batch of one (an empty share), unequal label counts
    corpus = write_toy_corpus(tmp_path / "toy.jsonl", 51)
    flags = [
        "--data",
        str(corpus),
        *FLAGS,
        "--batch_size",
        "5",
        "--gradient_accumulation_steps",
        "2",
        "--learning_rate",
        "5e-4",
    ]
    for processes in (1, 2):
        output = run(processes, script, *flags, "--output_dir", str(tmp_path / f"of-{processes}"))
        assert output.count("0 dropped") == 1  # only one of them speaks
    assert_same_run(tmp_path / "of-1", tmp_path / "of-2")


NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the workers are found in Linux's /proc")


def workers_of(process: subprocess.Popen) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            state_parent = path.read_text().rpartition(")")[2].split()[:2]  # behind the name, in which anything may stand
            found += [int(path.parent.name)] if int(state_parent[1]) == process.pid else []
    return found


@pytest.mark.slow
@NEEDS_PROC
@pytest.mark.parametrize("script", ["train_cls.py", "train_mlm.py"])
@pytest.mark.parametrize("signalled", ["both", "one"])
def test_two_processes_stop_at_one_step_and_resume(tmp_path, script, signalled):
    corpus = write_toy_corpus(tmp_path / "toy.jsonl", 400)
    flags = ["--data", str(corpus), *FLAGS, "--num_train_epochs", "4", "--max_steps", "60", "--learning_rate", "5e-4"]
    run(2, script, *flags, "--output_dir", str(tmp_path / "whole"))
    with launched(2, script, *flags, "--output_dir", str(tmp_path / "cut")) as process:
        wait_for_lines(process, tmp_path / "cut", 10)
        if signalled == "one":
            os.kill(max(workers_of(process)), signal.SIGTERM)
        else:
            process.send_signal(signal.SIGTERM)  # torchrun hands it to its processes
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "with --resume" in output  # torchrun itself ends with a traceback of its own
    done = sum("tokens" in line for line in log(tmp_path / "cut"))
    assert done < 60
    assert f"resuming after step {done}" in run(2, script, *flags, "--output_dir", str(tmp_path / "cut"), "--resume")
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (tmp_path / "cut" / "model.safetensors").read_bytes()


@pytest.mark.slow
@NEEDS_PROC
def test_a_process_that_dies_ends_the_others(tmp_path):
    corpus = write_toy_corpus(tmp_path / "toy.jsonl", 400)
    flags = ["--data", str(corpus), *FLAGS, "--max_steps", "100000", "--output_dir", str(tmp_path / "x")]
    with launched(2, "train_cls.py", *flags) as process:
        wait_for_lines(process, tmp_path / "x", 1)
        children = workers_of(process)
        os.kill(max(children), signal.SIGKILL)
        process.communicate(timeout=90)
    assert len(children) == 2
    assert process.returncode != 0 and not any(Path(f"/proc/{child}").exists() for child in children)
