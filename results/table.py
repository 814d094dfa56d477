"""The README's result table from the records beside this file: python results/table.py writes it between its two markers."""

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
MARKED = re.compile(r"(<!-- results/table.py -->\n).*?(<!-- end -->)", re.DOTALL)


def row(path: Path) -> str:
    """One record: what was trained on what, by whom, and how it judged the test texts."""
    record = json.loads(path.read_text(encoding="utf-8"))
    arguments, data, test = record["arguments"], record["data"], record["metrics"]["test"]
    name = {"sample": "sample", "aclImdb_v1.tar.gz": "IMDb", "imdb": "IMDb"}[arguments["data"]]
    system = record.get("system") or f"`train_cls.py`, {arguments['precision']}"
    low, high = test["accuracy_interval"]
    cells = [f"`{path.name}`", system, f"{data['train']:,} of {name}, {arguments['max_length']} tokens", f"{test['n']:,}"]
    cells += [f"{test['accuracy']:.3f} ({low:.3f} to {high:.3f})", f"{test['f1']:.3f}", f"{test['roc_auc']:.3f}"]
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    lines = [
        "| record | system | trained on | tested on | accuracy (95% interval) | F1 | ROC-AUC |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [row(path) for path in sorted(HERE.glob("*.json"))]) + "\n"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    if not MARKED.search(text):
        sys.exit(f"{README.name} has lost the lines <!-- results/table.py --> and <!-- end -->")
    README.write_text(MARKED.sub(lambda match: match[1] + table() + match[2], text), encoding="utf-8")
    print(table(), end="")


if __name__ == "__main__":
    main()
