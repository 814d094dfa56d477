"""A wrong flag, file or model gets two lines that name it and say what was expected, and leaves nothing half-written."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY, imdb_members, write_tar, write_toy_corpus
from safetensors.torch import load_file, save_file

import train_cls
import train_mlm
from data.sources import load
from distilbert import Tokenizer
from distilbert.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
GOOD = [{"text": f"{'lovely' if i % 2 else 'dull'} film {i}", "label": i % 2} for i in range(40)]


def refused(finished, tmp_path: Path, *flags) -> str:
    """What train_cls.py says to a command that is right but for `flags`; it must leave no file and keep to two lines."""
    output = tmp_path / "output"
    with pytest.raises(UserError) as error:
        train_cls.main([*finished.flags, "--output_dir", str(output), "--max_steps", "1", *map(str, flags)])
    said = str(error.value)
    assert len(said.splitlines()) <= 2 and len(said) < 500
    assert not [path for path in output.rglob("*") if path.is_file() and path.name != ".lock"]
    return said


def test_compile_without_a_compiler_is_refused(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "--compile: torch.compile needs a C++ compiler" in refused(finished, tmp_path, "--compile")


def test_compile_without_pythons_headers_is_refused(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)  # something that is there
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert "and Python's headers (on Debian: python3-dev)" in refused(finished, tmp_path, "--compile")


@pytest.mark.skipif(not shutil.which("false"), reason="no program `false`, which stands for a broken compiler")
def test_a_compiler_that_fails_gets_two_lines(finished, tmp_path):
    broken = os.environ | {"CXX": "false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}  # no kernel of another run
    flags = [*finished.flags, "--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--compile"]
    done = subprocess.run([sys.executable, "train_cls.py", *flags], capture_output=True, text=True, cwd=ROOT, env=broken)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 2, done.stderr
    assert "error: torch.compile failed" in done.stderr and "leave --compile out" in done.stderr
    assert [path.name for path in (tmp_path / "run").rglob("*") if path.is_file()] in ([], [".lock"])  # as if it never began


# ---- flags

FLAGS = {
    "--learning_rate fast": "not a number",
    "--learning_rate nan": "not a finite number",
    "--learning_rate -0.1": "between 0.0 and 1.0",
    "--batch_size 0": "between 1 and",
    "--batch_size 1.5": "not a whole number",
    "--batch_size": "expected one argument",
    "--max_steps 0": "at least 1",
    "--num_train_epochs 0": "between 1 and",
    "--gradient_accumulation_steps 0": "between 1 and",
    "--warmup_ratio 1.5": "between 0.0 and 1.0",
    "--dropout 1": "between 0.0 and 0.9",
    "--layer_decay 0": "between 0.01 and 1.0",
    "--weight_decay -1": "between 0.0 and 1.0",
    "--max_grad_norm inf": "not a finite number",
    "--max_length 2": "between 3 and",
    "--train_size 0": "at least 1",
    "--eval_size 0": "at least 1",
    "--logging_steps 0": "at least 1",
    "--eval_steps 0": "at least 1",
    "--save_steps 0": "at least 1",
    "--save_minutes -1": "at least 0",
    "--seed -1": "between 0 and",
    "--seed 2147483648": "between 0 and",
    "--precision fp64": "auto, fp32, bf16, fp16",
    "--device tpu": "auto, cpu, cuda, mps",
    "--split third": "official, seed-a, seed-b",
    "--preset imdb": "dapt-imdb, imdb-384",
    "--classifier_head big": "linear, pre_classifier",
    "--truncation middle": "head, tail, head-tail",
    "--batching sorted": "length, random",
    "--lr_scheduler_type cosine": "linear, constant_with_warmup",
    "--learn 1e-3": "unrecognized",  # no abbreviations
    "--nonsense 1": "unrecognized",
    "stray": "unrecognized",
}


@pytest.mark.parametrize("flags", FLAGS)
def test_a_wrong_flag_is_named_with_what_was_expected(finished, tmp_path, flags):
    said = refused(finished, tmp_path, *flags.split())
    assert flags.split()[0] in said.replace("--learning-rate", "--learning_rate") and FLAGS[flags] in said
    assert "--help" in said


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_named(finished, tmp_path, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert f"--device {device}" in refused(finished, tmp_path, "--device", device)


# ---- text


def lines(*records) -> bytes:
    return "\n".join(json.dumps(record) if isinstance(record, dict) else record for record in records).encode()


def in_parts(labels: dict[str, list]) -> bytes:
    """A table with a split column: for each part, a text for each of its labels."""
    rows = [{"text": f"{part} {i}", "label": k, "split": part} for part, ks in labels.items() for i, k in enumerate(ks)]
    return lines(*rows)


def archive(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name.endswith("link"):
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(name: str, content: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


BALANCED = [0, 1, 0, 1]
TEXTS = {  # a file's name, its content, what must be said besides its name
    "unknown format": ("films.parquet", b"PAR1", "expected .tar.gz, a folder aclImdb/, .zip, .jsonl, .csv, .tsv or .txt"),
    "no extension": ("films", b"good film", "unknown format"),
    "empty file": ("films.jsonl", b"", "empty"),
    "broken JSON": ("films.jsonl", lines(*GOOD, '{"text": "cut o'), "line 41 is not JSON"),
    "a list": ("films.jsonl", lines(*GOOD, "[1, 2]"), "line 41 is not an object"),
    "no text": ("films.jsonl", lines(*GOOD, {"review": "a", "label": 1}), "line 41 has no text; expected a column 'text'"),
    "a number for a text": ("films.jsonl", lines(*GOOD, {"text": 7, "label": 1}), "line 41 has no text"),
    "an empty text": ("films.jsonl", lines(*GOOD, {"text": " \n\t", "label": 1}), "line 41 holds an empty text"),
    "a label out of range": ("films.jsonl", lines(*GOOD, {"text": "a", "label": 2}), "label '2', expected 0, 1, neg or pos"),
    "a label in words": ("films.jsonl", lines(*GOOD, {"text": "a", "label": "meh"}), "label 'meh', expected 0, 1, neg or pos"),
    "a label that is a list": ("films.jsonl", lines(*GOOD, {"text": "a", "label": [1]}), "expected 0, 1, neg or pos"),
    "one label missing": ("films.jsonl", lines(*GOOD[:7], {"text": "a"}, *GOOD[7:]), "line 8 (", "has no label"),
    "no labels": ("films.csv", "\n".join(["text", *(row["text"] for row in GOOD)]).encode(), "has no label; expected 0/1"),
    "one class": ("films.jsonl", lines(*({**row, "label": 1} for row in GOOD)), "0 texts of class 0", "at least two of each"),
    "too few texts": ("films.jsonl", lines(*GOOD[:6]), "part is empty"),
    "one class in validation": ("films.jsonl", in_parts({"train": BALANCED, "validation": [0, 0, 1], "test": BALANCED}),
                                "validation has 1 texts of class 1, expected at least two of each; a table without a column"),
    "no test part": ("films.jsonl", in_parts({"train": BALANCED, "validation": BALANCED}), "test part; only train, validation"),
    "an unknown part": ("films.jsonl", in_parts({"train": BALANCED, "dev": BALANCED}), "'dev', expected train, validation"),
    "a part for some only": ("films.jsonl", in_parts({"train": BALANCED, "": BALANCED}), "expected train, validation or test"),
    "not UTF-8": ("films.csv", "text,label\ncafé,1\n".encode("latin-1"), "byte 14 is not UTF-8"),
    "no header": ("films.csv", b"a good film,1\na bad film,0\n", "has no text; expected a column 'text'"),
    "unlabelled lines": ("films.txt", b"a good film\na bad film\n", "no train part; train_mlm.py takes texts without labels"),
    "half a tarball": ("aclImdb.tar.gz", archive(*imdb_members())[:300], "a broken archive"),
    "another tarball": ("aclImdb.tar.gz", archive(("readme.txt", b"hello")), "expected IMDb's layout"),
    "an absolute path": ("aclImdb.tar.gz", archive(("/etc/aclImdb/train/pos/0_9.txt", b"x")), "points outside the archive"),
    "a path upwards": ("aclImdb.tar.gz", archive(("aclImdb/../../0_9.txt", b"x")), "points outside the archive"),
    "a link": ("aclImdb.tar.gz", archive(("aclImdb/train/pos/link", b"")), "is a link"),
    "not a zip": ("SST-2.zip", b"PK", "no readable SST-2/dev.tsv"),
    "a zip of another kind": ("glue.zip", zipped("RTE/dev.tsv", "a\tb"), "no readable SST-2/dev.tsv"),
    "no training part": ("SST-2.zip", zipped("SST-2/dev.tsv", "sentence\tlabel\ngood\t1\nbad\t0\n"), "has no train part"),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_a_wrong_file_of_texts_is_named_with_what_was_expected(finished, tmp_path, case):
    name, content, *expected = TEXTS[case]
    (tmp_path / name).write_bytes(content)
    said = refused(finished, tmp_path, "--data", tmp_path / name)
    assert name in said or "SST-2/dev.tsv" in said
    assert all(words in said for words in expected), said


def test_a_web_page_saved_as_a_tarball_is_refused_in_two_lines(finished, tmp_path):
    (tmp_path / "aclImdb.tar.gz").write_bytes(b"<html>404</html>")
    assert "aclImdb.tar.gz: a broken archive" in refused(finished, tmp_path, "--data", tmp_path / "aclImdb.tar.gz")


@pytest.mark.parametrize("data", ["nowhere", "nowhere.jsonl", "sst3"])
def test_data_that_is_not_there_is_named(finished, tmp_path, data):
    assert f"--data {data}: no such file, and not one of sample, imdb, sst2" in refused(finished, tmp_path, "--data", data)


def test_a_folder_that_is_not_imdbs_is_named(finished, tmp_path):
    (tmp_path / "films").mkdir()
    assert "films: holds no aclImdb/" in refused(finished, tmp_path, "--data", tmp_path / "films")


def test_imdb_with_one_review_a_class_is_refused(finished, tmp_path):
    data = write_tar(tmp_path / "aclImdb.tar.gz", imdb_members(per_class=1))
    assert "aclImdb.tar.gz" in refused(finished, tmp_path, "--data", data)


def test_imdb_with_too_few_reviews_to_cut_is_told_of_its_own_cut(finished, tmp_path):
    data = write_tar(tmp_path / "aclImdb.tar.gz", imdb_members(per_class=10))
    said = refused(finished, tmp_path, "--data", data)
    assert (
        "validation has 1 texts of class 0" in said
        and "of IMDb's train a tenth is validation" in said
        and "give it 20 texts" in said
    )


def test_a_subset_too_small_for_both_classes_is_refused(finished, tmp_path):
    assert "train has" in refused(finished, tmp_path, "--train_size", 3)
    assert "validation has" in refused(finished, tmp_path, "--eval_size", 2)


# ---- weights


def rewrite(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Changes a JSON file of the model in place."""

    def apply(model: Path) -> None:
        content = json.loads((model / name).read_text())
        change(content)
        (model / name).write_text(json.dumps(content))

    return apply


