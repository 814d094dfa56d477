"""A dataclass as a command line: spellings, refusals, presets, and answers that do not wait for torch."""

import errno
import importlib
import io
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, dataclass, fields
from pathlib import Path

import pytest
import safetensors
import torch

from distilbert.arguments import CLASSIFICATION_PRESETS, MASKED_LM_PRESETS, TrainingArguments
from distilbert.cli import flag, parse, user_errors
from distilbert.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {path.name: importlib.import_module(path.stem).Arguments for path in sorted(ROOT.glob("*.py"))}
PRESETS = {"train_cls.py": CLASSIFICATION_PRESETS, "train_mlm.py": MASKED_LM_PRESETS}
EVERY_FLAG = [(arguments, field) for arguments in SCRIPTS.values() for field in fields(arguments)]
SHARED = """
    model data split keep_duplicates keep_breaks preset output_dir overwrite resume seed device precision compile
    num_train_epochs max_steps batch_size eval_batch_size gradient_accumulation_steps learning_rate weight_decay decay_all
    warmup_ratio lr_scheduler_type min_lr_ratio max_grad_norm layer_decay dropout batching max_length train_size eval_size
    logging_steps eval_steps save_steps save_minutes
"""
OWN = {
    "train_cls.py": {"head_learning_rate", "classifier_head", "truncation"},
    "train_mlm.py": {"mlm_probability", "whole_word_masking", "pack", "truncate", "corpus"},
}


@dataclass(frozen=True)
class Small:
    """A command line of six flags."""

    two_words: int = flag(3, "a number, 50% of them odd", low=2, high=9)
    rate: float = flag(0.5, "another", low=0.0)
    maybe: int | None = flag(None, "one that may be missing", low=1)
    kind: str = flag("a", "a word", choices=("a", "b"))
    switch: bool = flag(False, "on or off")
    preset: str = flag("", "a recipe", choices=("p",))


def refusal(arguments, line, presets=None):
    """The message to somebody who typed this."""
    with pytest.raises(UserError) as caught:
        parse(arguments, line.split(), presets)
    return str(caught.value)


def another_value(field):
    """A value that the flag accepts and that is not its default."""
    kind, limits = field.type, field.metadata
    if kind is bool:
        return True
    if limits["choices"]:
        return next(choice for choice in reversed(limits["choices"]) if choice != field.default)
    if kind in (str, str | None):
        return "something"
    number = kind if kind in (int, float) else kind.__args__[0]  # int | None
    candidates = (limits["low"], limits["high"], limits["low"] + 1)
    return next(number(value) for value in candidates if value not in (None, field.default))


def run(script, *arguments, python=()):
    return subprocess.run([sys.executable, *python, script, *arguments], cwd=ROOT, capture_output=True, text=True)


# ---- every flag of the scripts


@pytest.mark.parametrize("spell", [str, lambda name: name.replace("_", "-")], ids=["underscores", "hyphens"])
@pytest.mark.parametrize(("arguments", "field"), EVERY_FLAG, ids=lambda value: getattr(value, "name", ""))
def test_every_flag_sets_its_field_and_nothing_else(arguments, field, spell):
    value = another_value(field)
    assert value != field.default
    line = [f"--{spell(field.name)}"] + ([] if value is True else [str(value)])
    assert asdict(parse(arguments, line)) == asdict(arguments()) | {field.name: value}


@pytest.mark.parametrize(("arguments", "field"), EVERY_FLAG, ids=lambda value: getattr(value, "name", ""))
def test_every_flag_refuses_what_it_must_and_says_its_name(arguments, field):
    limits, bad = field.metadata, []
    if limits["choices"]:
        bad = ["no-such-choice", limits["choices"][-1].upper()]
    elif field.type not in (bool, str, str | None):
        bad = ["many", "nan", "inf", "1e400", "3,5"] + [
            str(limits[key] + by) for key, by in (("low", -1), ("high", 1)) if limits[key] is not None
        ]
        if int in (field.type, *getattr(field.type, "__args__", ())):
            bad += ["3.5", "1e3"]
    for value in bad:
        message = refusal(arguments, f"--{field.name}={value}")
        assert f"--{field.name}" in message and value in message
    if field.type is bool:
        assert f"--{field.name}" in refusal(arguments, f"--{field.name}=yes")
    else:
        assert f"--{field.name}" in refusal(arguments, f"--{field.name}")


@pytest.mark.parametrize("arguments", SCRIPTS.values(), ids=SCRIPTS)
def test_an_abbreviated_flag_is_refused(arguments):
    names = {field.name for field in fields(arguments)}
    for name in names:
        for short in {name[:-1], name.split("_")[0]} - names:
            assert f"--{short}" in refusal(arguments, f"--{short} 1")


