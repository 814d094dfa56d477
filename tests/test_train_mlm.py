"""train_mlm.py from flags to run directory, and what train_cls.py and transformers make of its result."""

import difflib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import TINY, close
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounter

import train_cls
import train_mlm
from data.mlm import mask_tokens, masked_batch
from distilbert import DistilBertConfig, DistilBertForMaskedLM, DistilBertForSequenceClassification, Tokenizer
from distilbert.errors import UserError
from distilbert.logits import masked_lm_totals
from distilbert.metrics import masked_lm_metrics
from distilbert.model import Dropout
from distilbert.predict import fill_mask
from distilbert.predict import main as predict_main
from distilbert.run import Run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("distilbert.run.draw_curves", lambda *_: False)


@pytest.fixture(scope="module")
def adapted(corpus, tmp_path_factory) -> Path:
    """A finished adaptation to the toy corpus."""
    directory = tmp_path_factory.mktemp("private-folder") / "mlm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilbert.run.draw_curves", lambda *_: False)
        train_mlm.main([*TINY, "--data", str(corpus), "--output_dir", str(directory), "--num_train_epochs", "12"])
    return directory


def log(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def test_the_twin_scripts_differ_in_less_than_120_lines():
    first, second = ((ROOT / name).read_text(encoding="utf-8").splitlines() for name in ("train_cls.py", "train_mlm.py"))
    assert sum(line[:2] in ("- ", "+ ") for line in difflib.ndiff(first, second)) < 120


def test_compile_reaches_the_optimizer_and_says_why_the_first_step_is_long(corpus, tmp_path, monkeypatch, capsys):
    """Without a C++ compiler: what it would make, of a trial and of AdamW, is left to torch's plain operations."""
    counter, compile_with = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile_with(function, backend=counter, **how))
    monkeypatch.setattr("distilbert.precision.has_compiler", lambda: True)
    flags = [*TINY, "--data", str(corpus), "--max_steps", "2", "--output_dir", str(tmp_path / "run")]
    train_mlm.main([*flags, "--compile"])
    assert counter.frame_count == 2 and "compiling: the first step takes" in capsys.readouterr().out


