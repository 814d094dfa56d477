"""What one change of the recipe does to a classifier: 5,000 training reviews of IMDb, one epoch, judged on validation alone.

    python benchmarks/ablations.py --data aclImdb_v1.tar.gz
    python benchmarks/ablations.py --data aclImdb_v1.tar.gz --only base tail

It runs train_cls.py once as the base and once for each change of it, with the same seed. What is finished is not run again,
what was interrupted is resumed; with other flags give other --runs. After each run the folder --output
(if not given, --runs) has the figures so far.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from adaptation import call, settle_places

from distilbert.cli import user_errors
from distilbert.files import read_json, write_json
from distilbert.metrics import wilson_interval

BASE = ["--train_size", "5000", "--eval_size", "2500", "--num_train_epochs", "1", "--max_length", "256", "--dropout", "0.1"]
CHANGES = {
    "base": [],
    "head": ["--truncation", "head"],
    "tail": ["--truncation", "tail"],
    "pre_classifier": ["--classifier_head", "pre_classifier"],
    "128": ["--max_length", "128"],
    "384": ["--max_length", "384"],
    "512": ["--max_length", "512"],
    "breaks": ["--keep_breaks"],
    "layer_decay": ["--layer_decay", "0.9"],
    "decay_all": ["--decay_all"],
}


def command(given: argparse.Namespace, name: str) -> list[str]:
    places = ["--model", given.model, "--data", given.data, "--output_dir", str(given.runs / name), "--resume"]
    return ["train_cls.py", *places, *BASE, *given.flags, *CHANGES[name]]


def record_of(run: Path) -> dict:
    """One run: its validation, and what it cost; of its test part nothing, so that no choice can rest on it."""
    done = read_json(run / "run.json")
    (_, false_positive), (false_negative, _) = done["metrics"]["validation"]["confusion_matrix"]
    n = done["metrics"]["validation"]["n"]
    figures = {"n": n, "right": n - false_positive - false_negative, "loss": done["metrics"]["validation"]["loss"]}
    return figures | {key: done[key] for key in ("seconds", "arguments", "machine")}


def table(figures: dict) -> str:
    """In Markdown, a row a change. Each ran once: the interval is that of the reviews drawn, not that of another seed."""
    lines = ["| the base, and changes | validation accuracy (95% interval) | against the base | loss | format, minutes |"]
    lines.append("|---|---|---|---|---|")
    base = figures["runs"].get("base")
    for name, run in figures["runs"].items():
        low, high = wilson_interval(run["right"], run["n"])
        change = "" if base in (None, run) else f"{run['right'] / run['n'] - base['right'] / base['n']:+.4f}"
        flags = f"`{' '.join(CHANGES[name])}`" if CHANGES[name] else "base"
        cost = f"{run['arguments']['precision']}, {run['seconds'] / 60:.1f}"
        accuracy = f"{run['right'] / run['n']:.4f} ({low:.4f} to {high:.4f})"
        lines.append(f"| {flags} | {accuracy} | {change} | {run['loss']:.4f} | {cost} |")
    return "\n".join(lines)


def collect(given: argparse.Namespace) -> dict:
    """Writes what is finished so far into the output folder, and returns it."""
    runs = {name: record_of(given.runs / name) for name in CHANGES if (given.runs / name / "run.json").exists()}
    write_json(given.output / "runs.json", {"runs": runs})
    return {"runs": runs}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="IMDb: aclImdb_v1.tar.gz, aclImdb/, or imdb to download it")
    parser.add_argument("--model", default="minilm", help="the encoder")
    parser.add_argument("--only", nargs="+", default=list(CHANGES), choices=list(CHANGES), help="these runs alone")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="where the run directories go")
    parser.add_argument("--output", type=Path, help="where the figures go (default: --runs)")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="further flags of each run; stands last")
    given = parser.parse_args(argv)
    settle_places(given)
    for name in given.only:
        if not (given.runs / name / "run.json").exists():
            call(command(given, name))
        figures = collect(given)
    print(table(figures))


if __name__ == "__main__":
    with user_errors():
        main()
