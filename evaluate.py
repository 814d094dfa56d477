"""Measures a trained classifier, calibrates it, lists its errors, or judges a text of yours: python evaluate.py [--help]"""

import os
from dataclasses import dataclass
from pathlib import Path

from distilbert.arguments import TrainingArguments
from distilbert.cli import check_stored, flag, parse, printable, user_errors


@dataclass(frozen=True)
class Arguments:
    """Measures a trained classifier on held-out texts."""

    model: str = flag("runs/cls", "a run directory, another directory with a trained classifier, or a hub id")
    data: str = flag("", "sample, imdb, sst2 or a path (default: what the run was trained on, or sample)")
    split: str = flag("", "how IMDb is cut (default: the run's)", choices=("", "official", "seed-a", "seed-b"))
    part: str = flag("test", "which part to measure", choices=("train", "validation", "test"))
    eval_size: int | None = flag(
        None, "stratified subset of that part, and of the one to calibrate on (default: the run's, on the run's data)", low=1
    )
    max_length: int | None = flag(None, "tokens of a text (default: the run's, or 512 at most)", low=3, high=32_768)
    truncation: str = flag(
        "", "part of a long text that is kept (default: the run's)", choices=("", "head", "tail", "head-tail")
    )
    eval_batch_size: int = flag(64, "texts of one forward", low=1, high=65_536)
    device: str = flag("auto", "where to compute; auto: a CUDA GPU, or else the CPU", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = flag("auto", "number format; auto: what this machine is fast in", choices=("auto", "fp32", "bf16", "fp16"))
    calibrate: bool = flag(
        False, "fit a temperature on validation; distilbert.look applies it, if it was the run's own test that this measured"
    )
    errors: int = flag(0, "list so many of the most confident mistakes, and accuracy by kind of text", low=0)
    text: str | None = flag(None, "judge this text instead of measuring")


if __name__ == "__main__":  # --help and mistyped flags are answered here, before the seconds that importing torch takes
    with user_errors():
        parse(Arguments)

import numpy as np

from data.batches import tokenise
from data.cls import truncate
from data.formats import LABELS, with_line_breaks
from data.sources import Part, check_classes, is_imdb, load, prepare
from distilbert.calibration import LEAST, MOST, fit_temperature
from distilbert.curves import draw_judgements
from distilbert.directory import trained_with
from distilbert.errors import UserError
from distilbert.fast import tune_process
from distilbert.files import bare_name, write_json
from distilbert.held_out import check_unchanged, leave_out_known, same_data, split_of
from distilbert.hub import locate
from distilbert.logits import predict_logits
from distilbert.metrics import classification_metrics, reliability, softmax
from distilbert.mistakes import accuracy_by_kind, confident_mistakes, print_errors
from distilbert.precision import Precision
from distilbert.predict import trained_classifier
from distilbert.start import check_device


def main(argv: list[str] | None = None) -> None:
    args = parse(Arguments, argv)
    if args.calibrate and args.part == "validation":
        raise UserError(
            "--calibrate fits a temperature on the validation part, so --part must be another: leave it out for test"
        )
    directory = locate(args.model)
    own = run_arguments(directory)  # what the run was trained with; empty for other people's models
    weights = directory / "model.safetensors"
    before = weights.stat().st_mtime_ns if weights.exists() else None
    model, tokenizer = trained_classifier(args.model, directory)
    precision = Precision.choose(args.device, args.precision)
    tune_process()
    check_device(model, precision.device)
    model.to(precision.device, precision.dtype)
    max_length = args.max_length or min(own.get("max_length", 512), model.config.max_position_embeddings)
    truncation = args.truncation or own.get("truncation") or "head"
    if max_length > (limit := model.config.max_position_embeddings):
        raise UserError(f"--max_length {max_length} exceeds the model's {limit} positions; use --max_length {limit}")

    def logits_of(table) -> np.ndarray:
        chosen = [truncate(ids, max_length, truncation) for ids in table]
        with precision.autocast():
            return predict_logits(model, chosen, tokenizer.pad_id, args.eval_batch_size)

    if args.text is not None:
        ids = np.array(tokenizer.encode(with_line_breaks(args.text, own.get("keep_breaks", False)), None))
        if len(ids) == 2:  # [CLS] and [SEP]
            raise UserError(f"--text {args.text!r}: there is nothing to judge in it")
        scores = softmax(logits_of([ids]))[0]
        said = f"{model.config.id2label[int(scores.argmax())]} {scores.max():.3f}  {' '.join(args.text.split())}"
        return print(printable(said))
    check_names(model.config.id2label, args.model)
    parts, data, split, on_own = parts_to_judge(args, own, directory)

    def judge(name: str) -> tuple[np.ndarray, Part]:
        """Logits of a part, and the part."""
        part = check_classes(parts, (name,), data)[name]
        return logits_of(tokenise(part.texts, tokenizer.encode_batch, tokenizer.backend.to_str())), part

    logits, part = judge(args.part)
    metrics = classification_metrics(logits, part.labels)
    name = bare_name(data)
    stem = f"eval-{name}" if args.part == "test" else f"eval-{name}-{args.part}"
    print_metrics(f"{args.model} on {name} ({args.part}, up to {max_length} tokens)", metrics)
    how = {"data": name, "split": split, "part": args.part, "max_length": max_length, "truncation": truncation}
    usual = on_own and args.part == "test" and not (args.split or args.max_length or args.truncation or args.eval_size)
    written = {f"{stem}.json": how | {"number_format": precision.kind} | metrics}
    bins = {"as trained": reliability(softmax(logits), part.labels)}
    if args.calibrate:
        calibration = calibrate(*judge("validation"), logits, part)
        written["calibration.json" if usual else f"calibration-{stem.removeprefix('eval-')}.json"] = how | calibration
        bins["calibrated"] = reliability(softmax(logits / calibration["temperature"]), part.labels)
    if args.errors:
        kinds, mistakes = accuracy_by_kind(logits, part), confident_mistakes(logits, part, args.errors)
        written[f"{stem}.json"] |= {"kinds": kinds, "confident_mistakes": mistakes}
    if before is not None and (not weights.exists() or weights.stat().st_mtime_ns != before):
        raise UserError(f"{weights} was replaced in the meantime: these figures are of the former model, and are not kept")
    if Path(args.model).is_dir():  # beside the run, not in a download cache
        for file, content in written.items():
            write_json(directory / file, content)
        drawn = draw_judgements(metrics["confusion_matrix"], bins, directory / f"{stem}.svg")
        print(f"wrote {', '.join([*written, *[f'{stem}.svg'] * drawn])} in {args.model}")
    if args.errors:  # last, because `| head` may end us here
        print_errors(kinds, mistakes, part)


def parts_to_judge(args: Arguments, own: dict, directory: Path) -> tuple[dict[str, Part], str, str, bool]:
    """The parts of the data, what --data and --split come to, and whether it is what the run was trained on.

    The run's own data are cut as the run cut them. Of others the texts are left out that the run was trained or chosen on.
    Raises `UserError` where the run's own have changed.
    """
    data = args.data or own.get("data", "sample")
    if not args.data and data not in ("sample", "imdb", "sst2") and not os.path.exists(data):
        raise UserError(f"--model {args.model} was trained on {data}, which is not here; give --data")
    on_own = same_data(data, own.get("data", ""))
    split, same = split_of(args, own, data), own if on_own else {}
    whole = load(data, split, own.get("keep_breaks", False), whole_tables=not on_own)
    sizes = {"train_size": same.get("train_size"), "eval_size": same.get("eval_size")}
    cut = {"keep_duplicates": same.get("keep_duplicates", True), "seed": own.get("seed", 0)}
    parts, _ = prepare(whole, **cut, **sizes)
    if on_own and (split == own.get("split", split) or not is_imdb(data)):  # tables know no --split
        check_unchanged(parts, directory, data)
    elif not (is_imdb(data) and is_imdb(own.get("data", "sample"))):  # of another copy of IMDb `split_of` has seen to it
        judged = {args.part, "validation"} if args.calibrate else {args.part}
        parts |= {name: leave_out_known(parts[name], directory, data) for name in judged & parts.keys()}
    if args.eval_size:  # of train no more than the run had
        sizes = {"train_size": min(args.eval_size, sizes["train_size"] or args.eval_size), "eval_size": args.eval_size}
        parts, _ = prepare(whole if on_own else parts, **cut, **sizes)
    if args.calibrate:
        check_classes(parts, ("validation",), data)  # before the minutes that judging takes
    return parts, data, split, on_own


def run_arguments(directory: Path) -> dict:
    """What a run was trained with, as far as it matters here; checked."""
    stored, path = trained_with(directory)
    names = ("data", "split", "keep_breaks", "keep_duplicates", "train_size", "eval_size", "seed", "max_length", "truncation")
    used = {name: value for name, value in stored.items() if name in names}
    return check_stored(Arguments, check_stored(TrainingArguments, used, path), path)


def check_names(called: dict[int, str], model: str) -> None:
    """Says how classes are taken whose names do not tell. Raises `UserError` where class 0 is the positive one."""
    meant = {label: LABELS.get(name.strip().lower()) for label, name in called.items()}
    if meant[0] == 1 or meant[1] == 0:
        raise UserError(
            f"--model {model} calls class 0 {called[0]} and class 1 {called[1]}; in every label here 0 is Negative, 1 is "
            "Positive, so it judges --text only"
        )
    if None in meant.values():
        print(printable(f"{model} calls its classes {called[0]} and {called[1]}: taken for Negative and Positive"))


def print_metrics(title: str, metrics: dict) -> None:
    low, high = metrics["accuracy_interval"]
    print(f"{title}: n {metrics['n']}")
    print(f"  accuracy   {metrics['accuracy']:.4f}  (95% interval {low:.4f} to {high:.4f})")
    for key in ("precision", "recall", "f1", "roc_auc", "loss", "ece", "brier"):
        if key in metrics:
            print(f"  {key:9}  {metrics[key]:.4f}")
    (true_negative, false_positive), (false_negative, true_positive) = metrics["confusion_matrix"]
    print(f"  said       Negative  Positive\n  is Negative {true_negative:8}  {false_positive:8}")
    print(f"  is Positive {false_negative:8}  {true_positive:8}")


def calibrate(held_logits: np.ndarray, held: Part, logits: np.ndarray, part: Part) -> dict:
    """One temperature for all logits, fitted on validation; what it does to the other part is measured, not fitted.

    It is 1, and fitted on none, where the best lies outside the search: texts that are all judged right ask for T → 0, a model
    that tells nothing apart for T → ∞.
    """
    temperature, fitted_on = fit_temperature(held_logits, held.labels), len(held)
    if 1.01 * LEAST < temperature < MOST / 1.01:
        print(f"temperature {temperature:.3f}, fitted on {fitted_on} validation texts")
    else:
        print(f"temperature 1: the best one for these {fitted_on} validation texts lies outside {LEAST:g} to {MOST:g}")
        temperature, fitted_on = 1.0, 0
    before, after = classification_metrics(logits, part.labels), classification_metrics(logits / temperature, part.labels)
    figures = {key: {"before": before[key], "after": after[key]} for key in ("ece", "brier", "loss")}
    for key, figure in figures.items():
        print(f"  {key:9}  {figure['before']:.4f} → {figure['after']:.4f}")
    return {"temperature": temperature, "fitted_on": fitted_on, "n": len(part)} | figures


if __name__ == "__main__":
    with user_errors():
        main()
