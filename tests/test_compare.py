"""benchmarks/: the useful operations are those that torch counts, and a machine without bf16 meets fp32 contestants only."""

import itertools
import json
import shutil
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from conftest import NO_DROPOUT, SIZES, our_config, write_toy_corpus
from matplotlib.axes import Axes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import train_cls
import train_mlm
from data.sources import Part, load
from distilbert import Tokenizer
from distilbert.errors import UserError
from distilbert.model import IGNORED, DistilBertForMaskedLM, DistilBertForSequenceClassification
from distilbert.precision import Precision

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import compare
import contestants
import flops
import trainer


def counted(model: torch.nn.Module, backward: bool, *batch: torch.Tensor) -> int:
    model.train()  # products written out, as in training; SDPA would be counted by another rule
    model.encoder.blocks.apply(lambda module: setattr(module, "p", 1e-4) if hasattr(module, "p") else None)
    with FlopCounterMode(display=False) as counter:
        loss = model.loss(*batch)
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("training", [False, True])
def test_a_classifiers_useful_operations_are_those_that_torch_counts(training):
    config = our_config(**NO_DROPOUT, classifier_head="linear")
    model = DistilBertForSequenceClassification(config)
    ids = torch.randint(5, SIZES["vocab_size"], (4, 13))
    head = 2 * 4 * config.dim * config.num_labels * (3 if training else 1)  # the formula leaves the classifier out
    found = counted(model, training, ids, None, torch.tensor([0, 1, 2, 3]))
    assert flops.useful_flops(config, [13] * 4, [1] * 4, training=training) == found - head


@pytest.mark.parametrize("training", [False, True])
def test_a_masked_lms_useful_operations_are_those_that_torch_counts(training):
    config = our_config(**NO_DROPOUT)
    ids = torch.randint(5, SIZES["vocab_size"], (4, 13))
    labels = torch.full_like(ids, IGNORED)
    labels[:, [2, 7, 11]] = 9
    found = counted(DistilBertForMaskedLM(config), training, ids, None, labels)
    assert flops.useful_flops(config, [13] * 4, [3] * 4, labels=12, training=training) == found


@pytest.mark.parametrize("training", [False, True])
def test_operations_of_a_pass_are_those_of_its_products(training):
    config = our_config()
    shapes = flops.product_shapes(config, batch=4, tokens=13, labels=7, training=training)
    forward = flops.useful_flops(config, [13] * 4, [13] * 4, labels=7, training=False) - 7 * 2 * config.dim**2
    assert sum(2 * count * a * b * c for count, a, b, c, _ in shapes) == forward * (3 if training else 1)


class Products(TorchDispatchMode):
    """Shapes and layouts of all products, as torch's kernels get them."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm"):
            left, right = args[-2:]
            layout = "".join("n" if x.is_contiguous() else "t" for x in (left, right))
            self.seen.add((len(left) if name == "bmm" else 1, *left.shape[-2:], right.shape[-1], layout))
        return function(*args, **kwargs or {})


def test_the_products_shapes_and_layouts_are_those_of_a_training_step():
    """Of a masked LM asked for every row's logits; its head's own square layer is like a block's."""
    config = our_config(**NO_DROPOUT)
    ids = torch.randint(5, SIZES["vocab_size"], (4, 13))
    with Products() as products:
        DistilBertForMaskedLM(config)(ids).square().sum().backward()
    assert products.seen == set(flops.product_shapes(config, 4, 13, labels=ids.numel(), training=True))


def test_the_trainer_refuses_a_masked_lms_run(tmp_path, monkeypatch):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "arguments.json").write_text(json.dumps(asdict(train_mlm.Arguments())))
    monkeypatch.setattr(sys, "argv", ["trainer.py", "--run", str(tmp_path), "--output", str(tmp_path / "out.json")])
    with pytest.raises(UserError, match="holds no classifier"):
        trainer.main()


