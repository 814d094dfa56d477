"""Does adapting the encoder help the classifier? The same seeds and steps with and without, at several numbers of labels.

    python benchmarks/adaptation.py --data aclImdb_v1.tar.gz

It runs the shipped commands one after the other: train_mlm.py for "adapted", and again on what came of it for "longer"; then
for each number of labels, seed and arm train_cls.py (validation on as many reviews as it trains on, and 500 at least) and
evaluate.py (2,000 test reviews). What is finished is not run again, what was interrupted is resumed: start it again at any
time, and with other flags give other --runs. After each run the folder --output (if not given, --runs) has the figures so far.
"""

import argparse
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from distilbert.cli import user_errors
from distilbert.errors import UserError
from distilbert.files import bare_name, read_json, write_atomically, write_json
from distilbert.metrics import wilson_interval

ADAPT = ["--max_length", "256", "--batch_size", "32", "--learning_rate", "4e-4", "--eval_size", "500", "--eval_steps", "400"]
ADAPTATIONS = {  # each goes on from the encoder of the arm before it
    "adapted": ["--max_steps", "2400"],
    "longer": ["--max_steps", "2800", "--mlm_probability", "0.3", "--seed", "1"],  # a second hour hides twice as many words
}
CLASSIFY = ["--max_length", "256", "--dropout", "0.1"]
ARMS = ("plain", *ADAPTATIONS)


def encoder_of(given: argparse.Namespace, arm: str) -> str:
    """The --model of an arm: the given one, or the directory of its adaptation."""
    return given.model if arm == "plain" else str(given.runs / f"mlm-{arm}")


def adapt(given: argparse.Namespace, arm: str) -> list[str]:
    """The command that adapts the encoder of an arm."""
    before = ARMS[ARMS.index(arm) - 1]
    places = ["--model", encoder_of(given, before), "--data", given.data, "--output_dir", encoder_of(given, arm), "--resume"]
    return ["train_mlm.py", *places, *ADAPT, *ADAPTATIONS[arm], *given.adapt]


def commands(given: argparse.Namespace, arm: str, labels: int, seed: int) -> tuple[Path, list[list[str]]]:
    """The run directory of one cell of the experiment, and the commands that fill it."""
    run = given.runs / f"{arm}-{labels}-{seed}"
    model = encoder_of(given, arm)
    train = ["train_cls.py", "--model", model, "--data", given.data, "--seed", str(seed)]
    train += ["--train_size", str(labels), "--eval_size", str(max(labels, 500))]
    test = ["evaluate.py", "--model", str(run), "--eval_size", str(given.test_size)]
    return run, [[*train, *CLASSIFY, "--output_dir", str(run), "--resume"], test]


def call(command: list[str]) -> None:
    """Ends the experiment when a command does: what was said on the way says why."""
    print("python", *command, flush=True)
    with subprocess.Popen([sys.executable, *command], cwd=ROOT) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # of which the command knows, too: it ends once its step is saved
            status = process.wait() or 130  # perhaps it was at its end, and this experiment is not
    if status:
        sys.exit(status)


def evaluation_of(run: Path) -> Path:
    """What evaluate.py writes of the run's own data; other data may have been measured, too."""
    data = read_json(run / "run.json")["arguments"]["data"]
    return run / f"eval-{bare_name(data)}.json"


def measured(run: Path) -> bool:
    return (run / "run.json").exists() and evaluation_of(run).exists()


def record_of(run: Path, arm: str, labels: int, seed: int) -> dict:
    """One cell: the test counts, and the validation by step."""
    test = read_json(evaluation_of(run))
    lines = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    curve = [[line["step"], line["eval_loss"], line["eval_accuracy"]] for line in lines if "eval_loss" in line]
    right = sum(test["confusion_matrix"][i][i] for i in (0, 1))
    return {"arm": arm, "labels": labels, "seed": seed, "n": test["n"], "right": right, "validation": curve}


def table(records: list[dict]) -> str:
    """In Markdown, for each number of labels a row an arm: its accuracy over its seeds, and what its adaptation changes.

    The gain over the plain encoder is the mean over seeds run in both arms; the interval is Wilson's over all judgements of an
    arm, as if those of different seeds were independent. Each adaptation ran once: how much another would differ is not here.
    """
    head = "| training labels | encoder | seeds | test accuracy | gain ± standard error over seeds | errors avoided |"
    lines = [head, "|---|---|---|---|---|---|"]
    for labels in sorted({record["labels"] for record in records}):
        arms = {arm: {r["seed"]: r for r in records if (r["labels"], r["arm"]) == (labels, arm)} for arm in ARMS}
        plain = arms["plain"]
        for arm, runs in arms.items():
            seeds = sorted(plain.keys() & runs.keys())
            if not seeds:
                continue
            right, n = (sum(runs[seed][key] for seed in seeds) for key in ("right", "n"))
            low, high = wilson_interval(right, n)
            row = f"| {labels:,} | {arm} | {len(seeds)} | {right / n:.4f} ({low:.4f} to {high:.4f}) |"
            if arm == "plain":
                lines.append(row + " | |")
                continue
            gains = [(runs[seed]["right"] - plain[seed]["right"]) / plain[seed]["n"] for seed in seeds]
            mean = sum(gains) / len(gains)
            error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / max(len(gains) - 1, 1) / len(gains))
            spread = f" ± {error:.4f}" if len(gains) > 1 else ""
            mistakes = sum(plain[seed]["n"] - plain[seed]["right"] for seed in seeds)
            share = sum(gain * plain[seed]["n"] for gain, seed in zip(gains, seeds, strict=True)) / max(mistakes, 1)
            lines.append(f"{row} {mean:+.4f}{spread} | {share:.1%} |")
    return "\n".join(lines)


