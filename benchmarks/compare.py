"""Ours and Hugging Face's side by side: the same model, reviews, batch, length and steps, in turns.

    python benchmarks/compare.py --data aclImdb_v1.tar.gz           # everything
    python benchmarks/compare.py --data aclImdb_v1.tar.gz --quick   # minilm size, short, fewer of each

Each turn is a process of its own (contestants.py), so that peak memory is its own too; all compute on the CPU. Who begins
changes from round to round. Counted are real tokens, padding excluded. A machine without bf16 products in hardware skips the
bf16 contestants; the tuned ones and the limit are fp32's there. The figures so far are written after each task.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from flops import product_rate, product_shapes, useful_flops

from data.batches import by_length, tokenise
from data.sources import load
from distilbert import DistilBertConfig, DistilBertForMaskedLM, DistilBertForSequenceClassification, Tokenizer
from distilbert.cli import user_errors
from distilbert.errors import UserError
from distilbert.files import write_atomically, write_json
from distilbert.optim import AdamW
from distilbert.precision import fast_bf16, has_compiler
from distilbert.start import machine

PEERS = ("transformers", "accelerate", "matplotlib")  # the last draws
SAMPLE = 4_000  # reviews from which the batches of a turn are taken
SIZES = {"base": {}, "minilm": {"dim": 384, "hidden_dim": 1_536}}
CONTESTANTS = {
    "classification": ["ours auto", "ours compiled", "ours fp32", "trainer default", "trainer bf16", "trainer tuned",
                       "trainer tuned-no-attention-dropout"],
    "mlm": ["ours auto", "ours compiled", "trainer default", "trainer bf16", "trainer bf16-no-attention-dropout"],
    "inference": ["ours infer_reviews", "ours fp32", "ours predict_logits", "pipeline default", "pipeline bf16",
                  "pipeline bf16-by-length"],
}  # fmt: skip

QUICK = {
    "ours auto",
    "trainer default",
    "trainer bf16",
    "trainer tuned",
    "ours infer_reviews",
    "pipeline default",
    "pipeline bf16",
}
LABELS = {  # in the picture, and in the table of results/README.md; kind: bf16 where the machine has it
    "ours auto": "ours",
    "ours compiled": "ours, --compile",
    "ours fp32": "ours, fp32",
    "ours infer_reviews": "ours",
    "ours predict_logits": "ours, from ids to logits",
    "trainer default": "Trainer as it comes (fp32)",
    "trainer bf16": "Trainer, bf16",
    "trainer tuned": "Trainer, {kind}, our batches by length",
    "trainer tuned-no-attention-dropout": "the same, without attention dropout",
    "trainer bf16-no-attention-dropout": "the same, without attention dropout",
    "pipeline default": "pipeline as it comes (fp32)",
    "pipeline bf16": "pipeline, bf16",
    "pipeline bf16-by-length": "pipeline, bf16, our batches by length",
}


def label(name: str, bf16: bool) -> str:
    return LABELS[name].format(kind="bf16" if bf16 else "fp32")


def contestants(task: str, bf16: bool, compiled: bool, quick: bool) -> list[str]:
    """Who takes part on this machine: without bf16 in hardware, whoever needs it does not, and "auto" is fp32.

    `compiled`: "ours compiled" does, too. `quick`: of all these, QUICK alone.
    """
    absent = set() if bf16 else {name for name in CONTESTANTS[task] if name == "ours fp32" or "bf16" in name}
    absent |= set() if compiled else {"ours compiled"}
    return [name for name in CONTESTANTS[task] if name not in absent and (name in QUICK or not quick)]


def write_folder(folder: Path, size: str, batches: int, given: argparse.Namespace) -> list[str]:
    """Random weights of a size, as a masked LM and a classifier, reviews to train on, which it returns, and 16 more.

    The reviews are whole batches of a sample in order of length, evenly spread over it: ours pads as little as in an epoch of
    all of them. Cut by length, as few reviews as a turn takes would give it four times as much padding.
    """
    train, count = load(given.data)["train"], batches * given.batch_size
    if count + 16 > len(train):
        message = f"--data {given.data}: {len(train)} reviews to train on, and this many steps and batches want {count + 16}"
        raise UserError(message)
    config = DistilBertConfig(**SIZES[size], classifier_head="pre_classifier")
    tokenizer = Tokenizer.from_pretrained("minilm")
    torch.manual_seed(0)
    for name, kind in (("model", DistilBertForMaskedLM), ("judge", DistilBertForSequenceClassification)):
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name, config.max_position_embeddings)
    random = np.random.default_rng(0)
    others, sample = np.split(random.permutation(len(train))[: 16 + max(count, SAMPLE)], [16])
    lengths = np.array([len(ids) for ids in tokenizer.encode_batch(train.take(sample).texts, given.max_length)])
    whole = list(by_length(lengths, given.batch_size))[: len(sample) // given.batch_size]
    spread = ((np.arange(batches) + 0.5) * len(whole) / batches).astype(int)
    batched = random.permutation(np.concatenate([sample[whole[i]] for i in spread]))  # who does not sort gets them at random
    chosen = train.take(np.concatenate([batched, others]))
    with open(folder / "reviews.jsonl", "w", encoding="utf-8") as file:
        for i, (text, label) in enumerate(zip(chosen.texts, chosen.labels.tolist(), strict=True)):
            part = "train" if i < count else ("validation", "test")[i % 2]
            file.write(json.dumps({"text": text, "label": label if i < count else i // 2 % 2, "split": part}) + "\n")
    return chosen.texts[:count]


def turn(folder: Path, task: str, name: str, given: argparse.Namespace, seed: int) -> dict:
    """Tokens and seconds of one process, and its peak memory in bytes."""
    numbers = [str(number) for number in (given.steps, given.batch_size, given.max_length, seed)]
    command = [sys.executable, str(ROOT / "benchmarks" / "contestants.py"), str(folder), task, name, *numbers]
    no_gpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=no_gpu)
    if done.returncode:
        sys.exit(f"{name} failed at {task}:\n{done.stdout[-2_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def useful_and_shapes(size: str, task: str, texts: list[str], given: argparse.Namespace) -> tuple[float, list]:
    """Useful operations a token of these texts, and the products of a batch of them."""
    config = DistilBertConfig(**SIZES[size])
    lengths = [len(ids) for ids in Tokenizer.from_pretrained("minilm").encode_batch(texts, given.max_length)]
    rows, labels = [1] * len(lengths), 0
    if task == "mlm":
        lengths = [given.max_length] * (sum(lengths) // given.max_length)
        rows = [round(0.15 * given.max_length)] * len(lengths)
        labels = sum(rows)
    useful = useful_flops(config, lengths, rows, labels, task != "inference") / sum(lengths)
    per_batch = labels * given.batch_size // max(len(lengths), 1)
    typical = int(np.mean(lengths)) // 16 * 16 or 16
    return useful, product_shapes(config, given.batch_size, typical, per_batch, task != "inference")


def compare(size: str, task: str, given: argparse.Namespace, bf16: bool) -> dict:
    """Rounds in which everyone has one turn; rates, ratios to ours within each round, memory, share of the limit.

    The limit is what the products of these shapes reach by themselves, measured before and after ours, in each round.
    """
    names, kind = contestants(task, bf16, given.compiled, given.quick), torch.bfloat16 if bf16 else torch.float32
    limits = {name: [] for name in names if name in (names[0], "ours compiled")}
    with tempfile.TemporaryDirectory() as place:
        batches = (given.steps + 1) * (1 if task == "classification" else 3)
        texts = write_folder(Path(place), size, batches, given)
        useful, shapes = useful_and_shapes(size, task, texts, given)
        rounds = []
        for seed in range(given.rounds):
            first, turns = seed % len(names), {}
            for name in names[first:] + names[:first]:
                before = product_rate(shapes, kind) if name in limits else 0.0
                turns[name] = turn(Path(place), task, name, given, seed)
                if name in limits:
                    limits[name].append((before + product_rate(shapes, kind)) / 2)
            rounds.append(turns)
    rates = {name: [one[name]["tokens"] / one[name]["seconds"] for one in rounds] for name in names}
    result = {"size": size, "task": task, "rounds": given.rounds, "contestants": {}}
    for name in names:
        ratios = [ours / theirs for ours, theirs in zip(rates[names[0]], rates[name], strict=True)]
        result["contestants"][name] = {
            "tokens_per_second": statistics.median(rates[name]),
            "ours_is_faster_by": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
            "peak_memory_bytes": max(one[name]["peak_memory"] for one in rounds),
        }
    result["limits"] = {}
    for name, measured in limits.items():
        reached = [useful * rate for rate in rates[name]]
        shares = [ours / limit for ours, limit in zip(reached, measured, strict=True)]
        limit = {"useful_gflops": statistics.median(reached) / 1e9, "limit_gflops": statistics.median(measured) / 1e9}
        result["limits"][name] = limit | {"share": statistics.median(shares), "least": min(shares), "most": max(shares)}
    show(result)
    return result


def show(result: dict) -> None:
    heading = f"{result['task']}, {result['size']} size, median of {result['rounds']} rounds (least to most)"
    print(f"\n{heading}\n{'':36}  tokens/s   ours is faster by      peak memory")
    for name, figures in result["contestants"].items():
        ratio = "{median:.2f} ({least:.2f} to {most:.2f})".format(**figures["ours_is_faster_by"])
        memory = figures["peak_memory_bytes"] / 2**30
        print(f"  {name:34} {figures['tokens_per_second']:9,.0f}   {ratio:22} {memory:6.2f} GiB")
    share = "{name}: {useful_gflops:.0f} useful of {limit_gflops:.0f} GFLOP/s that the products alone reach, "
    share += "{share:.0%} by the median of the rounds ({least:.0%} to {most:.0%})"
    for name, limit in result["limits"].items():
        print("  " + share.format(name=name, **limit), flush=True)


def optimizer_step(repeats: int, compiled: bool) -> dict:
    """Seconds of a step at base size, each in turns, and how many times torch's fused AdamW's they are.

    "ours" as it comes and "compiled"; "_bf16" has gradients in bf16 and weights in both formats, of which torch's has no
    counterpart.
    """
    config, optimizers = DistilBertConfig(), {}
    kinds = ["fused", "ours", "ours_bf16"] + ["compiled", "compiled_bf16"] * compiled
    for name in kinds:
        parameters = [p.detach().clone() for p in DistilBertForMaskedLM(config).parameters()]
        if name == "fused":
            optimizers[name] = torch.optim.AdamW(parameters, fused=True)
        else:
            optimizers[name] = AdamW(parameters, master_weights=name.endswith("bf16"), compiled=name.startswith("compiled"))
        for p in parameters:
            p.data = p.data.bfloat16() if name.endswith("bf16") else p.data
            p.grad = torch.randn_like(p)
    seconds = {name: [] for name in optimizers}
    for _ in range(repeats + 2):
        for name, optimizer in optimizers.items():
            started = time.perf_counter()
            optimizer.step()
            seconds[name].append(time.perf_counter() - started)
    print("\nan optimizer step, and times the fused one's")
    result = {}
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times[2:], seconds["fused"][2:], strict=True))
        result[name] = {"seconds": statistics.median(times[2:]), "ratio": ratio}
        print(f"  {name:13} {result[name]['seconds']:.3f} s {ratio:6.2f}")
    return result


def tokenising(data: str, count: int) -> dict:
    """Reviews a second of our `tokenise` with an empty cache, and of the `tokenizers` library alone, in turns."""
    texts, tokenizer = load(data)["train"].texts[:count], Tokenizer.from_pretrained("minilm")
    seconds = {"ours": [], "library": []}
    for number in range(3):
        started = time.perf_counter()
        tokenizer.backend.encode_batch_fast(texts)
        seconds["library"].append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, DISTILBERT_CACHE=cache):
            started = time.perf_counter()
            tokenise(texts, tokenizer.encode_batch, f"{number}")
            seconds["ours"].append(time.perf_counter() - started)
    result = {name: len(texts) / statistics.median(times) for name, times in seconds.items()}
    print(f"\ntokenising: ours {result['ours']:,.0f} reviews/s, the library alone {result['library']:,.0f}")
    return result


def draw(record: dict, output: Path) -> None:
    """Bars of real tokens a second, a row of panels for each size, a panel for each task."""
    from matplotlib.figure import Figure

    results = record["results"]
    rows = len({result["size"] for result in results})
    columns = len(results) // rows
    figure = Figure(figsize=(5.2 * columns, 2.4 * rows), layout="constrained")
    for panel, result in zip(figure.subplots(rows, columns, squeeze=False).flat, results, strict=True):
        names = list(result["contestants"])[::-1]
        rates = [result["contestants"][name]["tokens_per_second"] for name in names]
        colours = ["C0" if name.startswith("ours") else "C7" for name in names]
        panel.barh([label(name, record["bf16"]) for name in names], rates, color=colours)
        panel.set_title(f"{result['task']}, {result['size']}")
        panel.set_xlabel("real tokens/s")
    write_atomically(output, lambda path: figure.savefig(path, format="svg"))


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range, expected at least 1")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="IMDb: aclImdb_v1.tar.gz, aclImdb/, or imdb to download it")
    parser.add_argument("--tasks", nargs="+", choices=tuple(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--batch_size", type=positive, default=16)
    parser.add_argument("--max_length", type=positive, default=512)
    parser.add_argument("--steps", type=positive, default=8, help="timed optimizer steps of a turn")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="classification and inference at minilm size, short, with fewer contestants"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/compare.json"), help="and a picture beside it")
    given = parser.parse_args(argv)
    if given.output.suffix == ".svg":
        parser.error(f"--output {given.output}: expected a name for the figures; the picture takes the same, ending in .svg")
    if given.quick:  # explicit flags win over it
        parser.set_defaults(tasks=["classification", "inference"], sizes=["minilm"], max_length=128, steps=2, rounds=1)
        given = parser.parse_args(argv)
    if missing := [name for name in PEERS if not importlib.util.find_spec(name)]:
        raise UserError(f"{' and '.join(missing)} not installed: pip install -r requirements-dev.txt")
    given.compiled = has_compiler() and not given.quick  # compiling takes half a minute
    bf16 = fast_bf16("cpu")
    if not bf16:
        print(
            "no bf16 products in this machine's hardware: without the bf16 contestants; the tuned ones and the limit are fp32's"
        )
    versions = {name: importlib.metadata.version(name) for name in ("torch", "tokenizers", *PEERS)}
    record = {"machine": machine(), "versions": versions, "bf16": bf16, "results": []}
    record |= {key: getattr(given, key) for key in ("batch_size", "max_length", "steps", "rounds")}
    for size, task in itertools.product(given.sizes, given.tasks):
        record["results"].append(compare(size, task, given, bf16))
        write_json(given.output, record)
    record |= {
        "optimizer": optimizer_step(4 if given.quick else 10, given.compiled),
        "tokenising": tokenising(given.data, 500 if given.quick else 5_000),
    }
    write_json(given.output, record)
    draw(record, given.output.with_suffix(".svg"))
    print(f"\nwrote {given.output} and {given.output.with_suffix('.svg')}")


if __name__ == "__main__":
    with user_errors():
        main()