@pytest.mark.parametrize(
    "flag",
    [
        *("decay_all", "max_steps", "gradient_accumulation_steps", "layer_decay", "eval_steps", "lr_scheduler_type"),
        *("min_lr_ratio", "head_learning_rate", "dropout"),
    ],
)
def test_the_trainer_refuses_a_recipe_that_it_has_no_counterpart_of(tmp_path, monkeypatch, flag):
    arguments = asdict(train_cls.Arguments()) | {flag: 2}
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "arguments.json").write_text(json.dumps(arguments))
    monkeypatch.setattr(sys, "argv", ["trainer.py", "--run", str(tmp_path), "--output", str(tmp_path / "out.json")])
    with pytest.raises(UserError, match=f"a run with --{flag} 2 has no counterpart here"):
        trainer.main()


def test_the_trainer_refuses_a_warmup_that_it_would_take_for_one_step(tmp_path, monkeypatch):
    (tmp_path / "checkpoint").mkdir()
    arguments = asdict(train_cls.Arguments()) | {"warmup_ratio": 1.0}
    (tmp_path / "checkpoint" / "arguments.json").write_text(json.dumps(arguments))
    monkeypatch.setattr(sys, "argv", ["trainer.py", "--run", str(tmp_path), "--output", str(tmp_path / "out.json")])
    with pytest.raises(UserError, match=r"a run with --warmup_ratio 1\.0 has no counterpart here"):
        trainer.main()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"lengthened_at": [8]}, "a run that was lengthened has no counterpart here"),
        ({"data": {"fingerprint": "of others"}}, "is not what .* was trained on: no peer could be made of it"),
    ],
    ids=["lengthened", "other data"],
)
def test_the_trainer_refuses_what_would_not_be_the_runs_peer(finished, tmp_path, monkeypatch, changed, match):
    run = shutil.copytree(finished.directory, tmp_path / "run")
    (run / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | changed))
    monkeypatch.setattr(sys, "argv", ["trainer.py", "--run", str(run), "--output", str(tmp_path / "out.json")])
    with pytest.raises(UserError, match=match):
        trainer.main()


def test_the_trainer_has_the_runs_recipe_and_is_judged_on_the_test_by_its_best_epoch(finished, corpus, tmp_path, monkeypatch):
    made = {}

    class Peer:
        state = Namespace(log_history=[{"eval_accuracy": 0.5}, {"loss": 1.0}])

        def __init__(self, **given):
            made.update(given)

        def train(self):
            made["trained"] = True

        def predict(self, dataset):
            made["judged"] = dataset
            labels = [row["labels"] for row in dataset]
            return Namespace(predictions=np.eye(2)[labels], label_ids=labels)

    run = shutil.copytree(finished.directory, tmp_path / "run")
    stored = run / "checkpoint" / "arguments.json"
    changed = {"model": str(finished.directory), "weight_decay": 0.3, "warmup_ratio": 0.2, "max_grad_norm": 2.0, "seed": 7}
    stored.write_text(json.dumps(json.loads(stored.read_text()) | changed))
    monkeypatch.setattr(trainer, "Trainer", Peer)
    monkeypatch.setattr(sys, "argv", ["trainer.py", "--run", str(run), "--output", str(tmp_path / "out.json")])
    trainer.main()
    parts, tokenizer = load(str(corpus)), Tokenizer.from_pretrained(finished.directory)
    for name, key in (("train", "train_dataset"), ("validation", "eval_dataset"), ("test", "judged")):
        assert [row["labels"] for row in made[key]] == parts[name].labels.tolist()
        assert [row["input_ids"] for row in made[key]] == tokenizer.encode_batch(parts[name].texts)  # none is cut at 48
    recipe = made["args"]
    assert made["trained"] and recipe.load_best_model_at_end and recipe.metric_for_best_model == "accuracy"
    assert (recipe.learning_rate, recipe.weight_decay, recipe.warmup_steps, recipe.max_grad_norm) == (5e-3, 0.3, 0.2, 2.0)
    assert (recipe.num_train_epochs, recipe.per_device_train_batch_size, recipe.seed) == (3, 16, 7)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["metrics"]["test"]["n"] == 16 and record["epochs"] == [{"eval_accuracy": 0.5}]


