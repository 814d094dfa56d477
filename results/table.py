"""The result tables of both README.md: python results/table.py makes each from the records beside it, between its two markers.

python results/table.py runs/imdb-384       # makes results/imdb-384.json of a finished run first
"""

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "benchmarks")]

import ablations
import adaptation
import compare

import train_cls
import train_mlm
from distilbert.cli import user_errors
from distilbert.errors import UserError
from distilbert.files import checksum, read_json, write_json, write_text

# What the two cards on the hub report of distilbert-base-uncased, and how to get there; the first is cut by --split seed-a.
PUBLISHED = {
    "dapt-imdb": (
        "[ayushshah](https://huggingface.co/ayushshah/distilbert-dapt-imdb-sentiment), adapted first",
        "20,000 test reviews: accuracy .932, F1 .932, ROC-AUC .981; SST-2 dev .890",
        ".932, of 20,000",
        ".981",
    ),
    "imdb-384": (
        "[grojeda](https://huggingface.co/grojeda/distilbert-sentiment-imdb)",
        "25,000 test reviews: accuracy .9256, loss .2435",
        ".9256",
        "",
    ),
}
# Flags that may differ without making a recipe another one; the encoder and the data are looked at by their names.
FREE = ("model", "data", "precision", "device", "compile", "eval_batch_size", "resume", "overwrite", "output_dir", "preset")
FREE += ("logging_steps", "eval_steps", "save_steps", "save_minutes")
IMDB = ("aclImdb_v1.tar.gz", "aclImdb", "imdb")  # what --data is called
WHOLE = 20_000  # test reviews at least, of a record that the README shows


def add(run: Path) -> Path:
    """A run's record in this folder: its run.json, its speed by the log, what evaluate.py measured since, its calibration, and
    the flags of the run that made its encoder, if one did; no weights, no text.

    Raises `UserError` when it is not finished, or no classifier's, which the table of results has no row for, or when the
    record of its name is another run's.
    """
    if not (run / "run.json").exists():
        raise UserError(f"{run} is not a finished run: it has no run.json")
    record = read_record(run / "run.json")
    log = run / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    tokens, seconds = (sum(line.get(key, 0) for line in lines) for key in ("tokens", "seconds"))
    if seconds:
        record["tokens_per_second"] = round(tokens / seconds)
    record["evaluations"] = {path.stem.removeprefix("eval-"): read_json(path) for path in sorted(run.glob("eval-*.json"))}
    if (run / "calibration.json").exists():
        record["calibration"] = read_json(run / "calibration.json")
    stored = run / "checkpoint" / "arguments.json"  # --model as it was typed: a relative path holds where it was
    encoder = Path(read_json(stored)["model"]) / "run.json" if stored.exists() else None
    if encoder and encoder.exists():
        weights = encoder.with_name("model.safetensors")
        if weights.exists() and f"sha256:{checksum(weights)}" == record.get("revision"):
            record["encoder"] = read_json(encoder)["arguments"]
        else:
            print(f"{encoder.parent} does not hold the weights that {run} started from: taken in without its encoder's flags")
    path = HERE / f"{run.resolve().name}.json"
    if path.exists() and any(read_record(path)[key] != record[key] for key in ("arguments", "data", "metrics")):
        raise UserError(f"{path} has other figures than {run}; rename the run, or remove that record first")
    write_json(path, record)
    return path


def read_record(path: Path) -> dict:
    """Raises `UserError` for what is no classifier's record: the tables could say nothing of it."""
    record = read_json(path)
    if not all(isinstance(record.get(key), dict) for key in ("arguments", "data", "metrics")):
        raise UserError(f"{path}: no record of a run: expected arguments, data and metrics")
    if "accuracy" not in (record["metrics"].get("test") or {}):
        raise UserError(f"{path}: holds no classifier's figures of a test part")
    return record


def row(path: Path) -> str:
    """One record: what was trained on what, by whom, and how it judged the test texts."""
    record = read_record(path)
    arguments, data, test = record["arguments"], record["data"], record["metrics"]["test"]
    name = "IMDb" if arguments["data"] in IMDB else arguments["data"]
    encoder = f", on `{arguments['model']}`" if arguments.get("model", "minilm") != "minilm" else ""
    system = record.get("system") or f"`train_cls.py`, {arguments['precision']}{encoder}{lengthened(record)}"
    low, high = test["accuracy_interval"]
    kept = f"{arguments['max_length']} tokens" if "max_length" in arguments else "uncut"
    speed = f"{record['tokens_per_second']:,}" if "tokens_per_second" in record else ""
    cells = [f"`{path.name}`", system, f"{data['train']:,} of {name}, {kept}", speed, f"{test['n']:,}"]
    cells += [f"{test['accuracy']:.3f} ({low:.3f} to {high:.3f})", f"{test['f1']:.3f}", f"{test['roc_auc']:.3f}"]
    return "| " + " | ".join(cells) + " |"


