"""The journey of a sentence: each tensor in the order it comes to be, with the line of code that made it.

    python -m distilbert.trace "Not bad at all" --model runs/cls

What it says is what ran: it listens to Python's own line events (sys.settrace) while the model computes. The tests hold
every shape comment of the source against the same events.
"""

import ast
import contextlib
import functools
import inspect
import re
import shutil
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from . import model as model_file
from .checkpoint import read_checkpoint
from .cli import flag, parse, printable, user_errors
from .hub import locate
from .logits import evaluating
from .predict import check_pair, fill_mask, infer_reviews
from .tokenizer import Tokenizer

# ---- the tracer


@dataclass(frozen=True)
class Step:
    """A statement that has run: its file and lines, the call it ran in, and what it assigned or returned."""

    file: str
    statement: ast.stmt
    call: FrameType
    results: list[tuple[str, object]]

    @property
    def lines(self) -> range:
        return range(self.statement.lineno, self.statement.end_lineno + 1)


@contextlib.contextmanager
def tracing(files: Iterable[str], see: Callable[[Step], None]) -> Iterator[None]:
    """Calls `see` after each assignment and return in the functions of these files, in the order in which they end."""
    statements = {file: _statements(file) for file in files}

    def on_call(frame: FrameType, event: str, argument):
        lines = statements.get(frame.f_code.co_filename)
        if lines is None or frame.f_code.co_name.startswith("<"):  # another file, or a comprehension or lambda
            return None
        running = None

        def on_event(frame: FrameType, event: str, argument):
            nonlocal running
            if event == "exception" and argument[0] is not StopIteration:  # with which an iterator ends, no more
                running = None
            following = lines.get(frame.f_lineno) if event == "line" else None
            if event in ("line", "return") and running is not None and following is not running:
                see(Step(frame.f_code.co_filename, running, frame, _results(running, frame, argument)))
            if event == "line":
                running = following
            return on_event

        return on_event

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(before)