def test_training_counts_three_times_the_operations_of_judging(monkeypatch):
    """Forward, and in backward the gradients of inputs and of weights; the formula itself is compared with torch's count."""
    monkeypatch.setattr(compare.Tokenizer, "from_pretrained", lambda _: Tokenizer.from_texts(["a film"]))
    given, texts = Namespace(max_length=32, batch_size=2), ["a film"] * 4  # of four tokens each
    both = [compare.useful_and_shapes("minilm", task, texts, given) for task in ("classification", "inference")]
    (training, shapes), (judging, forward) = both
    assert len(shapes) == 3 * len(forward)  # of the limit, too
    config = compare.DistilBertConfig(**compare.SIZES["minilm"])
    assert training == 3 * judging == 3 * flops.useful_flops(config, [4], [1], training=False) / 4


def test_the_optimizers_ratio_is_ours_over_the_fused_ones(monkeypatch):
    """Of three steps after two that are not counted; a ratio is taken step by step: ours 3, 2 and 5."""
    seconds = [(9, 9, 9), (9, 9, 9), (2, 6, 7), (4, 8, 1), (1, 5, 2)]
    clock = iter([time for step in seconds for duration in step for time in (0.0, float(duration))])
    monkeypatch.setattr(compare, "DistilBertForMaskedLM", lambda _: torch.nn.Linear(2, 2))
    monkeypatch.setattr(compare.time, "perf_counter", lambda: next(clock))
    found = compare.optimizer_step(3, compiled=False)
    assert found == {
        "fused": {"seconds": 2.0, "ratio": 1.0},
        "ours": {"seconds": 6.0, "ratio": 3.0},
        "ours_bf16": {"seconds": 2.0, "ratio": 2.0},
    }


def test_only_the_compiled_optimizers_are_compiled(monkeypatch):
    called, compiled = [], []
    monkeypatch.setattr(compare, "DistilBertForMaskedLM", lambda _: torch.nn.Linear(2, 2))
    monkeypatch.setattr(torch, "compile", lambda f, **_: compiled.append(f) or (lambda matrices: called.append(matrices)))
    assert list(compare.optimizer_step(3, compiled=True)) == ["fused", "ours", "ours_bf16", "compiled", "compiled_bf16"]
    assert len(compiled) == 2 and len(called) == 2 * (3 + 2)


def test_the_rate_of_products_is_all_operations_over_all_time(monkeypatch):
    """A second a look at the clock: after the first, two more products and looks, and a last one, so 3 of each in 4 seconds."""
    clock = itertools.count()
    monkeypatch.setattr(flops.time, "perf_counter", lambda: float(next(clock)))
    operations = 2 * (5 * 1 * 8 * 16 * 8 + 2 * 4 * 4 * 4)
    found = flops.product_rate([(1, 8, 16, 8, "tn")] * 5 + [(2, 4, 4, 4, "nt")], torch.float32, seconds=3)
    assert found == pytest.approx(operations / ((5 + 1) * 4 / 3))