def test_the_twins_loops_differ_in_labels_and_score_alone():
    """So what tests/test_train_cls.py shows of a step holds for both."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("train_cls.py", "train_mlm.py")]
    loops = [text[text.index("    model.train()\n") : text.index("    # the best validation's")].splitlines() for text in texts]
    assert [(a.strip(), b.strip()) for a, b in zip(*loops, strict=True) if a != b] == [
        (
            'counts = [len(batch["labels"]) for batch in step_batches]',
            'counts = [int((batch["labels"] != IGNORED).sum()) for batch in step_batches]',
        ),
        ('_, metrics = evaluate("validation")', 'metrics = evaluate("validation")'),
        (
            'if run.log_evaluation(metrics, score=metrics["accuracy"]):',
            'if run.log_evaluation(metrics, score=-metrics["loss"]):',
        ),
    ]


@pytest.mark.parametrize(("start", "end"), [("    optimizer = AdamW", "    best = run.restore"),
                                            ("    accumulation = ", " * args.warmup_ratio)"),
                                            ("    # the best validation's", "    run.say(")])  # fmt: skip
def test_the_twins_prepare_and_end_alike(start, end):
    """So what tests/test_train_cls.py shows of masters, of lengths and of the best weights holds for both."""
    first, second = ((ROOT / name).read_text(encoding="utf-8") for name in ("train_cls.py", "train_mlm.py"))
    first, second = (text[(begins := text.index(start)) : text.index(end, begins)] for text in (first, second))
    assert first.replace('logits, metrics = evaluate("test")', 'metrics = evaluate("test")') == second


def test_the_flags_of_texts_and_groups_are_what_the_texts_and_groups_are_made_by(corpus, tmp_path, monkeypatch):
    given = {}
    for name in ("load", "prepare", "parameter_groups"):
        real = getattr(train_mlm, name)
        monkeypatch.setattr(
            train_mlm, name, lambda first, *rest, name=name, real=real: given.update({name: rest}) or real(first, *rest)
        )
    flags = [*TINY, "--data", str(corpus), "--split", "seed-b", "--keep_breaks", "--keep_duplicates", "--train_size", "20"]
    flags += ["--eval_size", "6", "--seed", "7", "--weight_decay", "0.3", "--decay_all", "--layer_decay", "0.5"]
    train_mlm.main([*flags, "--max_steps", "1", "--output_dir", str(tmp_path / "run")])
    assert given["load"] == ("seed-b", True) and given["prepare"] == (True, 20, 6, 7, str(corpus))
    assert given["parameter_groups"] == (5e-3, 0.3, None, True, 0.5)


def test_without_a_length_there_are_three_epochs_and_long_texts_become_several_windows(corpus, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_mlm, "mask_tokens", lambda *args: seen.append(args) or mask_tokens(*args))
    flags = [*TINY, "--data", str(corpus), "--train_size", "16", "--eval_size", "4", "--max_length", "9"]
    train_mlm.main([*flags, "--output_dir", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["epochs"] == 3
    trained = {seed[2] for _, seed, *_ in seen if len(seed) == 3}
    assert max(len(ids) for ids, *_ in seen) == 9 and len(trained) > 16


def test_each_epoch_and_each_seed_hides_other_tokens(corpus, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_mlm, "mask_tokens", lambda *args: seen.append(args[1]) or mask_tokens(*args))
    flags = [*TINY, "--data", str(corpus), "--train_size", "24", "--num_train_epochs", "2", "--seed", "7"]
    train_mlm.main([*flags, "--output_dir", str(tmp_path / "run")])
    trained = [seed for seed in seen if len(seed) == 3]
    assert sorted(trained) == [(7, epoch, i) for epoch in (0, 1) for i in range(24)]


def test_the_toy_language_is_learnt_and_the_log_says_from_where_to_where(adapted):
    evaluations = [line for line in log(adapted) if "eval_loss" in line]
    before, after = evaluations[0], evaluations[-1]
    assert before["step"] == 0
    assert after["eval_loss"] < before["eval_loss"] - 0.5
    assert after["eval_masked_accuracy"] > before["eval_masked_accuracy"]
    assert math.isclose(after["eval_perplexity"], math.exp(after["eval_loss"]))
    assert before["eval_n"] == after["eval_n"]  # the same tokens are masked every time


def test_validation_masks_do_not_depend_on_the_seed(adapted, corpus, tmp_path):
    """The same weights on the same tokens have the same loss."""
    first = []
    for seed in ("1", "7"):
        flags = [*TINY, "--model", str(adapted), "--data", str(corpus), "--seed", seed, "--max_steps", "1"]
        train_mlm.main([*flags, "--train_size", "8", "--output_dir", str(tmp_path / seed)])
        first.append(log(tmp_path / seed)[0])
    assert first[0] == first[1]


def test_the_step_of_the_lowest_validation_loss_remains_and_the_start_is_never_it(corpus, tmp_path, monkeypatch):
    losses = iter([0.5, 3.0, 1.0, 2.0, 5.0])  # before the first step, three validations, the test
    monkeypatch.setattr(train_mlm, "masked_lm_metrics", lambda *args: masked_lm_metrics(*args) | {"loss": next(losses)})
    flags = [*TINY, "--data", str(corpus), "--train_size", "24", "--batch_size", "8", "--num_train_epochs", "3"]
    train_mlm.main([*flags, "--output_dir", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["best_step"] == 6
    kept = load_file(tmp_path / "run" / "model.safetensors")["distilbert.embeddings.word_embeddings.weight"]
    sixth, ninth = (
        load_file(tmp_path / f"run/checkpoint/step-{step}/tensors.safetensors")["model/encoder.embeddings.words.weight"]
        for step in (6, 9)
    )
    assert torch.equal(kept, sixth) and not torch.equal(kept, ninth)


def test_a_run_loads_in_transformers_with_equal_logits_and_fills_masks_there(adapted):
    ours, tokenizer = DistilBertForMaskedLM.from_pretrained(adapted).eval(), Tokenizer.from_pretrained(adapted)
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(adapted, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ids = torch.tensor([tokenizer.encode("the film with [MASK] music")])
    with torch.no_grad():
        close(ours(ids), theirs.eval()(ids).logits, 1e-5)
    pipeline = transformers.pipeline("fill-mask", model=str(adapted))
    guesses = pipeline("the film with [MASK] music", top_k=5)
    expected = fill_mask("the film with [MASK] music", ours, tokenizer)[0]
    assert [guess["token_str"] for guess in guesses] == [piece for piece, _ in expected]
    assert np.allclose([guess["score"] for guess in guesses], [p for _, p in expected], atol=1e-5)


def test_the_loss_equals_transformers_on_the_same_masked_batch(adapted):
    ours = DistilBertForMaskedLM.from_pretrained(adapted).eval()
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(adapted).eval()
    size = ours.config.vocab_size
    texts = [np.random.default_rng(i).integers(5, size, length, dtype=np.int32) for i, length in enumerate((31, 20, 7))]
    pairs = [mask_tokens(ids, (0, 0, i), size, 4, [0, 1, 2, 3, 4], 0.3) for i, ids in enumerate(texts)]
    batch = masked_batch(pairs, 0)
    close(ours.loss(**batch), theirs(**batch).loss, 1e-5)
    loss_sum, _, count = masked_lm_totals(ours, pairs, 0, batch_size=2)
    assert math.isclose(loss_sum / count, theirs(**batch).loss.item(), rel_tol=1e-5)


def test_nothing_of_the_head_is_lost_between_two_adaptations(adapted, corpus, tmp_path, capsys):
    flags = ["--model", str(adapted), "--data", str(corpus), "--max_length", "48", "--precision", "fp32", "--max_steps", "1"]
    train_mlm.main([*flags, "--learning_rate", "0", "--output_dir", str(tmp_path / "again")])
    before, after = (load_file(directory / "model.safetensors") for directory in (adapted, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "untrained" not in capsys.readouterr().err


def test_a_classifier_starts_from_an_adapted_encoder(adapted, corpus, tmp_path, capsys):
    flags = ["--data", str(corpus), "--max_length", "48", "--precision", "fp32", "--max_steps", "1", "--learning_rate", "0"]
    train_cls.main([*flags, "--model", str(adapted), "--output_dir", str(tmp_path / "cls")])
    before, after = (load_file(directory / "model.safetensors") for directory in (adapted, tmp_path / "cls"))
    encoder = [name for name in before if name.startswith("distilbert.")]
    assert len(encoder) == len(before) - 5
    assert all(torch.equal(before[name], after[name]) for name in encoder)
    assert "untrained" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_adaptation_ends_as_the_uninterrupted_one(precision, corpus, tmp_path, monkeypatch):
    flags = [*TINY, "--data", str(corpus), "--train_size", "24", "--batch_size", "8", "--num_train_epochs", "2"]
    flags += ["--precision", precision, "--dropout", "0.1", "--logging_steps", "2", "--save_steps", "2", "--output_dir"]
    train_mlm.main([*flags, str(tmp_path / "whole")])

    class PowerCut(BaseException):
        pass

    def cut(run, *args):
        save(run, *args)
        if run.progress.step == 4:  # in the middle of the second epoch
            raise PowerCut

    save = Run.save
    monkeypatch.setattr(Run, "save", cut)
    with pytest.raises(PowerCut):
        train_mlm.main([*flags, str(tmp_path / "cut")])
    monkeypatch.setattr(Run, "save", save)
    train_mlm.main([*flags, str(tmp_path / "cut"), "--resume"])
    whole, cut_run = tmp_path / "whole", tmp_path / "cut"
    assert (whole / "model.safetensors").read_bytes() == (cut_run / "model.safetensors").read_bytes()
    timeless = [[{k: v for k, v in line.items() if k != "seconds"} for line in log(run)] for run in (whole, cut_run)]
    assert timeless[0] == timeless[1]


def test_accumulated_batches_weigh_by_their_labels(corpus, tmp_path):
    flags = [*TINY, "--data", str(corpus), "--train_size", "24", "--max_steps", "1", "--batching", "random"]
    flags += ["--learning_rate", "1e-3", "--warmup_ratio", "0", "--eval_size", "2", "--output_dir"]
    train_mlm.main([*flags, str(tmp_path / "one"), "--batch_size", "24"])
    train_mlm.main([*flags, str(tmp_path / "many"), "--batch_size", "8", "--gradient_accumulation_steps", "3"])
    one, many = (log(tmp_path / name)[1] for name in ("one", "many"))
    assert math.isclose(one["loss"], many["loss"], rel_tol=1e-5)
    assert math.isclose(one["grad_norm"], many["grad_norm"], rel_tol=1e-4)


@pytest.mark.parametrize(
    "flags", [["--pack"], ["--truncate", "--max_length", "9"], ["--whole_word_masking"], ["--mlm_probability", "0.4"]]
)
def test_other_ways_of_making_sequences_are_what_is_trained_on(flags, corpus, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_mlm, "mask_tokens", lambda *args: seen.append(args) or mask_tokens(*args))
    train_mlm.main([*TINY, "--data", str(corpus), "--max_steps", "2", "--output_dir", str(tmp_path / "run"), *flags])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["metrics"]["test"]["n"] > 0
    told = (0.4 if "0.4" in flags else 0.15, "--whole_word_masking" in flags)
    assert {(probability, continues is not None) for *_, probability, continues in seen} == {told}
    assert (max(len(ids) for ids, *_ in seen) == 48) == ("--pack" in flags)  # a text of its own is shorter
    evaluated = {seed for _, seed, *_ in seen if len(seed) == 2}
    assert (len(evaluated) == 16) == ("--pack" not in flags)  # a text of validation or test is one sequence, however long


def test_packing_and_cutting_exclude_each_other(corpus, tmp_path):
    with pytest.raises(UserError, match=r"--pack and --truncate exclude each other.*--no_truncate"):
        train_mlm.main([*TINY, "--data", str(corpus), "--pack", "--truncate", "--output_dir", str(tmp_path / "run")])


def test_a_text_file_is_enough(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"This is sentence {i} of a book.\n" for i in range(40)))
    train_mlm.main([*TINY, "--data", str(path), "--max_steps", "1", "--output_dir", str(tmp_path / "run")])
    sizes = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert [sizes[name] for name in ("train", "validation", "test")] == [32, 4, 4]


def test_a_line_that_stands_twice_in_a_text_file_is_not_trained_on_and_held_out(tmp_path, capsys):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"This is sentence {i % 20} of a book.\n" for i in range(40)))
    train_mlm.main([*TINY, "--data", str(path), "--max_steps", "1", "--output_dir", str(tmp_path / "run")])
    sizes = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert (sizes["validation"], sizes["test"]) == (4, 4) and sizes["train"] + sizes["dropped_duplicates"] == 32
    assert sizes["dropped_duplicates"] > 0 and f"{sizes['dropped_duplicates']} dropped" in capsys.readouterr().out


def test_a_text_file_of_one_text_again_and_again_is_refused_in_words(tmp_path):
    (tmp_path / "book.txt").write_text("The same line.\n" * 3)
    flags = [*TINY, "--data", str(tmp_path / "book.txt"), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    with pytest.raises(
        UserError, match=r"book\.txt: every text to .* stands in validation or test; --keep_duplicates keeps it"
    ):
        train_mlm.main(flags)
    train_mlm.main([*flags, "--keep_duplicates"])


def test_texts_of_which_nothing_can_be_hidden_are_refused_before_the_run_begins(adapted, tmp_path):
    """[UNK] is never hidden, and that is all that the vocabulary makes of them."""
    data = tmp_path / "films.txt"
    data.write_text("\n".join(f"映画 は 良い {chr(0x4E00 + i)}" for i in range(40)))
    with pytest.raises(UserError, match=r"films\.txt: no token of validation is hidden"):
        train_mlm.main(
            ["--model", str(adapted), "--data", str(data), "--max_length", "32", "--output_dir", str(tmp_path / "run")]
        )
    assert not (tmp_path / "run").exists()


def test_a_test_part_of_which_nothing_can_be_hidden_is_refused_too(adapted, tmp_path):
    rows = [
        {"text": f"a lovely film {i}" if i < 30 else "映画", "split": ("train", "validation", "test")[i // 15]}
        for i in range(32)
    ]
    data = tmp_path / "films.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    flags = ["--model", str(adapted), "--data", str(data), "--max_length", "32", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match="no token of test is hidden"):
        train_mlm.main(flags)


def test_a_classifier_of_two_classes_can_follow_the_adaptation_of_one_of_three(adapted, corpus, tmp_path):
    config = json.loads((adapted / "config.json").read_text())
    three = DistilBertConfig.from_dict(config).replace(id2label={0: "against", 1: "neutral", 2: "for"})
    DistilBertForSequenceClassification(three).save_pretrained(tmp_path / "three")
    Tokenizer.from_pretrained(adapted).save_pretrained(tmp_path / "three", 512)
    flags = [*TINY, "--data", str(corpus), "--max_steps", "1"]
    train_mlm.main([*flags, "--model", str(tmp_path / "three"), "--output_dir", str(tmp_path / "mlm")])
    train_cls.main([*flags, "--model", str(tmp_path / "mlm"), "--output_dir", str(tmp_path / "cls")])
    assert DistilBertForSequenceClassification.from_pretrained(tmp_path / "cls").config.num_labels == 2


def test_dropout_is_of_the_adaptation_and_not_of_the_model_that_comes_of_it(tmp_path, corpus, monkeypatch):
    rates, loss = set(), DistilBertForMaskedLM.loss

    def observed(model, *args, **kwargs):
        rates.update((model.training, module.p) for module in model.modules() if isinstance(module, Dropout))
        return loss(model, *args, **kwargs)

    monkeypatch.setattr(DistilBertForMaskedLM, "loss", observed)
    train_mlm.main([*TINY, "--data", str(corpus), "--max_steps", "1", "--output_dir", str(tmp_path / "run")])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (rates, config["dropout"], config["attention_dropout"]) == ({(True, 0.0)}, 0.1, 0.1)


def test_filling_prints_five_guesses_a_mask_and_refuses_what_it_cannot_fill(adapted, finished, capsys):
    predict_main(["--model", str(adapted), "--fill", "a [MASK] film with [MASK]"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and lines[0].startswith("[MASK] 1") and lines[6].startswith("[MASK] 2")
    with pytest.raises(UserError, match=r"no \[MASK\]"):
        predict_main(["--model", str(adapted), "--fill", "a film"])
    with pytest.raises(UserError, match="untrained"):
        predict_main(["--model", str(finished.directory), "--fill", "a [MASK] film"])