@pytest.mark.parametrize("arguments", SCRIPTS.values(), ids=SCRIPTS)
def test_every_flag_has_a_help_and_a_default_that_it_would_accept(arguments):
    parse(arguments, [])
    for field in fields(arguments):
        assert field.metadata["help"]
        if field.default not in (None, "", False):
            assert getattr(parse(arguments, [f"--{field.name}", str(field.default)]), field.name) == field.default


def test_the_training_scripts_share_their_flags_and_add_a_few_of_their_own():
    assert {field.name for field in fields(TrainingArguments)} == set(SHARED.split())
    for script in OWN:
        assert issubclass(SCRIPTS[script], TrainingArguments)
        assert {field.name for field in fields(SCRIPTS[script])} - set(SHARED.split()) == OWN[script]


# ---- what `parse` does


def test_the_defaults_are_the_dataclass_and_it_is_frozen():
    assert parse(Small, []) == Small()
    with pytest.raises(FrozenInstanceError):
        parse(Small, []).rate = 1.0


def test_the_edges_of_a_range_are_inside_and_what_lies_beyond_is_named_with_the_range():
    assert [parse(Small, ["--two_words", value]).two_words for value in "29"] == [2, 9]
    assert parse(Small, ["--rate", "0"]).rate == 0.0
    for value in ("1", "10"):
        assert f"{value} is out of range, expected between 2 and 9" in refusal(Small, f"--two_words {value}")
    assert "-0.5 is out of range, expected at least 0.0" in refusal(Small, "--rate -0.5")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--two_words x", "--two_words/--two-words: 'x' is not a whole number"),
        ("--two-words 3.0", "--two_words/--two-words: '3.0' is not a whole number"),
        ("--maybe none", "--maybe: 'none' is not a whole number"),
        ("--maybe 0", "--maybe: 0 is out of range, expected at least 1"),
        ("--rate x", "--rate: 'x' is not a number"),
        ("--rate nan", "--rate: 'nan' is not a finite number"),
        ("--rate=-inf", "--rate: '-inf' is not a finite number"),
        ("--kind c", "--kind: 'c' is not one of a, b"),
        ("--rate", "--rate: expected one argument"),
        ("--switch=1", "--switch: ignored explicit argument '1'"),
        ("--no_such 1", "unrecognized arguments: --no_such 1"),
        ("--two 3", "unrecognized arguments: --two 3"),
        ("--two_word 3", "unrecognized arguments: --two_word 3"),
        ("stray", "unrecognized arguments: stray"),
    ],
)
def test_a_mistake_is_named_with_its_flag_and_the_way_to_the_help(line, says):
    message = refusal(Small, line)
    assert says in message
    assert message.endswith("--help)")


def test_a_path_that_no_record_could_hold_is_refused_before_any_work():
    assert "--data: its bytes are not UTF-8" in refusal(SCRIPTS["train_cls.py"], "--data caf\udce9.csv")
    assert parse(SCRIPTS["train_cls.py"], ["--data", "café.csv"]).data == "café.csv"


def test_an_optional_number_is_a_number_when_given_and_none_when_not():
    assert parse(Small, ["--maybe", "7"]).maybe == 7
    assert parse(Small, []).maybe is None


def test_a_negative_number_in_scientific_notation_is_refused_by_its_flags_name():
    assert "--rate" in refusal(Small, "--rate -1e-5")


