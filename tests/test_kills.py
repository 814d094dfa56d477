"""A run that is killed at whatever moment, and continued with --resume, ends as the one that nobody disturbed."""

import random
import signal
import time
from types import SimpleNamespace

import pytest
import warm
from conftest import TINY, write_toy_corpus
from test_run import arguments, opened, step
from test_train_cls import outcome
from warm import Kill

from distilbert.run import Run

SCRIPTS = ("train_cls.py", "train_mlm.py")
PRECISIONS = ("fp32", "bf16", "fp16")
MOMENTS = {  # functions of a run, and how often these flags call each
    "train": 1, "load": 1, "restore": 1, "count": 9, "log_training": 9, "log_evaluation": 3, "save": 6, "write_atomically": 15,
    "checksum": 5, "clip_grad_norm_": 9, "evaluate": 4, "by_length": 4, "finish": 1, "save_pretrained": 2, "model_card": 1,
}  # fmt: skip
AT_THE_END = ("finish", "save_pretrained", "model_card")  # here Ctrl-C may come too late to be answered


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Runs a script on 24 texts: three epochs of three steps, validated every third step and saved every other one."""
    folder = tmp_path_factory.mktemp("kills")
    data = write_toy_corpus(folder / "toy.jsonl", 40)
    flags = [*TINY, "--data", str(data), "--train_size", "24", "--batch_size", "8", "--num_train_epochs", "3"]
    flags += ["--logging_steps", "1", "--eval_steps", "3", "--save_steps", "2"]

    def run(name: str, script: str, *more: str, kill: Kill | None = None) -> SimpleNamespace:
        directory, started = folder / name, time.monotonic()
        status = warm.run(script, [*flags, "--output_dir", str(directory), *more], folder / f"{name}.txt", kill)
        said, seconds = (folder / f"{name}.txt").read_text(), time.monotonic() - started
        assert "Traceback" not in said, said
        return SimpleNamespace(directory=directory, status=status, said=said, seconds=seconds)

    return run


@pytest.fixture(scope="module")
def undisturbed(program):
    """(script, precision) -> the run that nobody kills; each is made once."""
    made = {}

    def run(script: str, precision: str) -> SimpleNamespace:
        if (script, precision) not in made:
            made[script, precision] = program(f"{script} {precision}", script, "--precision", precision)
            assert made[script, precision].status == 0
        return made[script, precision]

    return run


def killed_and_continued(program, undisturbed, script: str, precision: str, name: str, kill: Kill, half: str = "") -> int:
    """Asserts that a run of this name comes to the same end -> the status with which the kill ended it. `half`: a file that
    it left.
    """
    whole = undisturbed(script, precision)
    cut = program(name, script, "--precision", precision, kill=kill)
    assert not half or (cut.directory / half).exists()
    again = program(name, script, "--precision", precision, "--resume")
    assert again.status == 0, again.said
    assert outcome(again.directory) == outcome(whole.directory), (kill, cut.said, again.said)
    left = {path.name for path in again.directory.iterdir()}
    assert left == {path.name for path in whole.directory.iterdir()}, "a file half-written"
    return cut.status


@pytest.mark.parametrize(
    ("script", "kill", "half"),
    [
        ("train_cls.py", Kill(signal.SIGKILL, "checksum", nth=3, hold=True), "checkpoint/.step-4.part/tensors.safetensors"),
        ("train_mlm.py", Kill(signal.SIGKILL, "evaluate", nth=3, hold=True), "checkpoint/step-4"),
        ("train_cls.py", Kill(signal.SIGKILL, "count", nth=6, hold=True), "checkpoint/step-4"),
    ],
    ids=["while a checkpoint is written", "in an evaluation", "in a step"],
)
def test_a_killed_run_is_continued_to_the_same_end(program, undisturbed, script, kill, half):
    status = killed_and_continued(program, undisturbed, script, "fp32", f"{script} {kill.function}", kill, half)
    assert status == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("number", range(20))
def test_a_run_killed_at_any_of_twenty_moments_is_continued_to_the_same_end(program, undisturbed, script, precision, number):
    chance = random.Random(f"{script} {precision} {number}")
    by = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[number % 3]
    function = chance.choice([name for name in MOMENTS if by == signal.SIGKILL or name not in AT_THE_END])
    longest = 0.7 * undisturbed(script, precision).seconds if function == "train" else 0.01
    kill = Kill(by, function, chance.randint(1, MOMENTS[function]), chance.uniform(0, longest))
    status = killed_and_continued(program, undisturbed, script, precision, f"{script} {precision} {number}", kill)
    assert status in {signal.SIGKILL: (-9, 0), signal.SIGINT: (130, 0), signal.SIGTERM: (143, 0)}[by], kill


# ---- signals that can be answered


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_program_at_once_and_the_run_can_be_continued(program, undisturbed, number):
    flags = ["train_cls.py", "--precision", "fp32"]
    cut = program(f"{number} twice", *flags, kill=Kill(number, "count", nth=6, again=True, hold=True))
    assert cut.status == -number  # a shell says 130 or 143
    assert cut.said.count("stopping") == 1 and "saved" not in cut.said
    again = program(f"{number} twice", *flags, "--resume")
    assert "resuming after step 4" in again.said
    assert outcome(again.directory) == outcome(undisturbed("train_cls.py", "fp32").directory)


def test_control_c_ends_an_evaluation_with_130_and_leaves_no_file(program, undisturbed):
    directory = undisturbed("train_cls.py", "fp32").directory
    before = {path.name for path in directory.iterdir()}
    said = directory.parent / "evaluate.txt"
    kill = Kill(signal.SIGINT, "predict_logits", hold=True)
    assert warm.run("evaluate.py", ["--model", str(directory)], said, kill) == 130
    assert said.read_text() == "" and {path.name for path in directory.iterdir()} == before


# ---- damage to what was saved


def test_a_flipped_bit_or_a_missing_end_of_a_checkpoint_is_noticed_and_the_one_before_used(tmp_path, capsys):
    with Run(arguments(tmp_path)) as run:
        parts = opened(run)
        for _ in range(2):
            step(run, seconds=0.1)
            run.save(*parts, {})
    newest, chance = tmp_path / "checkpoint" / "step-2", random.Random(0)
    for name in ("state.json", "tensors.safetensors"):
        whole = (newest / name).read_bytes()
        for place in range(0, len(whole), 3):
            (newest / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
            again = Run(arguments(tmp_path, resume=True))
            again.begin()
            said = capsys.readouterr().out
            assert again.progress.step == 1 and "passed over" in said and "step-2" in said, (name, place)
        for left in range(0, len(whole), 20):
            (newest / name).write_bytes(whole[:left])
            again = Run(arguments(tmp_path, resume=True))
            again.begin()
            assert again.progress.step == 1 and "step-2" in capsys.readouterr().out
        (newest / name).write_bytes(whole)
    again.begin()
    assert again.progress == run.progress
