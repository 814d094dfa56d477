"""Pictures of training runs from their log.jsonl: python -m distilbert.curves runs/*"""

import json
import sys
from pathlib import Path

from .errors import UserError


def draw_curves(runs: list[Path], output: Path) -> bool:
    """Loss, validation and rate by step, one line a run. False, and nothing written, where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    from .files import write_atomically

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = dict(zip(("loss", "validation", "learning_rate", "tokens/s"), figure.subplots(1, 4), strict=True))
    for number, run in enumerate(runs):
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        training = [line for line in lines if "loss" in line]
        evaluations = [line for line in lines if "eval_loss" in line]
        key = "eval_accuracy" if evaluations and "eval_accuracy" in evaluations[0] else "eval_loss"
        style = {"label": run.name, "color": f"C{number}"}
        steps = [line["step"] for line in training]
        panels["loss"].plot(steps, [line["loss"] for line in training], **style)
        panels["validation"].plot(
            [line["step"] for line in evaluations], [line[key] for line in evaluations], marker="o", **style
        )
        panels["validation"].set_ylabel(key.removeprefix("eval_"))
        panels["learning_rate"].plot(steps, [line["learning_rate"] for line in training], **style)
        panels["tokens/s"].plot(steps, [line["tokens"] / max(line["seconds"], 1e-9) for line in training], **style)
    for name, panel in panels.items():
        panel.set_title(name.replace("_", " "))
        panel.set_xlabel("optimizer step")
        panel.grid(alpha=0.3)
    panels["loss"].legend()
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
    from .cli import user_errors

    with user_errors():
        main()