def draw(records: list[dict], output: Path) -> None:
    """Left: test accuracy by labels. Then, for each number of labels, the validation loss by step, a line a seed."""
    from matplotlib.figure import Figure

    sizes = sorted({record["labels"] for record in records})
    figure = Figure(figsize=(3.4 * (1 + len(sizes)), 3.2), layout="constrained")
    panels = figure.subplots(1, 1 + len(sizes))
    for number, arm in enumerate(ARMS):
        chosen = [record for record in records if record["arm"] == arm]
        style = {"color": f"C{number}", "alpha": 0.8}
        points = [(record["labels"], record["right"] / record["n"]) for record in chosen]
        panels[0].plot(*zip(*points, strict=True), "o", label=arm, **style)
        for panel, labels in zip(panels[1:], sizes, strict=True):
            for record in (record for record in chosen if record["labels"] == labels and record["validation"]):
                steps, losses, _ = zip(*record["validation"], strict=True)
                panel.plot(steps, losses, marker=".", **style)
            panel.set_title(f"{labels:,} labels")
            panel.set_xlabel("optimizer step")
            panel.set_ylabel("validation loss")
    panels[0].set_xscale("log")
    panels[0].set_xlabel("labels")
    panels[0].set_ylabel("test accuracy")
    panels[0].legend()
    for panel in panels:
        panel.grid(alpha=0.3)
    write_atomically(output, lambda path: figure.savefig(path, format="svg"))


def about(run: Path) -> dict:
    """An adaptation: what it was told, what it reached, and the validation by step."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [[line["step"], line["eval_loss"], line["eval_masked_accuracy"]] for line in lines if "eval_loss" in line]
    done = read_json(run / "run.json")
    figures = {key: done[key] for key in ("arguments", "machine", "data", "metrics", "seconds", "peak_memory_bytes")}
    return figures | {"tokens": sum(line.get("tokens", 0) for line in lines), "validation": curve}


def collect(given: argparse.Namespace) -> list[dict]:
    """Writes what is finished so far into the output folder, and returns it."""
    cells = [(arm, labels, seed) for labels in given.labels for seed in given.seeds for arm in ARMS]
    runs = {cell: given.runs / "{}-{}-{}".format(*cell) for cell in cells}
    records = [record_of(run, *cell) for cell, run in runs.items() if measured(run)]
    adaptations = {arm: about(Path(encoder_of(given, arm))) for arm in ADAPTATIONS}
    write_json(given.output / "runs.json", {"adaptations": adaptations, "classification": CLASSIFY, "runs": records})
    if {record["arm"] for record in records} == set(ARMS):  # every arm has a line to draw
        draw(records, given.output / "curves.svg")
    return records


def settle_places(given: argparse.Namespace) -> None:
    """Full paths, because the commands run in the project's folder; the figures go beside the runs unless told otherwise."""
    given.output = given.output or given.runs
    given.runs = given.runs.resolve()
    if Path(given.model).is_dir():
        given.model = str(Path(given.model).resolve())
    if given.data != "imdb":
        given.data = str(Path(given.data).resolve())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="IMDb: aclImdb_v1.tar.gz, aclImdb/, or imdb to download it")
    parser.add_argument("--model", default="minilm", help="the encoder that all arms start from")
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test_size", type=int, default=2000)
    parser.add_argument("--runs", type=Path, default=Path("runs/adaptation"), help="where the run directories go")
    parser.add_argument("--output", type=Path, help="where the figures go (default: --runs)")
    parser.add_argument("--adapt", nargs=argparse.REMAINDER, default=[], help="further flags of train_mlm.py; stands last")
    given = parser.parse_args(argv)
    if not importlib.util.find_spec("matplotlib"):  # which draws the first picture after hours
        raise UserError("matplotlib is not installed: pip install -r requirements-dev.txt")
    settle_places(given)
    for arm in ADAPTATIONS:
        if not (Path(encoder_of(given, arm)) / "run.json").exists():
            call(adapt(given, arm))
    collect(given)
    for labels in given.labels:
        for seed in given.seeds:
            for arm in ARMS:
                run, steps = commands(given, arm, labels, seed)
                if not measured(run):
                    for command in steps:
                        call(command)
                print(table(collect(given)), flush=True)


if __name__ == "__main__":
    with user_errors():
        main()