def records() -> str:
    lines = [
        "| record | system | trained on | tokens/s | tested on | accuracy (95% interval) | F1 | ROC-AUC |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [row(path) for path in sorted(HERE.glob("*.json"))]) + "\n"


def whole_imdb() -> str:
    """The README's: all that the official test judged, from the least accurate to the most, then what is reported."""
    lines = ["| system | encoder | test accuracy (95% interval) | ROC-AUC | minutes | peak memory | record |"]
    lines.append("|---|---|---|---|---|---|---|")
    records = {path: read_record(path) for path in HERE.glob("*.json")}
    found = [(path, record) for path, record in records.items()
             if record["arguments"]["data"] in IMDB and record["metrics"]["test"]["n"] >= WHOLE]  # fmt: skip
    for path, record in sorted(found, key=lambda pair: pair[1]["metrics"]["test"]["accuracy"]):
        arguments, test = record["arguments"], record["metrics"]["test"]
        system = record.get("system") or f"`{' '.join(['train_cls.py', *flags(arguments)])}`, {arguments['precision']}"
        encoder = f"`{arguments['model']}`" if "model" in arguments else ""
        low, high = test["accuracy_interval"]
        of = "" if test["n"] == 25_000 else f", of {test['n']:,}"
        accuracy = f"{test['accuracy']:.4f} ({low:.4f} to {high:.4f}){of}"
        cells = [system + lengthened(record), encoder, accuracy, f"{test['roc_auc']:.4f}"]
        minutes = f"{record['seconds'] / 60:.0f}" if "seconds" in record else ""
        memory = f"{record['peak_memory_bytes'] / 2**30:.1f} GiB" if record.get("peak_memory_bytes") else ""
        cells += [minutes, memory, f"[{path.stem}](results/{path.name})"]
        lines.append("| " + " | ".join(cells) + " |")
    for preset, (system, _, accuracy, roc_auc) in PUBLISHED.items():
        how = f"`--preset {preset} --data imdb`"
        lines.append(f"| {system}, as reported | distilbert-base-uncased | {accuracy} | {roc_auc} | | | {how} |")
    return "\n".join(lines) + "\n"


def lengthened(record: dict) -> str:
    """Of a run that was asked for more than was planned: its learning rate is not that of its flags alone."""
    return "".join(f", lengthened at step {step}" for step in record.get("lengthened_at", []))


def flags(arguments: dict) -> list[str]:
    """What the command line of a classifier's run said of its recipe: the preset, and where the run differs from it."""
    said = ["--preset", arguments["preset"]] if arguments.get("preset") else []
    for name, value in departures(arguments, train_cls).items():
        if name != "seed":
            said += [f"--{'no_' * (not value)}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return said


def departures(arguments: dict, script) -> dict:
    """The flags of a run's recipe that are neither its preset's nor the script's own default."""
    arguments = asdict(script.Arguments()) | arguments  # a record may be older than a flag
    usual = asdict(script.Arguments()) | script.PRESETS.get(arguments["preset"], {})
    return {name: arguments[name] for name, value in usual.items() if name not in FREE and arguments[name] != value}


def with_and_without_adaptation() -> str:
    return adaptation.table(read_json(HERE / "adaptation" / "runs.json")["runs"]) + "\n"


def side_by_side() -> str:
    """Our rates and Hugging Face's of one call of compare.py, a row for each of theirs, and the ratio on a second machine.

    A ratio is the median of its rounds, in brackets the lowest and the highest.
    """
    first, second = (read_json(HERE.parent / "benchmarks" / name) for name in ("compare.json", "compare-avx512.json"))
    elsewhere = {(result["size"], result["task"]): result["contestants"] for result in second["results"]}
    lines = ["| size | task | beside | theirs, tokens/s | ours | faster by | on the EPYC | peak memory, theirs → ours |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for result in first["results"]:
        contestants, others = result["contestants"], elsewhere[result["size"], result["task"]]
        ours = next(iter(contestants.values()))
        for name, theirs in contestants.items():
            if name.startswith("ours"):
                continue
            cells = [result["size"], result["task"], compare.label(name, first["bf16"])]
            cells += [f"{one['tokens_per_second']:,.0f}" for one in (theirs, ours)]
            cells += [ratio(one["ours_is_faster_by"]) for one in (theirs, others[name])]
            used = [one["peak_memory_bytes"] for one in (theirs, ours)]  # None: not measured
            cells.append(" → ".join(f"{peak / 2**30:.1f} GiB" for peak in used) if all(used) else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ratio(of: dict) -> str:
    """Two decimals where a round was below two: one would make a lost round a draw."""
    median, least, most = (f"{of[key]:.{1 if of['least'] >= 2 else 2}f}" for key in ("median", "least", "most"))
    return f"{median} ({least} to {most})"


def sst2_dev(record: dict) -> dict | None:
    """The evaluation on SST-2's dev part, if it was of all its 872 sentences, read as the run was trained."""
    found = record.get("evaluations", {})
    of = [found[name] for name in ("sst2", "SST-2", "dev") if name in found]  # by name, or GLUE's zip, or the file in it
    return next((one for one in of if one["n"] == 872 and as_trained(one, record)), None)


def as_trained(evaluation: dict, record: dict) -> bool:
    """Whether texts were cut as in training, as far as both say how: evaluate.py takes other lengths, too."""
    trained, names = record.get("arguments", {}), ("max_length", "truncation")
    return all(evaluation[name] == trained[name] for name in names if name in evaluation and name in trained)


def confidence_and_transfer() -> str:
    """Of each that judged SST-2's dev sentences or got a temperature: how it judged, and what that does to its confidence."""
    lines = ["| record | temperature, from validation | ECE | Brier score | SST-2 dev accuracy (95% interval) |"]
    lines.append("|---|---|---|---|---|")
    for path in sorted(HERE.glob("*.json")):
        record = read_json(path)
        sst2, calibration, cells = sst2_dev(record), record.get("calibration"), [f"`{path.name}`", "", "", "", ""]
        if calibration:
            before_and_after = ("{before:.4f} → {after:.4f}".format(**calibration[key]) for key in ("ece", "brier"))
            cells[1:4] = f"{calibration['temperature']:.2f}", *before_and_after
        if sst2:
            low, high = sst2["accuracy_interval"]
            cells[4] = f"{sst2['accuracy']:.3f} ({low:.3f} to {high:.3f})"
        if calibration or sst2:
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_published(record: dict, preset: str) -> bool:
    """Whether a run was the preset's recipe on the published encoder, whole, and so was the adaptation of its encoder."""

    def kept(arguments: dict, script) -> bool:
        on = arguments["model"] == Path(script.PRESETS[preset]["model"]).name and arguments["data"] == "imdb"  # in their order
        return arguments["preset"] == preset and on and not departures(arguments, script)

    adapted = preset not in train_mlm.PRESETS or ("encoder" in record and kept(record["encoder"], train_mlm))
    return adapted and kept(record["arguments"], train_cls) and not lengthened(record)


def published() -> str:
    """The published systems beside our runs of their recipes on their encoder; a cell is empty until its record is here."""
    lines = ["| system | `--preset` | reported | here, by the same recipe |", "|---|---|---|---|"]
    for preset, (system, reported, *_) in PUBLISHED.items():
        cell, path = "", HERE / f"{preset}.json"
        record = read_json(path) if path.exists() else None
        if record and as_published(record, preset):
            test = record["metrics"]["test"]
            figures = {"accuracy": test["accuracy"], "F1": test["f1"], "ROC-AUC": test["roc_auc"], "loss": test["loss"]}
            if sst2 := sst2_dev(record):
                figures["SST-2 dev"] = sst2["accuracy"]
            cell = f" {test['n']:,} test reviews: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        lines.append(f"| {system} | `{preset}` | {reported} |{cell} |")
    return "\n".join(lines) + "\n"


def one_change() -> str:
    return ablations.table(read_json(HERE / "ablations" / "runs.json")) + "\n"


def kinds_of_review() -> str:
    """How often a model judges right, by kind of review, from the record of the whole-IMDb run without adaptation."""
    lines = ["| kind of review | reviews | accuracy (95% interval) |", "|---|---|---|"]
    record = read_json(HERE / "imdb-plain-seed0.json")
    evaluations = (found for found in record["evaluations"].values() if found["n"] == record["data"]["test"])
    evaluations = (found for found in evaluations if as_trained(found, record))
    kinds = next((found["kinds"] for found in evaluations if "kinds" in found), None)
    if kinds is None:
        raise UserError(f"{HERE / 'imdb-plain-seed0.json'}: no kinds of review; measure them: python evaluate.py --errors 20")
    for kind, figures in kinds.items():
        low, high = figures["accuracy_interval"]
        lines.append(f"| {kind} | {figures['n']:,} | {figures['accuracy']:.3f} ({low:.3f} to {high:.3f}) |")
    return "\n".join(lines) + "\n"


PAGES = {
    "../README.md": (whole_imdb,),
    "README.md": (
        *(records, published, confidence_and_transfer, kinds_of_review, one_change),
        *(side_by_side, with_and_without_adaptation),
    ),
}


def filled(text: str, tables: tuple) -> str:
    """A page with today's tables. Raises `ValueError` when a marker is missing."""
    for make in tables:
        marked = re.compile(rf"(<!-- table: {make.__name__} -->\n)(.*?)<!-- end -->", re.DOTALL)
        if not marked.search(text):
            raise ValueError(f"a page has lost the lines <!-- table: {make.__name__} --> and <!-- end -->")
        start, end = marked.search(text).span(2)
        text = text[:start] + make() + text[end:]
    return text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="run directories whose record to take in")
    for run in parser.parse_args(argv).runs:
        print(f"wrote {add(run)}")
    for page, tables in PAGES.items():
        write_text(HERE / page, filled((HERE / page).read_text(encoding="utf-8"), tables))


if __name__ == "__main__":
    with user_errors():
        main()