@functools.cache
def _statements(file: str) -> dict[int, ast.stmt]:
    """Line → the assignment or return that stands on it, alone or among other lines."""
    kinds = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return)
    found = [node for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    return {line: node for node in found for line in range(node.lineno, node.end_lineno + 1)}


def _results(statement: ast.stmt, frame: FrameType, returned: object) -> list[tuple[str, object]]:
    if isinstance(statement, ast.Return):
        return [("result", value) for value in (returned if isinstance(returned, tuple) else (returned,))]
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    parts = (part for target in targets for part in ast.walk(target))
    names = [part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    return [(name, frame.f_locals[name]) for name in names if name in frame.f_locals]


def shape_comments(file: str) -> dict[int, str]:
    """Line → the comment on it that speaks of a shape, as it stands: "(B, T, D)", or "(M, V), (M,)" of two results."""
    with tokenize.open(file) as source:
        comments = [token for token in tokenize.generate_tokens(source.readline) if token.type == tokenize.COMMENT]
    shape = re.compile(r"\((\.\.\.|[A-Z]|\d+)[,)]|\b[A-Z],? ([A-Z]|\d+)\b")
    return {token.start[0]: token.string.lstrip("# ") for token in comments if shape.search(token.string)}


def split_shapes(comment: str, count: int) -> list[str]:
    """The shape of each of `count` tensors: one for all of them, or one each. Raises `ValueError` for another form."""
    if not re.fullmatch(r"(\((\w+,|(\.\.\.|\w+)(, \w+)+)\)(, |$))+", comment):
        raise ValueError(f"{comment!r} is not of the form (B, T, D)")
    shapes = re.findall(r"\(.*?\)", comment)
    if len(shapes) not in (1, count):
        raise ValueError(f"{comment!r} gives {len(shapes)} shapes to {count} tensors")
    return shapes * count if len(shapes) == 1 else shapes


# ---- the walkthrough


@dataclass(frozen=True)
class Row:
    """A tensor of the journey: the module that made it and by which line, its name, its shape in letters and numbers."""

    module: str
    about: str  # the first line of the module's docstring
    line: int
    source: str
    name: str
    letters: str  # "" where the source does not say
    shape: tuple[int, ...]
    mean: float
    spread: float  # the standard deviation


def journey(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None) -> list[Row]:
    """Each new tensor that a forward of one of our models assigns or returns, in order. Ids and mask (B, T).

    In eval mode, so that nothing is dropped. Fused attention would not show scores and weights: compute on the CPU, in fp32.
    """
    file = inspect.getsourcefile(model_file)
    source = Path(file).read_text(encoding="utf-8").splitlines()
    names, comments = {id(module): name for name, module in model.named_modules()}, shape_comments(file)
    rows: list[Row] = []
    seen = [input_ids, attention_mask]  # the tensors themselves: an id alone could come again

    def see(step: Step) -> None:
        module = step.call.f_locals.get("self")
        if step.call.f_code.co_name not in ("forward", "attend") or isinstance(module, model_file.Dropout):
            return  # what another helper returns is named by its caller, and a dropout that is off makes nothing
        tensors = [(name, value) for name, value in step.results if isinstance(value, Tensor)]
        comment = next((comments[line] for line in step.lines if line in comments), None)
        letters = split_shapes(comment, len(tensors)) if comment else [""] * len(tensors)
        code = " ".join(line.split("  # ")[0].strip() for line in source[step.lines.start - 1 : step.lines.stop - 1])
        for (name, tensor), shape in zip(tensors, letters, strict=True):
            if not any(tensor is other for other in seen):
                seen.append(tensor)
                about = inspect.getdoc(module).splitlines()[0]
                values = tensor.cpu().double()  # a Mac's GPU knows no float64
                figures = values.mean().item() + 0.0, values.std(correction=0).item()  # + 0.0: no minus before a zero
                place = (names[id(module)] or type(module).__name__, about, step.lines.start, code)
                rows.append(Row(*place, name, shape, tuple(tensor.shape), *figures))

    with evaluating(model), tracing([file], see):
        model(input_ids, attention_mask)
    return rows


def picture(rows: list[Row], columns: int) -> Iterator[str]:
    """The rows as lines of text: modules as headings, code once a line of it, tensors beneath."""
    module, line, told = None, None, set()
    for row in rows:
        if row.module != module:
            yield from ("", row.module)
            if row.about not in told:
                yield from textwrap.wrap(row.about, columns, initial_indent="  ", subsequent_indent="  ")
            told.add(row.about)
        if (row.module, row.line) != (module, line):
            place = f"  {Path(model_file.__file__).parent.name}/{Path(model_file.__file__).name}:{row.line}  "
            yield from textwrap.wrap(
                row.source, columns, initial_indent=place, subsequent_indent=" " * (len(place) + 4), break_on_hyphens=False
            )
        module, line = row.module, row.line
        shape = f"{row.letters} = {row.shape}" if row.letters else f"{row.shape}"
        yield f"    {row.name:8} {shape:32} mean{row.mean:+11.3f} spread{row.spread:10.3f}"


def token_lines(pieces: list[str], ids: list[int], columns: int) -> Iterator[str]:
    """Pieces above their ids, as many side by side as fit."""
    width = max(map(len, [*pieces, *map(str, ids)])) + 2
    across = max((columns - 2) // width, 1)
    for start in range(0, len(ids), across):
        for line in (pieces, ids):
            yield "  " + "".join(f"{item:>{width}}" for item in line[start : start + across])


# ---- the command line


@dataclass(frozen=True)
class Arguments:
    """Follows a sentence through the model: tokens, tensors, the lines of code that make them, and the verdict."""

    text: str = flag("Not bad at all", "the sentence", positional=True)
    model: str = flag("minilm", "directory, hub id, minilm or distilbert-base-uncased")


def load_with_its_head(model: str) -> nn.Module:
    """The classifier or masked LM that a checkpoint holds a head for, else its bare encoder."""
    _, tensors, _ = read_checkpoint(locate(model))
    heads = {name.split(".")[0] for name in tensors}
    if "classifier" in heads:
        return model_file.DistilBertForSequenceClassification.from_pretrained(model)
    if "vocab_transform" in heads:
        return model_file.DistilBertForMaskedLM.from_pretrained(model)
    return model_file.DistilBertModel.from_pretrained(model)


def verdict(text: str, model: nn.Module, tokenizer: Tokenizer) -> Iterator[str]:
    """What the model's head makes of the text, as far as the model's positions reach, in words."""
    if len(tokenizer.encode(text, None)) == 2:  # [CLS] and [SEP]
        yield "There is nothing to judge in it: a sentence needs at least one word."
    elif isinstance(model, model_file.DistilBertForSequenceClassification):
        _, label, confidence = infer_reviews(text, model, tokenizer, max_length=model.config.max_position_embeddings)
        yield f"verdict: {label} {confidence:.3f}"
    elif isinstance(model, model_file.DistilBertForMaskedLM) and "[MASK]" in text:
        for guesses in fill_mask(text, model, tokenizer):
            yield "[MASK]: " + "  ".join(f"{piece} {probability:.3f}" for piece, probability in guesses)
    elif isinstance(model, model_file.DistilBertForMaskedLM):
        yield "This model guesses hidden words: put [MASK] in the sentence."
    else:
        yield "One vector a token, and no trained head to judge by: python train_cls.py"


def main(argv: list[str] | None = None) -> None:
    """`python -m distilbert.trace "Not bad at all"`. Raises `UserError` for a model that can't be loaded."""
    args = parse(Arguments, argv)
    model, tokenizer = load_with_its_head(args.model), Tokenizer.from_pretrained(args.model)
    check_pair(model, tokenizer)
    columns = min(max(shutil.get_terminal_size().columns, 80), 120)
    ids = tokenizer.encode(args.text, model.config.max_position_embeddings)
    input_ids = torch.tensor([ids])  # (B, T)
    print(f"{args.text!r} through {args.model}: {len(ids)} tokens, input_ids (B, T) = {tuple(input_ids.shape)}\n")
    pieces = [printable(tokenizer.backend.id_to_token(i)) for i in ids]
    print("\n".join(token_lines(pieces, ids, columns)))
    print("\n".join(picture(journey(model, input_ids, torch.ones_like(input_ids)), columns)))
    print("\n" + "\n".join(map(printable, verdict(args.text, model, tokenizer))))


if __name__ == "__main__":
    with user_errors():
        main()
