"""Pictures: training runs from their log.jsonl (python -m distilbert.curves runs/*), and a classifier's judgements."""

import json
import sys
from pathlib import Path

import numpy as np

from .cli import printable, user_errors
from .errors import UserError
from .files import write_atomically


def draw_curves(runs: list[Path], output: Path) -> bool:
    """Loss (dots: validation), accuracy, rate and speed by step, a colour a run. For masked LMs also perplexity, exp(loss).

    False, and nothing written, where matplotlib is not installed. Raises `UserError` for a log with half a line.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    loss, accuracy, rate, speed = figure.subplots(1, 4)
    for number, run in enumerate(runs):
        try:
            lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        except ValueError as error:  # a full disk or a power cut leaves half a line
            raise UserError(
                f"{run / 'log.jsonl'}: not a whole log ({error}); --resume mends it, if the run can go on"
            ) from None
        training = [line for line in lines if "loss" in line]
        evaluations = [line for line in lines if "eval_loss" in line]
        name = printable(run.resolve().name).replace("$", r"\$")  # between two of them matplotlib reads mathematics
        name = f" {name}" if name.startswith("_") else name  # which it would leave out of the legend
        style, dots = {"label": name, "color": f"C{number}"}, {"color": f"C{number}", "marker": "o", "linestyle": ":"}
        steps, evaluated = ([line["step"] for line in chosen] for chosen in (training, evaluations))
        masked = any("eval_masked_accuracy" in line for line in evaluations)
        key = "eval_masked_accuracy" if masked else "eval_accuracy"
        loss.plot(steps, [line["loss"] for line in training], **style)
        loss.plot(evaluated, [line["eval_loss"] for line in evaluations], **dots)
        accuracy.plot(evaluated, [line[key] for line in evaluations], **dots)
        rate.plot(steps, [line["learning_rate"] for line in training], **style)
        speed.plot(steps, [line["tokens"] / max(line["seconds"], 1e-9) for line in training], **style)
        if masked and not loss.child_axes:
            loss.secondary_yaxis("right", functions=(np.exp, lambda perplexity: np.log(np.maximum(perplexity, 1e-9)))).set(
                ylabel="perplexity", yscale="log"
            )
    panels = {loss: ("loss", "nats (dots: validation)"), accuracy: ("validation accuracy", "share right")}
    panels |= {rate: ("learning rate", "--learning_rate × schedule"), speed: ("speed", "real tokens per second")}
    for panel, (title, unit) in panels.items():
        panel.set(title=title, xlabel="optimizer step", ylabel=unit)
        panel.grid(alpha=0.3)
    loss.legend()
    write_atomically(output, lambda path: figure.savefig(path, format="svg"))
    return True


def draw_judgements(matrix: list[list[int]], bins: dict[str, tuple[np.ndarray, ...]], output: Path) -> bool:
    """The confusion matrix, and accuracy by confidence, a line for each named set of `metrics.reliability` bins.

    False, and nothing written, where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    confusion, calibration = figure.subplots(1, 2)
    confusion.imshow(matrix, cmap="Blues")
    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            shade = "white" if count > max(map(max, matrix)) / 2 else "black"
            confusion.text(column, row, f"{count:,}", ha="center", va="center", color=shade)
    confusion.set(title="confusion matrix", xlabel="said", ylabel="is")
    confusion.set_xticks([0, 1], ["Negative", "Positive"])
    confusion.set_yticks([0, 1], ["Negative", "Positive"])
    calibration.plot([0.5, 1], [0.5, 1], color="gray", linestyle="--", label="as sure as right")
    for name, (counts, right, confidence) in bins.items():
        filled = counts > 0
        calibration.plot(confidence[filled] / counts[filled], right[filled] / counts[filled], marker="o", label=name)
    calibration.set(title="reliability", xlabel="mean confidence of the bin", ylabel="accuracy in the bin")
    calibration.grid(alpha=0.3)
    calibration.legend()
    write_atomically(output, lambda path: figure.savefig(path, format="svg"))
    return True


def main() -> None:
    runs = [Path(name) for name in sys.argv[1:]]
    if not runs or any(not (run / "log.jsonl").exists() for run in runs):
        raise UserError("usage: python -m distilbert.curves RUN [RUN …], each a directory with a log.jsonl")
    if not draw_curves(runs, Path("curves.svg")):
        raise UserError("drawing needs matplotlib: pip install -r requirements-dev.txt")
    print("wrote curves.svg")


if __name__ == "__main__":
    with user_errors():
        main()