@pytest.mark.parametrize(("bf16", "compiled"), [(True, False), (False, True)])
def test_a_ratio_is_ours_over_theirs_round_by_round(monkeypatch, bf16, compiled):
    """In the second round the other one begins; the limit is measured before and after ours."""
    tokens = {"ours auto": iter([100, 300]), "ours compiled": iter([200, 300]), "trainer default": iter([50, 100])}
    limits, told, kinds = iter([0.5e12, 1.5e12, 1e12, 3e12, 1e12, 2e12, 1e12, 2e12]), [], set()
    monkeypatch.setattr(compare, "write_folder", lambda *_: [])
    monkeypatch.setattr(compare, "useful_and_shapes", lambda *_: (2e9, []))
    monkeypatch.setattr(compare, "product_rate", lambda _, kind: told.append("products") or kinds.add(kind) or next(limits))

    def turn(_, __, name, ___, seed):
        told.append(name)
        return {"tokens": next(tokens[name]), "seconds": 2.0, "peak_memory": 7 + seed}

    monkeypatch.setattr(compare, "turn", turn)
    given = Namespace(data="", batch_size=1, steps=1, rounds=2, compiled=compiled, quick=bf16)
    allowed = ("classification", bf16, compiled, bf16)
    monkeypatch.setattr(compare, "contestants", lambda *asked: list(tokens) if asked == allowed else [])
    result = compare.compare("minilm", "classification", given, bf16)
    found = result["contestants"]
    assert kinds == {torch.bfloat16 if bf16 else torch.float32}  # of the limit
    assert result["limits"]["ours auto"] == pytest.approx(
        {"useful_gflops": 200, "limit_gflops": 1_250, "share": 0.15, "least": 0.1, "most": 0.2}
    )  # 50 and 150 tokens a second at 2 billion operations each, of 1,000 and of 1,500
    assert list(result["limits"]) == ["ours auto", "ours compiled"]
    assert result["limits"]["ours compiled"] == pytest.approx(
        {"useful_gflops": 250, "limit_gflops": 1_750, "share": 0.15, "least": 0.1, "most": 0.2}
    )  # of 2,000 and of 1,500
    ours, compiled = ["products", "ours auto", "products"], ["products", "ours compiled", "products"]
    assert told == [*ours, *compiled, "trainer default", *compiled, "trainer default", *ours] and result["rounds"] == 2
    assert found["trainer default"]["ours_is_faster_by"] == {"median": 2.5, "least": 2.0, "most": 3.0}
    assert (found["ours auto"]["tokens_per_second"], found["ours auto"]["peak_memory_bytes"]) == (100.0, 8)


def test_the_tuned_trainer_has_the_very_batches_of_ours(tmp_path, cache, monkeypatch):
    """Of four batches of unlike lengths two are counted; random batches of the same reviews hold other numbers of tokens."""
    corpus = write_toy_corpus(tmp_path / "toy.jsonl", count=24)
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    texts = [row["text"] for row in rows]
    for i, row in enumerate(rows):
        row["split"] = "train" if i < 16 else ("validation", "test")[i // 4 % 2]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = Tokenizer.from_texts(texts)
    config = our_config(vocab_size=len(tokenizer), max_position_embeddings=32, id2label={0: "Negative", 1: "Positive"})
    DistilBertForMaskedLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model", 32)
    monkeypatch.setattr(sys, "argv", [])  # which our script is given anew
    arguments = (tmp_path, "classification", "tuned", 2, 4, 32)
    found = [contestants.hugging_face_trainer(*arguments, seed)["tokens"] for seed in range(3)]
    ours = [contestants.our_script(*arguments[:2], "fp32", *arguments[3:], seed)["tokens"] for seed in range(3)]
    assert found == ours and len(set(found)) > 1


def write_contest(folder: Path, texts: list[str]) -> None:
    """What write_folder writes, small."""
    tokenizer = Tokenizer.from_texts(texts)
    config = our_config(vocab_size=len(tokenizer), max_position_embeddings=32, id2label={0: "Negative", 1: "Positive"})
    DistilBertForMaskedLM(config).save_pretrained(folder / "model")
    DistilBertForSequenceClassification(config).save_pretrained(folder / "judge")
    for name in ("model", "judge"):
        tokenizer.save_pretrained(folder / name, 32)
    rows = [{"text": text, "label": 0, "split": "train"} for text in texts]
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("how", "bf16", "dropout"), [("default", False, 0.3), ("bf16", True, 0.3), ("bf16-no-attention-dropout", True, 0.0)]
)
def test_a_trainers_name_says_its_number_format_and_its_dropout_on_attention_weights(tmp_path, monkeypatch, how, bf16, dropout):
    made = {}

    class Peer:
        def __init__(self, **given):
            made.update(given)

        def train(self):
            for _ in range(3):
                made["callbacks"][0].on_step_end()

    monkeypatch.setattr(sys.modules["transformers"], "Trainer", Peer)
    write_contest(tmp_path, ["a film", "a good film"] * 9)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.3}))
    contestants.hugging_face_trainer(tmp_path, "mlm", how, 2, 4, 16, seed=0)
    assert (made["args"].bf16, made["model"].config.attention_dropout) == (bf16, dropout)


