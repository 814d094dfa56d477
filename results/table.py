"""The README's result tables from the records beside this file: python results/table.py writes each between its two markers."""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
sys.path.insert(0, str(HERE.parent / "benchmarks"))

import adaptation


def row(path: Path) -> str:
    """One record: what was trained on what, by whom, and how it judged the test texts."""
    record = json.loads(path.read_text(encoding="utf-8"))
    arguments, data, test = record["arguments"], record["data"], record["metrics"]["test"]
    name = {"sample": "sample", "aclImdb_v1.tar.gz": "IMDb", "imdb": "IMDb"}[arguments["data"]]
    encoder = f", on `{arguments['model']}`" if arguments.get("model", "minilm") != "minilm" else ""
    system = record.get("system") or f"`train_cls.py`, {arguments['precision']}{encoder}"
    low, high = test["accuracy_interval"]
    cells = [f"`{path.name}`", system, f"{data['train']:,} of {name}, {arguments['max_length']} tokens", f"{test['n']:,}"]
    cells += [f"{test['accuracy']:.3f} ({low:.3f} to {high:.3f})", f"{test['f1']:.3f}", f"{test['roc_auc']:.3f}"]
    return "| " + " | ".join(cells) + " |"


def records() -> str:
    lines = [
        "| record | system | trained on | tested on | accuracy (95% interval) | F1 | ROC-AUC |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [row(path) for path in sorted(HERE.glob("*.json"))]) + "\n"


def with_and_without_adaptation() -> str:
    return adaptation.table(json.loads((HERE / "adaptation" / "runs.json").read_text(encoding="utf-8"))["runs"]) + "\n"


def side_by_side() -> str:
    """Our rates and Hugging Face's of one call of compare.py, a row for each of theirs; a ratio is the median of its rounds."""
    names = {
        "trainer default": "Trainer as it comes (fp32)",
        "trainer bf16": "Trainer, bf16",
        "trainer tuned": "Trainer, bf16, batches by length",
        "trainer tuned-no-attention-dropout": "the same, without attention dropout",
        "pipeline default": "pipeline as it comes (fp32)",
        "pipeline bf16": "pipeline, bf16",
    }
    lines = ["| task | beside | theirs, tokens/s | ours, tokens/s | ours is faster by | peak memory, theirs → ours |"]
    lines.append("|---|---|---|---|---|---|")
    for result in json.loads((HERE.parent / "benchmarks" / "compare.json").read_text(encoding="utf-8"))["results"]:
        contestants = result["contestants"]
        ours = next(iter(contestants.values()))
        for key, theirs in contestants.items():
            if key not in names:
                continue
            ratio = "{median:.1f} ({least:.1f} to {most:.1f})".format(**theirs["ours_is_faster_by"])
            rates = f"{theirs['tokens_per_second']:,.0f} | {ours['tokens_per_second']:,.0f}"
            memory = " → ".join(f"{one['peak_memory_bytes'] / 2**30:.1f} GiB" for one in (theirs, ours))
            lines.append(f"| {result['task']} | {names[key]} | {rates} | {ratio} | {memory} |")
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """The README with today's tables. Raises `ValueError` when a marker is missing."""
    for make in (records, side_by_side, with_and_without_adaptation):
        marked = re.compile(rf"(<!-- table: {make.__name__} -->\n)(.*?)<!-- end -->", re.DOTALL)
        if not marked.search(text):
            raise ValueError(f"{README.name} has lost the lines <!-- table: {make.__name__} --> and <!-- end -->")
        start, end = marked.search(text).span(2)
        text = text[:start] + make() + text[end:]
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
