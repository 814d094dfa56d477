"""Every shape comment in the model and in data/ is true of the tensors that its line makes, and is reached."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS, SIZES, our_config, ragged_batch

import distilbert.model as ours
from data.cls import classification_batch
from data.mlm import masked_batch
from distilbert.trace import Step, shape_comments, split_shapes, tracing

ROOT = Path(ours.__file__).parent.parent
FILES = [ours.__file__, *sorted(map(str, (ROOT / "data").glob("*.py")))]
LEGEND = set(re.findall(r"\b([A-Z])  [a-z]", ours.__doc__))
SIZE = {  # R is left out: it is another number in each run
    **{"B": 4, "T": 13, "D": SIZES["dim"], "H": SIZES["n_heads"], "K": SIZES["dim"] // SIZES["n_heads"]},
    **{"F": SIZES["hidden_dim"], "V": SIZES["vocab_size"], "M": 10, "C": len(LABELS), "L": SIZES["n_layers"]},
}
LENGTHS = (13, 9, 4, 1)  # of the texts of ragged_batch
LABELLED = (7, 2, 1, 0)  # so many labels in each: R = 7, M = 10


class Comments:
    """The shape comments of some files, held against what is run inside `while_running`; `complaints` says what is wrong."""

    def __init__(self, files, sizes):
        self.comments, self.sizes = {file: shape_comments(file) for file in files}, sizes
        self.reached, self.with_fewer_rows, self.wrong = set(), set(), {}

    def while_running(self, rows: int):
        """`rows`: how many the head reads in this run. R is that or T, and the same number throughout a call."""
        calls = {}
        return tracing(self.comments, lambda step: self.check(step, {rows, self.sizes["T"]}, calls))

    def check(self, step: Step, possible_rows: set[int], calls: dict) -> None:
        comments = self.comments[step.file]
        for line in comments.keys() & set(step.lines):
            self.reached.add((step.file, line))
            tensors = [(name, tuple(value.shape)) for name, value in step.results if hasattr(value, "shape")]
            try:
                if not tensors:
                    raise ValueError(f"{comments[line]!r} stands where no tensor is made")
                for said, (name, shape) in zip(split_shapes(comments[line], len(tensors)), tensors, strict=True):
                    sizes = self.sizes | {"R": calls.get(step.call), "1": 1}  # no other number says anything
                    for letter, number in dimensions(said, name, shape):
                        if letter == "R" and sizes["R"] is None and number in possible_rows:
                            calls[step.call] = sizes["R"] = number
                        if letter == "R" and number != self.sizes["T"]:
                            self.with_fewer_rows.add((step.file, line))
                        if number != sizes.get(letter):
                            raise ValueError(f"{said} of {name}, which is {shape}: {letter} is {sizes.get(letter)}")
            except ValueError as error:
                self.wrong.setdefault((step.file, line), str(error))

    def complaints(self) -> list[str]:
        """A sentence for each comment that is not in order, with its file and line."""
        for file, comments in self.comments.items():
            for line, comment in comments.items():
                if (file, line) not in self.reached:
                    self.wrong[file, line] = f"{comment!r} is never reached"
                elif re.search(r"\bR\b", comment) and (file, line) not in self.with_fewer_rows:
                    self.wrong.setdefault((file, line), f"{comment!r}, but R is always T")
        return [f"{Path(file).name}:{line}: {what}" for (file, line), what in sorted(self.wrong.items())]


def dimensions(said: str, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """Each letter of a comment with its number; "..." stands for any dimensions in front."""
    letters, numbers = said.strip("()").replace(" ", "").strip(",").split(","), shape
    if letters[0] == "...":
        letters, numbers = letters[1:], shape[-(len(letters) - 1) :]
    if len(letters) != len(numbers):
        raise ValueError(f"{said} of {name}, which is {shape}")
    return zip(letters, numbers, strict=True)


def mlm_labels() -> torch.Tensor:
    labels = torch.full((4, 13), -100)
    for row, count in enumerate(LABELLED):
        labels[row, 2 : 2 + count] = torch.arange(5, 5 + count)
    return labels


def run_the_models(comments: Comments) -> None:
    """Forward and loss of each model: training and eval mode, with and without mask, all rows and some."""
    ids, mask = ragged_batch()
    some_rows = torch.tensor([[0, 5, 12], [8, 1, 1], [3, 3, 2], [0, 1, 12]])
    encoder, masked_lm = ours.DistilBertModel(our_config()), ours.DistilBertForMaskedLM(our_config())
    heads = ("linear", "pre_classifier")
    classifiers = [ours.DistilBertForSequenceClassification(our_config(classifier_head=head)) for head in heads]
    for training in (True, False):
        for attention_mask in (mask, None):
            for rows in (some_rows, None):
                with comments.while_running(rows=13 if rows is None else 3):
                    encoder.train(training)(ids, attention_mask, rows)
            with comments.while_running(rows=13):
                masked_lm.train(training)(ids, attention_mask)
            with comments.while_running(rows=max(LABELLED)):
                masked_lm.loss(ids, attention_mask, mlm_labels())
            for classifier in classifiers:
                with comments.while_running(rows=1):
                    classifier.train(training)(ids, attention_mask)
                    classifier.loss(ids, attention_mask, torch.tensor([4, 0, 1, 3]))


def make_batches(comments: Comments) -> None:
    """A batch of each task."""
    sequences = [np.arange(5, 5 + length) for length in LENGTHS]
    with comments.while_running(rows=13):
        classification_batch(sequences, np.array([4, 0, 1, 3]), pad_id=0)
        masked_batch([(ids, np.full(len(ids), -100)) for ids in sequences], pad_id=0)


def test_every_shape_comment_is_true_and_reached():
    comments = Comments(FILES, SIZE)
    run_the_models(comments)
    make_batches(comments)
    assert comments.complaints() == []
    assert len(comments.comments[ours.__file__]) >= 25


def test_no_two_letters_mean_the_same_number():
    sizes = [*(size for letter, size in SIZE.items() if letter != "L"), max(LABELLED), 1]  # no tensor has L of anything
    assert len(set(sizes)) == len(sizes)
    assert sum(LABELLED) == SIZE["M"] and max(LENGTHS) == SIZE["T"] and len(LENGTHS) == SIZE["B"]


def test_the_legend_explains_every_letter():
    assert SIZE.keys() | {"R"} == LEGEND


# ---- that the check can fail


def checked(tmp_path, lines: list[str], x=(4, 13, 12), rows: int = 3) -> list[str]:
    """Complaints about a function f(x) of these lines."""
    file = tmp_path / "some.py"
    file.write_text("\n".join(["def f(x):", *("    " + line for line in lines), "    pass"]) + "\n")
    spec = importlib.util.spec_from_file_location("some", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    comments = Comments([str(file)], SIZE)
    with comments.while_running(rows):
        module.f(torch.zeros(x))
    return comments.complaints()


@pytest.mark.parametrize(
    "line",
    [
        "y = x * 2  # (B, T, D)",
        "y, n = x * 2, 5  # (B, T, D)",
        "y, z = x, x[0]  # (B, T, D), (T, D)",
        "y, z = x.chunk(2, dim=2)  # (B, T, K)",
        "y = x[:, :1]  # (B, 1, D)",
        "return x[:, :, 0], x[0, 0]  # (B, T), (D,)",
        "return (\n        x\n    )  # (..., D)",
        "y = x[:, :3]  # (B, R, D)",
        "y = [part for part in x][0]  # (T, D)",
        "x += 1  # (B, T, D)",
        "y = {'a (B, T)': x}['a (B, T)']",
    ],
)
def test_a_true_comment_passes(tmp_path, line):
    assert checked(tmp_path, [line]) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("y = x * 2  # (B, D, T)", r"some.py:2: \(B, D, T\) of y, which is \(4, 13, 12\): D is 12"),
        ("y = x * 2  # (B, T)", r"some.py:2: \(B, T\) of y, which is"),
        ("y = x * 2  # (B, T, H, K)", "some.py:2: "),
        ("y = x[0, 0]  # (..., T, D)", r"\(12,\)"),
        ("y = x * 2  # (4, T, D)", "some.py:2: .* 4 is None"),
        ("y = x * 2  # (B, T, X)", "some.py:2: .* X is None"),
        ("y, z = x, x[0]  # (B, T, D)", r"some.py:2: .* of z, which is \(13, 12\)"),
        ("y, z = x, x  # (B, T, D), (B, T, D), (B, T, D)", "some.py:2: .* gives 3 shapes to 2 tensors"),
        ("y = x * 2  # (B T D)", "not of the form"),
        ("y = x * 2  # y is (B, T, D)", "not of the form"),
        ("y = x * 2  # B, T, D", "not of the form"),
        ("y = x.numel()  # (B, T, D)", "no tensor is made"),
        ("print(x)  # (B, T, D)", "never reached"),
        ("y = x * 2 if x.sum() else (  # (B, T, D)\n        1\n    )", "no tensor is made"),
        ("if x.sum():\n        y = x  # (B, T, D)", "some.py:3: .*never reached"),
        ("# (B, T, D)", "never reached"),
        ("y = x * 2  # (B, R, D)", "R is always T"),
        ("y = x[:, :5]  # (B, R, D)", r"\(4, 5, 12\): R is None"),
        ("y = x[:, :3]  # (B, R, D)\n    z = x  # (B, R, D)", "some.py:3: .* R is 3"),
    ],
)
def test_a_false_comment_is_named_with_its_line(tmp_path, line, complaint):
    found = checked(tmp_path, [line])
    assert len(found) == 1 and re.search(complaint, found[0]), found