@pytest.mark.parametrize(("how", "dtype"), [("default", "float32"), ("bf16", "bfloat16"), ("bf16-by-length", "bfloat16")])
def test_the_pipeline_judges_the_texts_as_they_come_or_in_our_order(tmp_path, monkeypatch, how, dtype):
    judged, made = [], {}

    class Judge:
        def tokenizer(self, texts, truncation, max_length):
            return {"input_ids": [[0] * min(len(text), max_length) for text in texts]}

        def __call__(self, texts, **_):
            judged.append(texts)

    monkeypatch.setattr(sys.modules["transformers"], "pipeline", lambda *_, **given: made.update(given) or Judge())
    texts = ["a", "aaaa", "aa", "aaa"]
    (tmp_path / "reviews.jsonl").write_text(
        "".join(json.dumps({"text": text, "label": 0, "split": "train"}) + "\n" for text in texts)
    )
    assert contestants.pipeline(tmp_path, how, batch_size=2, max_length=9)["tokens"] == 10
    order = sorted(texts, key=len, reverse=True) if how.endswith("by-length") else texts
    assert judged == [order[:2], order] and made["dtype"] == getattr(torch, dtype)


@pytest.mark.parametrize(("how", "kind"), [("infer_reviews", "auto"), ("fp32", "fp32"), ("predict_logits", "auto")])
def test_ours_judges_in_the_format_of_its_name_and_only_evaluates_way_tunes_the_process(tmp_path, monkeypatch, how, kind):
    told = []
    monkeypatch.setattr(contestants, "tune_process", lambda: told.append("tuned"))
    monkeypatch.setattr(contestants.Precision, "choose", lambda device, kind: told.append(kind) or Precision(device, "fp32"))
    write_contest(tmp_path, ["a film", "a good film"])
    assert contestants.our_inference(tmp_path, how, batch_size=2, max_length=9)["tokens"] == 4 + 5
    assert told == ["tuned"] * (how == "predict_logits") + [kind]


@pytest.mark.parametrize(("how", "said"), [("bf16", "--precision bf16"), ("compiled", "--compile --precision auto")])
@pytest.mark.parametrize(
    ("task", "expected"),
    [("mlm", "--pack --dropout 0.1"), ("classification", "--truncation head --classifier_head pre_classifier")],
)
def test_ours_has_the_trainers_head_dropout_and_texts_and_its_first_step_is_not_counted(
    tmp_path, monkeypatch, task, expected, how, said
):
    def run(script, run_name):
        assert Path(script).name == sys.argv[0] == {"mlm": "train_mlm.py", "classification": "train_cls.py"}[task]
        command = " ".join(sys.argv)
        assert f" {said} --overwrite " in command
        assert command.endswith(f"--seed 5 --max_steps 3 --batch_size 4 --max_length 32 {expected}")
        lines = [
            {"tokens": 1, "seconds": 9.0},
            {"tokens": 20, "seconds": 2.0},
            {"eval_loss": 1},
            {"tokens": 30, "seconds": 3.0},
        ]
        (tmp_path / "ours").mkdir()
        (tmp_path / "ours" / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))

    monkeypatch.setattr(contestants.runpy, "run_path", run)
    assert contestants.our_script(tmp_path, task, how, 2, 4, 32, seed=5) == {"tokens": 50, "seconds": 5.0}


def test_without_bf16_in_hardware_nobody_needs_it():
    tuned = ["trainer tuned", "trainer tuned-no-attention-dropout"]  # in fp32 then
    found = {task: compare.contestants(task, False, True, False) for task in compare.CONTESTANTS}
    assert found["classification"] == ["ours auto", "ours compiled", "trainer default", *tuned]
    assert found["mlm"] == ["ours auto", "ours compiled", "trainer default"]
    assert found["inference"] == ["ours infer_reviews", "ours predict_logits", "pipeline default"]
    assert all(compare.contestants(task, True, True, False) == names for task, names in compare.CONTESTANTS.items())