def retensor(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Changes the model's tensors in place."""

    def apply(model: Path) -> None:
        tensors = load_file(model / "model.safetensors")
        change(tensors)
        save_file(tensors, model / "model.safetensors")

    return apply


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes(content)


def truncate(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])


def as_pickle(model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


def larger_tokenizer(model: Path) -> None:
    Tokenizer.from_texts(map(str, range(1000, 1300))).save_pretrained(model, 512)


def drop_mask(content: dict) -> None:
    content["model"]["vocab"].pop("[MASK]")
    content["added_tokens"].pop()


WORDS = "distilbert.embeddings.word_embeddings.weight"
KEYS = "distilbert.transformer.layer.1.attention.k_lin.weight"
MODELS = {  # what is done to a good model, what must be said
    "truncated weights": (truncate, "model.safetensors", "not a readable safetensors file"),
    "empty weights": (write("model.safetensors", b""), "model.safetensors", "not a readable safetensors file"),
    "no weights": (lambda model: (model / "model.safetensors").unlink(), "holds no model.safetensors"),
    "a pickle": (as_pickle, "holds no model.safetensors; its pytorch_model.bin could run code", "save_pretrained"),
    "NaN": (retensor(lambda t: t[KEYS][3].fill_(float("nan"))), KEYS, "NaN or infinite"),
    "infinity": (retensor(lambda t: t[WORDS][3].fill_(float("-inf"))), WORDS, "NaN or infinite"),
    "a missing tensor": (retensor(lambda t: t.pop(KEYS)), KEYS, "blocks.1.attention.qkv.weight", "missing"),
    "a tensor too many": (retensor(lambda t: t.update(extra=torch.zeros(2))), "extra", "no place"),
    "a misshapen tensor": (retensor(lambda t: t.update({KEYS: torch.zeros(64, 63)})), KEYS, "[64, 63], expected [64, 64]"),
    "whole numbers": (retensor(lambda t: t.update({KEYS: t[KEYS].long()})), KEYS, "int64, expected a floating-point"),
    "a block too few": (rewrite("config.json", lambda c: c.update(n_layers=1)), "layer.1", "no place"),
    "broken config": (write("config.json", b'{"dim": 64,'), "config.json", "not readable as JSON"),
    "a config that is a list": (write("config.json", b"[]"), "config.json", "expected an object"),
    "another family": (rewrite("config.json", lambda c: c.update(model_type="bart")), "config.json", "'bart'", "distilbert"),
    "another activation": (rewrite("config.json", lambda c: c.update(activation="relu")), "config.json", "activation", "gelu"),
    "an impossible width": (rewrite("config.json", lambda c: c.update(n_heads=5)), "config.json", "5 heads"),
    "a width in words": (rewrite("config.json", lambda c: c.update(dim="wide")), "config.json", "dim", "whole number"),
    "an enormous size": (rewrite("config.json", lambda c: c.update(vocab_size=10**12)), "config.json", "vocab_size"),
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), "neither tokenizer.json nor vocab.txt; copy one"),
    "a broken tokenizer": (write("tokenizer.json", b"{}"), "tokenizer.json", "not a tokenizer"),
    "a tokenizer without [MASK]": (rewrite("tokenizer.json", drop_mask), "tokenizer.json", "[MASK]"),
    "another model's tokenizer": (larger_tokenizer, "the tokenizer has", "the model"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_a_wrong_model_is_named_with_what_was_expected(finished, tmp_path, case):
    model = tmp_path / "model"
    shutil.copytree(finished.directory, model, ignore=shutil.ignore_patterns("checkpoint"))
    change, *expected = MODELS[case]
    change(model)
    said = refused(finished, tmp_path, "--model", model)
    assert str(model) in said and all(words in said for words in expected), said


@pytest.mark.parametrize("name", ["classifier.bias", "pre_classifier.bias"])
def test_half_a_linear_head_is_named_by_what_is_missing(finished, tmp_path, name):
    model = Path(shutil.copytree(finished.directory, tmp_path / "model"))
    retensor(lambda tensors: tensors.pop(name))(model)
    assert name in refused(finished, tmp_path, "--model", model)


@pytest.mark.parametrize("model", ["nowhere", "./nowhere", "a/b/c", "/nowhere/model"])
def test_a_model_that_is_not_there_is_named(finished, tmp_path, model):
    said = refused(finished, tmp_path, "--model", model)
    assert f"--model {model}: no such directory" in said and "minilm" in said


def test_a_hub_that_does_not_answer_is_said_at_once_with_what_to_do(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("distilbert.hub.answers", lambda _: False)
    said = refused(finished, tmp_path, "--model", "someone/some-distilbert")
    assert "--model someone/some-distilbert: no hub answers" in said and "--model minilm" in said


@pytest.mark.parametrize("model", ["my models/first", "a--b/c", "name/.hidden"])
def test_a_name_that_no_hub_can_have_is_refused(finished, tmp_path, monkeypatch, model):
    monkeypatch.setattr("distilbert.hub.answers", lambda _: False)
    assert f"--model {model}" in refused(finished, tmp_path, "--model", model)


@pytest.mark.parametrize("model", ["scratch-tiny", "a run"])
def test_a_length_beyond_the_positions_is_refused_with_the_length_to_use(finished, tmp_path, model):
    model = finished.directory if model == "a run" else model
    said = refused(finished, tmp_path, "--model", model, "--max_length", 513)
    assert "--max_length 513 exceeds the model's 512 positions; use --max_length 512" in said


# ---- where the run lives (test_run.py has the lock, test_train_cls.py --resume)


@pytest.mark.parametrize("place", ["file/run", "file"])
def test_an_output_directory_that_cannot_be_is_named(finished, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    assert f"--output_dir {tmp_path / place}: " in refused(finished, tmp_path, "--output_dir", tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_directory_that_was_there_before_stays(finished, tmp_path):
    (tmp_path / "output").mkdir()
    refused(finished, tmp_path, "--data", "nowhere.jsonl")
    assert (tmp_path / "output").is_dir()


# ---- the twin

ADAPTATION = {
    "--mlm_probability 0": "0 is out of range",
    "--mlm_probability half": "'half' is not a number",
    "--corpus labelled": "all, unsup",
    "--head_learning_rate 1e-3": "unrecognized",  # the classifier's
    "--preset imdb-384": "dapt-imdb",
    "--max_length 513": "use --max_length 512",
    "--corpus unsup": "0 texts to adapt to with --corpus unsup",
    "--data nowhere": "no such file",
}


@pytest.mark.parametrize("flags", ADAPTATION)
def test_a_wrong_flag_of_an_adaptation_is_named_with_what_was_expected(finished, tmp_path, flags):
    data = finished.flags[finished.flags.index("--data") + 1]
    with pytest.raises(UserError) as error:
        train_mlm.main([*TINY, "--data", data, "--output_dir", str(tmp_path / "output"), *flags.split()])
    assert flags.split()[0] in str(error.value) and ADAPTATION[flags] in str(error.value)
    assert len(str(error.value).splitlines()) <= 2 and not (tmp_path / "output").exists()


# ---- what a message tells to do, done


def test_the_length_that_is_proposed_is_accepted(finished, tmp_path):
    said = refused(finished, tmp_path, "--max_length", 600)
    flag, length = re.search(r"use (--max_length) (\d+)", said).groups()
    flags = ["--output_dir", str(tmp_path / "output"), "--max_steps", "1", flag, length]
    train_cls.main([*finished.flags, *flags])
    assert (tmp_path / "output" / "run.json").exists()


@pytest.mark.parametrize("number", [0, 1])
def test_the_flags_that_are_proposed_for_a_directory_that_holds_a_run_are_accepted(finished, tmp_path, number):
    directory = str(shutil.copytree(finished.directory, tmp_path / "run"))
    with pytest.raises(UserError) as error:
        train_cls.main([*finished.flags, "--output_dir", directory])
    flag = re.findall(r"--(?!output_dir)\w+", str(error.value))[number]
    train_cls.main([*finished.flags, "--output_dir", directory, flag])


def test_the_command_that_is_proposed_for_another_encoding_makes_a_file_that_is_read(finished, tmp_path):
    folder = tmp_path / "my films"
    folder.mkdir()
    text = "text,label\n" + "".join(f"{'béau' if i % 2 else 'ennuyeux'} film {i},{i % 2}\n" for i in range(40))
    (folder / "films.csv").write_bytes(text.encode("latin-1"))
    said = refused(finished, tmp_path, "--data", folder / "films.csv")
    subprocess.run(said.split("Latin-1: ")[1], shell=True, check=True)
    assert "béau film 1" in " ".join(load(str(folder / "films-utf8.csv"))["train"].texts)


# ---- as a program


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--batch_size 0", "--batch_size"),
        ("--nonsense", "--nonsense"),
        ("--data nowhere.jsonl", "--data nowhere.jsonl"),
        ("--data {}/broken.jsonl", "line 161 is not JSON"),
        ("--output_dir", "--output_dir"),
    ],
)
def test_the_program_ends_with_status_2_two_lines_at_most_and_no_traceback(tmp_path, flags, words):
    data = write_toy_corpus(tmp_path / "broken.jsonl")
    data.write_text(data.read_text() + "{")
    command = [sys.executable, "train_cls.py", *TINY, "--output_dir", str(tmp_path / "run"), *flags.format(tmp_path).split()]
    program = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert program.returncode == 2 and words in program.stderr
    assert program.stderr.startswith("error: ") and len(program.stderr.splitlines()) <= 2
    assert "Traceback" not in program.stdout + program.stderr


@pytest.mark.parametrize("script", ["compare", "adaptation", "ablations"])
def test_a_benchmark_says_what_it_cannot_read_in_two_lines(script, tmp_path):
    """The review archive that is not there; of the other two, whose runs would say that, a run's record that is broken."""
    for run in ("base", "mlm-adapted", "mlm-longer"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "log.jsonl").touch()
        (tmp_path / run / "run.json").write_text("{")
    flags = [] if script == "compare" else ["--runs", str(tmp_path), "--output", str(tmp_path)]
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--data", "nowhere.tar.gz", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    named = "nowhere.tar.gz" if script == "compare" else "run.json"
    assert done.returncode == 2 and named in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) <= 2
