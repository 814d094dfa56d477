"""The tracer sees what ran, in order; the walkthrough shows the tensors of a forward pass as they are."""

import importlib.util
import linecache
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import our_config, ragged_batch, randomise

import distilbert.model as ours
from distilbert import trace
from distilbert.errors import UserError
from distilbert.predict import fill_mask, infer_reviews
from distilbert.tokenizer import Tokenizer

ROOT = Path(ours.__file__).parent.parent
TEXT = "Not bad at [MASK] ☃!"

SOME = """
def outer(x):
    a, (b, c) = inner(x), (x, [part * 2 for part in (x, x)])
    a += (
        1
    )
    for i in range(2):
        b = b + i
    try:
        c = inner(None)
    except TypeError:
        d: int = 5
    e = lambda y: y
    e.name = e(3)
    return a, b


def inner(x):
    if x is not None:
        y = x + 1
        return y
    z = x + 1
"""


@pytest.fixture
def some(tmp_path):
    """The module above, from a file."""
    (tmp_path / "some.py").write_text(SOME)
    spec = importlib.util.spec_from_file_location("some", tmp_path / "some.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoint(directory: Path, architecture: str, **changes) -> str:
    """A model of random weights that counts as trained, with a tokenizer."""
    tokenizer = Tokenizer.from_texts(["not bad at all!", "a film"])
    config = our_config(vocab_size=len(tokenizer), id2label={0: "Negative", 1: "Positive"}, **changes)
    randomise(getattr(ours, architecture)(config)).save_pretrained(directory)
    tokenizer.save_pretrained(directory, 17)
    return str(directory)


# ---- the tracer


def test_the_tracer_sees_each_assignment_and_return_when_it_ends(some):
    seen = []
    with trace.tracing([some.__file__], lambda step: seen.append((step.lines.start, step.call.f_code.co_name, step.results))):
        some.outer(1)
    assert seen == [
        (20, "inner", [("y", 2)]),
        (21, "inner", [("result", 2)]),
        (3, "outer", [("a", 2), ("b", 1), ("c", [2, 2])]),
        (4, "outer", [("a", 3)]),
        (8, "outer", [("b", 1)]),
        (8, "outer", [("b", 2)]),
        (12, "outer", [("d", 5)]),
        (13, "outer", [("e", seen[7][2][0][1])]),
        (14, "outer", []),
        (15, "outer", [("result", 3), ("result", 2)]),
    ]


def test_the_tracer_leaves_other_files_and_the_debugger_alone(some):
    def other(frame, event, argument):
        return None

    seen, before = [], sys.gettrace()
    try:
        sys.settrace(other)
        with trace.tracing([trace.__file__], seen.append):
            some.outer(1)
        assert sys.gettrace() is other
        with pytest.raises(TypeError), trace.tracing([some.__file__], seen.append):
            some.outer("no number")
        assert sys.gettrace() is other
    finally:
        sys.settrace(before)
    assert seen == []


# ---- the journey


@pytest.mark.parametrize("training", [True, False])
def test_the_last_tensor_of_the_journey_is_the_models_own_and_the_model_stays_as_it_was(training):
    model = randomise(ours.DistilBertForSequenceClassification(our_config())).eval()
    ids, mask = ragged_batch()
    logits = model(ids, mask)
    model.train(training)
    rates = [module.p for module in model.modules() if isinstance(module, ours.Dropout)]
    last = trace.journey(model, ids, mask)[-1]
    assert (last.module, last.name, last.letters, last.shape) == ("head", "result", "(B, C)", (4, 5))
    assert last.mean == pytest.approx(logits.mean().item(), abs=1e-5)
    assert last.spread == pytest.approx(logits.std(correction=0).item(), abs=1e-5)
    assert [module.p for module in model.modules() if isinstance(module, ours.Dropout)] == rates and min(rates) > 0.01
    assert all(module.training is training for module in model.modules())


def test_the_journey_shows_each_modules_output_in_the_order_it_comes_to_be():
    model = randomise(ours.DistilBertModel(our_config())).eval()
    ids, mask = ragged_batch()
    outputs = []
    for name, module in model.named_modules():
        if type(module) in (ours.Embeddings, ours.Attention, ours.FeedForward, ours.Block):
            module.register_forward_hook(lambda module, inputs, output, name=name: outputs.append((name, output)))
    model(ids, mask)
    expected, outputs = list(outputs), []
    rows = [row for row in trace.journey(model, ids, mask) if row.name == "result"]
    assert [row.module for row in rows] == [name for name, _ in expected]
    for row, (_, output) in zip(rows, expected, strict=True):
        assert row.shape == output.shape
        assert row.mean == pytest.approx(output.mean().item(), abs=1e-5)
        assert row.spread == pytest.approx(output.std(correction=0).item(), abs=1e-5)


def test_the_journey_shows_scores_and_weights_once_and_names_no_tensor_twice():
    model = randomise(ours.DistilBertModel(our_config())).eval()
    rows = trace.journey(model, *ragged_batch())
    in_attention = [row.name for row in rows if row.module == "blocks.0.attention"]
    assert in_attention == ["q", "k", "v", "q", "k", "v", "scores", "weights", "context", "result"]
    weights = [row for row in rows if row.name == "weights"]
    assert [row.shape for row in weights] == [(4, 2, 13, 13)] * 3
    assert [row.mean for row in weights] == pytest.approx([1 / 13] * 3)  # each query's weights sum to one
    assert [row.name for row in rows if row.module == "blocks.0"] == ["a", "result"]  # not x_rows, which is x
    assert [row.name for row in rows if row.module == "DistilBertModel"] == ["mask"]  # not x, the embeddings' result


def test_each_row_quotes_the_line_that_stands_there():
    for row in trace.journey(randomise(ours.DistilBertForMaskedLM(our_config())), *ragged_batch()):
        assert linecache.getline(ours.__file__, row.line).strip().startswith(row.source) and row.source


# ---- the printed page


@pytest.mark.parametrize("columns", [80, 120])
def test_no_printed_line_is_wider_than_the_terminal(columns):
    rows = trace.journey(randomise(ours.DistilBertForMaskedLM(our_config())), *ragged_batch())
    lines = [*trace.picture(rows, columns), *trace.token_lines(["[UNK]"] * 40, [100] * 40, columns)]
    assert max(map(len, lines)) <= columns
    wide = trace.Row("encoder", "", 5, "x = y", "weights", "(B, H, R, T)", (1, 12, 512, 512), -30_000.0, 12_345.678)
    assert max(map(len, trace.picture([wide], columns))) <= columns


def test_tokens_stand_above_their_ids():
    lines = list(trace.token_lines(["[CLS]", "a", "[SEP]"], [101, 7, 102], 80))
    assert [line.split() for line in lines] == [["[CLS]", "a", "[SEP]"], ["101", "7", "102"]]
    assert lines[0].index("a") == lines[1].index("7")
    assert [line.split() for line in trace.token_lines(list("abc"), [1, 2, 3], 10)] == [["a", "b"], ["1", "2"], ["c"], ["3"]]


def test_the_verdict_is_of_as_much_text_as_the_walkthrough(tmp_path):
    """Where the positions reach further than the 512 tokens that `infer_reviews` reads unless told."""
    directory = checkpoint(tmp_path, "DistilBertForSequenceClassification", max_position_embeddings=600)
    model, tokenizer = ours.DistilBertForSequenceClassification.from_pretrained(directory), Tokenizer.from_pretrained(directory)
    text = "bad " * 510 + "not " * 88
    (_, label, whole), (_, _, beginning) = (infer_reviews(text, model, tokenizer, max_length=n) for n in (600, 512))
    assert (
        list(trace.verdict(text, model, tokenizer)) == [f"verdict: {label} {whole:.3f}"]
        and f"{whole:.3f}" != f"{beginning:.3f}"
    )


def test_a_text_without_a_word_gets_no_verdict(finished):
    kinds = ours.DistilBertForSequenceClassification, Tokenizer
    model, tokenizer = (kind.from_pretrained(finished.directory) for kind in kinds)
    (said,) = trace.verdict(" ", model, tokenizer)
    assert said == "There is nothing to judge in it: a sentence needs at least one word."


@pytest.mark.parametrize("head", ["linear", "pre_classifier"])
def test_a_classifiers_walkthrough_ends_with_its_verdict(tmp_path, capsys, head):
    directory = checkpoint(tmp_path, "DistilBertForSequenceClassification", classifier_head=head)
    trace.main([TEXT, "--model", directory])
    model, tokenizer = ours.DistilBertForSequenceClassification.from_pretrained(directory), Tokenizer.from_pretrained(directory)
    _, label, confidence = infer_reviews(TEXT, model, tokenizer)
    out = capsys.readouterr().out
    pieces, ids = (line.split() for line in out.splitlines()[2:4])
    assert pieces == ["[CLS]", "not", "bad", "at", "[MASK]", "[UNK]", "!", "[SEP]"]
    assert ids == [str(i) for i in tokenizer.encode(TEXT)]
    assert f"(B, T) = (1, {len(tokenizer.encode(TEXT))})" in out
    assert "distilbert/model.py:" in out and "(B, C) = (1, 2)" in out
    assert out.splitlines()[-1] == f"verdict: {label} {confidence:.3f}"


def test_a_masked_lms_walkthrough_ends_with_its_guesses(tmp_path, capsys):
    directory = checkpoint(tmp_path, "DistilBertForMaskedLM")
    trace.main([TEXT, "--model", directory])
    model, tokenizer = ours.DistilBertForMaskedLM.from_pretrained(directory), Tokenizer.from_pretrained(directory)
    [guesses] = fill_mask(TEXT, model, tokenizer)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "[MASK]: " + "  ".join(f"{piece} {probability:.3f}" for piece, probability in guesses)
    trace.main(["not bad", "--model", directory])
    assert "put [MASK] in the sentence" in capsys.readouterr().out


def test_an_encoders_walkthrough_ends_with_its_vectors(tmp_path, capsys):
    trace.main(["--model", checkpoint(tmp_path, "DistilBertModel"), "a film " * 30])
    out = capsys.readouterr().out
    assert "no trained head" in out.splitlines()[-1]
    assert "(B, R, D) = (1, 17, 12)" in out  # cut to the model's positions


def test_a_model_that_is_not_there_is_said_in_a_line_with_status_2(tmp_path):
    command = [sys.executable, "-m", "distilbert.trace", "Not bad", "--model", "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2 and done.stderr.startswith("error: --model nowhere") and len(done.stderr.splitlines()) <= 2
    with pytest.raises(UserError, match="--modle"):
        trace.main(["Not bad", "--modle", "x"])