def test_in_a_hurry_ours_meets_those_who_come_as_they_are_and_the_tuned_one():
    found = {task: compare.contestants(task, True, False, True) for task in ("classification", "inference")}
    assert found["classification"] == ["ours auto", "trainer default", "trainer bf16", "trainer tuned"]
    assert found["inference"] == ["ours infer_reviews", "pipeline default", "pipeline bf16"]
    assert "trainer bf16" not in compare.contestants("classification", False, False, True)


@pytest.mark.parametrize(("compiler", "flags", "compiled"), [(True, [], True), (False, [], False), (True, ["--quick"], False)])
def test_without_a_compiler_or_in_a_hurry_nothing_is_compiled(quick, monkeypatch, compiler, flags, compiled):
    told = []
    monkeypatch.setattr(compare, "has_compiler", lambda: compiler)
    monkeypatch.setattr(compare, "compare", lambda _, task, given, bf16: told.append(given.compiled) or {"task": task})
    monkeypatch.setattr(compare, "draw", lambda *_: None)
    monkeypatch.setattr(compare, "optimizer_step", lambda _, kernels: told.append(kernels))
    compare.main(["--data", "imdb", "--sizes", "minilm", "--tasks", "mlm", *flags])
    assert told == [compiled] * 2 and ("ours compiled" in compare.contestants("mlm", True, compiled, False)) == compiled