def test_the_help_shows_every_flag_with_its_default_and_its_percent_signs(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Small, ["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "A command line of six flags." in shown and all(f"--{item.name}" in shown for item in fields(Small))
    assert "a number, 50% of them odd (default: 3)" in shown
    assert "--kind a|b a word (default: a)" in shown
    assert "another (default: 0.5)" in shown and "on or off (default: False)" in shown


# ---- presets


def test_a_preset_fills_what_the_command_line_leaves_open_and_explicit_flags_win():
    presets = {"p": {"two_words": 8, "rate": 0.25, "switch": True}}
    assert parse(Small, ["--preset", "p"], presets) == Small(8, 0.25, None, "a", True, "p")
    assert parse(Small, ["--rate", "2", "--preset", "p"], presets) == Small(8, 2.0, None, "a", True, "p")
    assert parse(Small, ["--preset", "p", "--two-words", "3"], presets).two_words == 3  # the default, but said
    assert parse(Small, [], presets) == Small()
    for off in ("--no_switch", "--no-switch"):
        assert parse(Small, ["--preset", "p", off], presets) == Small(8, 0.25, None, "a", False, "p")


@pytest.mark.parametrize("flag", ["no_keep_breaks", "no-keep-breaks"])
def test_what_a_published_recipe_switches_on_can_be_switched_off(flag):
    whole = parse(SCRIPTS["train_cls.py"], ["--preset", "imdb-384"], CLASSIFICATION_PRESETS)
    less = parse(SCRIPTS["train_cls.py"], [f"--{flag}", "--preset", "imdb-384"], CLASSIFICATION_PRESETS)
    assert whole.keep_breaks and asdict(less) == asdict(whole) | {"keep_breaks": False}


@pytest.mark.parametrize("script", PRESETS)
def test_an_unknown_preset_is_refused_with_the_known_ones(script):
    message = refusal(SCRIPTS[script], "--preset imdb", PRESETS[script])
    assert f"--preset: 'imdb' is not one of {', '.join(PRESETS[script])}" in message


@pytest.mark.parametrize("script", PRESETS)
def test_every_value_of_a_preset_is_one_that_its_flag_accepts(script):
    for name, preset in PRESETS[script].items():
        line = [f"--{key}" if value is True else f"--{key}={value}" for key, value in preset.items()]
        spelled_out = asdict(parse(SCRIPTS[script], line)) | {"preset": name}
        assert spelled_out == asdict(parse(SCRIPTS[script], ["--preset", name], PRESETS[script]))


def assert_recipe(script, preset, **published):
    """The preset sets exactly this; what it leaves to the defaults does not change the recipe, and is listed too."""
    found = asdict(parse(SCRIPTS[script], ["--preset", preset], PRESETS[script]))
    assert {key: found[key] for key in published} == published
    rest = found.keys() - published.keys() - {"preset"}
    assert {key: found[key] for key in rest} == {key: getattr(SCRIPTS[script](), key) for key in rest}
    neutral = ("layer_decay", "max_steps", "train_size", "eval_size", "gradient_accumulation_steps", "data")
    for key, value in zip(neutral, (1.0, None, None, None, 1, "sample"), strict=True):
        assert found[key] == published.get(key, value)


def test_dapt_imdb_adapts_as_published_number_for_number():
    assert_recipe(
        "train_mlm.py",
        "dapt-imdb",
        model="distilbert-base-uncased",
        corpus="unsup",
        split="seed-a",
        seed=23,
        keep_duplicates=True,
        keep_breaks=True,
        max_length=512,
        pack=False,
        truncate=True,
        batching="random",
        batch_size=16,
        gradient_accumulation_steps=4,
        num_train_epochs=3,
        learning_rate=3e-5,
        weight_decay=0.01,
        decay_all=True,
        warmup_ratio=0.05,
        lr_scheduler_type="constant_with_warmup",
        max_grad_norm=1.0,
        precision="fp16",
        mlm_probability=0.15,
        whole_word_masking=False,
        dropout=0.1,
    )


def test_dapt_imdb_classifies_as_published_number_for_number():
    assert_recipe(
        "train_cls.py",
        "dapt-imdb",
        model="runs/mlm",  # the encoder that train_mlm.py adapted
        split="seed-a",
        seed=23,
        keep_duplicates=True,
        keep_breaks=True,
        max_length=512,
        truncation="head",
        batching="random",
        batch_size=64,
        num_train_epochs=3,
        learning_rate=1e-5,
        head_learning_rate=5e-5,
        weight_decay=0.01,
        decay_all=True,
        warmup_ratio=0.1,
        lr_scheduler_type="linear",
        min_lr_ratio=1e-8,
        max_grad_norm=1.0,
        classifier_head="linear",
        precision="fp16",
        dropout=None,  # the model's, 0.1
    )


def test_imdb_384_is_the_published_recipe_number_for_number():
    assert_recipe(
        "train_cls.py",
        "imdb-384",
        model="distilbert-base-uncased",
        split="seed-b",
        seed=42,
        keep_duplicates=True,
        keep_breaks=True,
        max_length=384,
        truncation="head",
        batching="random",
        batch_size=16,
        eval_batch_size=32,
        num_train_epochs=2,
        learning_rate=2e-5,
        head_learning_rate=None,
        weight_decay=0.01,
        decay_all=False,
        warmup_ratio=0.0,
        lr_scheduler_type="linear",
        min_lr_ratio=0.0,
        max_grad_norm=1.0,
        classifier_head="pre_classifier",
        precision="fp32",
        dropout=None,
    )
    imdb_384 = CLASSIFICATION_PRESETS["imdb-384"]
    steps_per_epoch = -(-22_500 // imdb_384["batch_size"])  # nine tenths of the official training part
    assert steps_per_epoch * imdb_384["num_train_epochs"] == 2_814


# ---- the scripts, as processes


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_within_a_second_and_without_torch(script):
    before = os.times()
    answer = run(script, "--help")
    after = os.times()  # the processor's time, not the clock's: this machine may have other things to do
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1
    assert answer.returncode == 0 and answer.stderr == ""
    assert all(f"--{field.name}" in answer.stdout for field in fields(SCRIPTS[script]))
    imported = {
        line.rpartition("|")[2].strip() for line in run(script, "--help", python=("-X", "importtime")).stderr.splitlines()
    }
    assert "distilbert.cli" in imported
    assert not imported & {"torch", "numpy", "tokenizers", "transformers"}


@pytest.mark.parametrize("program", [["train_cls.py"], ["evaluate.py", "--errors", "20"], ["-m", "distilbert.look"]])
def test_a_python_without_the_packages_is_named_with_the_command_that_brings_them(program):
    answer = run(*program, python=("-S",))  # which leaves out what pip has installed
    (line,) = answer.stderr.splitlines()
    assert answer.returncode == 2 and answer.stdout == ""
    assert line.endswith("pip install -r requirements.txt")
    required = {name.partition("==")[0] for name in (ROOT / "requirements.txt").read_text().split()}
    assert set(line.partition(" has no ")[2].partition(";")[0].split(", ")) == required


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("mistake", [["--seeed", "3"], ["--device", "tpu"], ["--eval_batch_size", "0"], ["stray"]])
def test_a_mistyped_flag_exits_with_two_after_at_most_two_lines_without_torch(script, mistake):
    answer = run(script, *mistake, python=("-X", "importtime"))
    lines = [line for line in answer.stderr.splitlines() if not line.startswith("import time:")]
    assert answer.returncode == 2 and answer.stdout == ""
    assert 1 <= len(lines) <= 2 and mistake[0] in lines[0] and "Traceback" not in answer.stderr
    assert not any(line.endswith(" torch") for line in answer.stderr.splitlines())


# ---- errors around a program


def test_a_user_error_becomes_one_line_and_status_two(capsys):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise UserError("x.json: no such file")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: x.json: no such file\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_one(capsys, number):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise OSError(number, "No space left on device")
    assert ended.value.code == 2
    assert "disk is full" in capsys.readouterr().err


def test_a_full_disk_is_said_to_be_one_when_it_is_weights_that_do_not_fit(capsys):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert ended.value.code == 2
    assert "disk is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB)"),
        MemoryError("Unable to allocate 8.00 GiB for an array"),
    ],
)
def test_a_memory_that_does_not_suffice_is_told_with_the_flags_that_help(capsys, error):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise error
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith(f"error: {error}\n") and said.count("\n") == 2
    assert {"--batch_size", "--eval_batch_size", "--max_length"} <= set(said.replace(",", "").split())


def test_a_program_whose_streams_are_closed_runs_without_them(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with user_errors():
        print("step 1", file=sys.stderr)
        assert not sys.stderr.isatty()


def test_what_a_terminal_cannot_show_ends_no_program(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    with user_errors():
        print("0.02 → 0.01")
    assert narrow.buffer.getvalue() == b"0.02 ? 0.01\n"


def test_a_file_that_may_not_be_read_is_said_to_be_one(capsys):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise PermissionError(errno.EACCES, "Permission denied", "films.csv")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: films.csv: Permission denied\n"


@pytest.mark.parametrize(("place", "hint"), [("cache", True), ("cache/tokens/x.npy", True), ("", True), ("other", False)])
def test_a_cache_that_may_not_be_written_is_told_with_the_way_out(tmp_path, monkeypatch, capsys, place, hint):
    """Its own folder, what is in it, or the one that it would be made in."""
    monkeypatch.setenv("DISTILBERT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit), user_errors():
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / place))
    assert ("DISTILBERT_CACHE names another place" in capsys.readouterr().err) == hint


def test_a_user_without_a_home_is_told_of_the_file_all_the_same(monkeypatch, capsys):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DISTILBERT_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(SystemExit), user_errors():
        raise PermissionError(errno.EACCES, "Permission denied", "films.csv")
    assert capsys.readouterr().err == "error: films.csv: Permission denied\n"


def test_control_c_is_130_without_a_word(capsys):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 130 and capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [1, 100_000])
def test_a_reader_who_has_gone_ends_a_program_without_a_word(words):
    program = f"from distilbert.cli import user_errors\nwith user_errors(): print('word\\n' * {words})"
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.EIO, "Input/output error"),
        safetensors.SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"),
    ],
)
def test_everything_else_keeps_its_traceback(error):
    with pytest.raises(type(error)) as caught, user_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("started", [["-m", "distilbert.look"], ["train_cls.py"]], ids=" ".join)
def test_an_error_names_the_program_as_it_was_started(started):
    root = Path(__file__).resolve().parent.parent
    ended = subprocess.run([sys.executable, *started, "--nonsense"], cwd=root, capture_output=True, text=True)
    assert ended.returncode == 2 and f"(see python {' '.join(started)} --help)" in ended.stderr