@pytest.fixture
def quick(tmp_path, monkeypatch) -> Path:
    """compare.py without its work, in a folder of this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "fast_bf16", lambda _: False)
    monkeypatch.setattr(compare, "optimizer_step", lambda *_: {})
    monkeypatch.setattr(compare, "tokenising", lambda *_: {})
    return tmp_path


def test_the_figures_so_far_are_written_after_each_task_and_not_over_the_committed_ones(quick, monkeypatch):
    def fail_at_the_second(size, task, *_):
        if task == "inference":
            sys.exit("pipeline default failed")
        return {"task": task}

    monkeypatch.setattr(compare, "compare", fail_at_the_second)
    with pytest.raises(SystemExit, match="pipeline default failed"):
        compare.main(["--data", "imdb", "--quick"])
    record = json.loads((quick / "runs" / "compare.json").read_text())
    assert record["results"] == [{"task": "classification"}] and record["rounds"] == 1


def test_explicit_flags_win_over_quick(quick, monkeypatch):
    monkeypatch.setattr(compare, "compare", lambda size, task, given, _: {"size": size, "task": task, "contestants": {}})
    monkeypatch.setattr(compare, "draw", lambda *_: None)
    compare.main(["--data", "imdb", "--quick", "--tasks", "mlm", "--rounds", "2"])
    record = json.loads((quick / "runs" / "compare.json").read_text())
    assert [(result["size"], result["task"]) for result in record["results"]] == [("minilm", "mlm")]
    assert (record["rounds"], record["steps"], record["max_length"]) == (2, 2, 128)
    assert record["versions"]["torch"] == torch.__version__ and set(compare.PEERS) < set(record["versions"])


def test_who_has_no_peers_installed_learns_it_before_the_work(quick, monkeypatch):
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None if name == "accelerate" else name)
    with pytest.raises(UserError, match=r"^accelerate not installed: pip install -r requirements-dev"):
        compare.main(["--data", "imdb"])


def test_more_reviews_than_there_are_are_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="reviews to train on, and this many steps and batches want 1016"):
        given = Namespace(data=str(corpus), batch_size=10, max_length=32)
        compare.write_folder(tmp_path, "minilm", 100, given)


def test_the_reviews_are_batches_by_length_evenly_spread_over_a_sample_but_at_random(tmp_path, monkeypatch):
    """Sorted, as little padding as in an epoch of the sample, and its mean length; whoever does not sort gets all lengths."""
    texts = ["film " * (1 + i * 7 % 300) for i in range(300)]  # each length once
    monkeypatch.setattr(compare, "load", lambda _: {"train": Part(texts, np.arange(300) % 2, [""] * 300)})
    monkeypatch.setattr(compare, "SAMPLE", 240)
    monkeypatch.setattr(compare.Tokenizer, "from_pretrained", lambda _: Tokenizer.from_texts(["film"]))
    monkeypatch.setattr(compare, "DistilBertForMaskedLM", lambda _: MagicMock())
    monkeypatch.setattr(compare, "DistilBertForSequenceClassification", lambda _: MagicMock())
    given = Namespace(data="", batch_size=8, max_length=512)
    (tmp_path / "model").mkdir(), (tmp_path / "judge").mkdir()
    chosen = compare.write_folder(tmp_path, "minilm", 5, given)
    assert len(chosen) == 40 == len(set(chosen))
    lengths = np.array([len(text.split()) for text in chosen])
    assert all(np.ptp(np.sort(lengths)[i : i + 8]) < 25 for i in range(0, 40, 8)) and abs(lengths.mean() - 150) < 15
    assert all(np.ptp(lengths[i : i + 8]) > 100 for i in range(0, 40, 8))
    rows = [json.loads(line) for line in (tmp_path / "reviews.jsonl").read_text().splitlines()]
    parts = [[row["text"] for row in rows if row["split"] == part] for part in ("train", "validation", "test")]
    assert [len(set(part)) for part in parts] == [40, 8, 8] and len({*parts[0], *parts[1], *parts[2]}) == 56


@pytest.mark.parametrize("flags", [("--steps", "0"), ("--rounds", "-1"), ("--batch_size", "0"), ("--output", "speed.svg")])
def test_flags_that_would_end_in_nothing_are_refused_before_the_work(quick, capsys, flags):
    with pytest.raises(SystemExit) as ended:
        compare.main(["--data", "imdb", *flags])
    assert ended.value.code == 2 and flags[0] in capsys.readouterr().err


def test_a_turn_has_no_gpu_and_tells_its_own_memory(tmp_path, monkeypatch, capsys):
    seen = {}

    def run(command, env, **_):
        seen.update(env)
        monkeypatch.setattr(contestants, "pipeline", lambda *_: {"tokens": 5, "seconds": 2.0})
        monkeypatch.setattr(sys, "argv", command[1:])
        contestants.main()
        return Namespace(returncode=0, stdout="a warning\n" + capsys.readouterr().out)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(compare.subprocess, "run", run)
    given = Namespace(steps=1, batch_size=2, max_length=3)
    turn = compare.turn(tmp_path, "inference", "pipeline default", given, seed=0)
    assert (turn["tokens"], turn["seconds"], seen["CUDA_VISIBLE_DEVICES"]) == (5, 2.0, "")
    assert turn["peak_memory"] == pytest.approx(Precision("cpu", "fp32").peak_memory(), rel=0.1)


@pytest.mark.parametrize("task", list(compare.CONTESTANTS))
def test_each_contestant_of_a_task_has_a_name_of_its_own_for_readers(task):
    names = [compare.label(name, False) for name in compare.CONTESTANTS[task]]
    assert len(set(names)) == len(names)


def test_the_picture_has_a_panel_for_each_result_and_a_bar_for_each_contestant(tmp_path, monkeypatch):
    results = [
        {"task": task, "size": size, "contestants": {name: {"tokens_per_second": 7.0 + i} for i, name in enumerate(names)}}
        for size in compare.SIZES
        for task, names in compare.CONTESTANTS.items()
    ]
    drawn, barh = [], Axes.barh

    def see(axes, names, rates, **style):
        drawn.append(dict(zip(names, rates, strict=True)))
        return barh(axes, names, rates, **style)

    monkeypatch.setattr(Axes, "barh", see)
    compare.draw({"bf16": True, "results": results}, tmp_path / "picture.svg")
    assert drawn == [{compare.label(name, True): 7.0 + i for i, name in enumerate(result["contestants"])} for result in results]
    assert (tmp_path / "picture.svg").read_text().count("real tokens/s") == len(results)
