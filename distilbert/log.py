"""What a run has done so far: its counters, log.jsonl, and lines on the terminal. Skip it at a first reading."""

import dataclasses
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .cli import forget
from .distributed import Workers
from .errors import UserError
from .files import finite

SKIPS_ALLOWED = 20


@dataclasses.dataclass
class Progress:
    """What a run has to remember besides its tensors. All its randomness is a function of the seed and of these."""

    step: int = 0  # optimizer steps, skipped ones included
    skipped: int = 0  # of these, the ones that the loss scaler left out
    skipped_in_a_row: int = 0
    epoch: int = 0
    steps_in_epoch: int = 0
    seconds: float = 0.0  # of training, without evaluation and saving
    log_bytes: int = 0  # how long log.jsonl was
    fingerprint: str = ""  # of the texts
    labels_fingerprint: str = ""  # and of their labels, part by part
    tokenizer_fingerprint: str = ""
    revision: str = ""  # of the weights it started from
    computed_by: list = dataclasses.field(default_factory=list)  # so many processes, of so many threads each
    planned: dict = dataclasses.field(default_factory=dict)  # its --num_train_epochs and --max_steps
    lengthened: list = dataclasses.field(default_factory=list)  # the steps at which it was asked for more than that
    best: dict = dataclasses.field(default_factory=dict)  # step, score and metrics of the best validation
    loss: float = 0.0  # this and the rest: sums since the last line of the log
    labels: int = 0
    tokens: int = 0
    window_seconds: float = 0.0


class Log:
    """The half of `Run` that counts its steps and reports them. Of several processes the first alone writes and speaks."""

    def __init__(self, path: Path, workers: Workers):
        self.log_path, self.workers = path, workers
        self.progress, self.window, self.bar = Progress(), [], None
        self.signal = 0  # the one that asked this process to stop

    def count(
        self, loss: Tensor, norm: Tensor, labels: int, tokens: int, seconds: float, skipped: bool, last: bool, texts: np.ndarray
    ) -> None:
        """One optimizer step more. `loss`, its mean over `labels`, and the norm stay on the device until the log needs them.

        `last`: of its epoch; `texts`: their numbers. Raises `UserError` when the loss scaler has skipped 20 steps in a row.
        """
        p = self.progress
        p.step, p.steps_in_epoch, p.tokens = p.step + 1, p.steps_in_epoch + 1, p.tokens + tokens
        p.seconds, p.window_seconds = p.seconds + seconds, p.window_seconds + seconds
        self.norm = norm
        if skipped:
            p.skipped, p.skipped_in_a_row = p.skipped + 1, p.skipped_in_a_row + 1
            if p.skipped_in_a_row == SKIPS_ALLOWED:
                raise UserError(
                    f"fp16 overflowed in {SKIPS_ALLOWED} steps in a row, up to step {p.step}; the checkpoints before are kept. "
                    "Try again with a smaller --learning_rate, or --precision fp32"
                )
        else:
            p.labels, p.skipped_in_a_row = p.labels + labels, 0
            self.window.append((p.step, torch.as_tensor(loss), norm, labels, texts))
        if last:
            p.epoch, p.steps_in_epoch = p.epoch + 1, 0

    def log_training(self, total_steps: int, learning_rate: float) -> None:
        """A line for the steps since the last one: the mean of the loss, sums of tokens and seconds, the last step's norm."""
        self._add_up()
        p, rate = self.progress, self.progress.tokens / max(self.progress.window_seconds, 1e-9)
        loss = p.loss / p.labels if p.labels else math.nan  # every step was skipped
        values = {"step": p.step, "epoch": p.epoch, "loss": loss, "learning_rate": learning_rate, "grad_norm": float(self.norm)}
        self._append(values | {"tokens": p.tokens, "seconds": round(p.window_seconds, 3)})
        self._show(total_steps, f"loss {loss:.4f}  rate {learning_rate:.1e}  {rate:,.0f} tokens/s")
        p.loss, p.labels, p.tokens, p.window_seconds = 0.0, 0, 0, 0.0

    def _add_up(self) -> None:
        """Fetches the losses since the last time. Raises `UserError` when one is no number: nothing after it can be trusted."""
        if not self.window:
            return
        p, started = self.progress, time.perf_counter()
        losses, norms = (torch.stack([step[i] for step in self.window]).tolist() for i in (1, 2))
        waited = time.perf_counter() - started  # a GPU works on its own until here: its time is training, too
        p.seconds, p.window_seconds = p.seconds + waited, p.window_seconds + waited
        for (step, _, _, labels, texts), loss, norm in zip(self.window, losses, norms, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise UserError(
                    f"the loss was {loss} and its gradient's norm {norm} in step {step}, on the training sequences number "
                    f"{', '.join(map(str, texts[:16]))}{' …' if len(texts) > 16 else ''}; the checkpoints before it are kept. "
                    "Try again with a smaller --learning_rate, or --precision fp32"
                )
            p.loss += loss * labels
        self.window.clear()

    def log_evaluation(self, metrics: dict, score: float) -> bool:
        """A line for a validation; True when its score is the best so far. NaN is never best."""
        p = self.progress
        self._append({"step": p.step, "epoch": p.epoch} | {f"eval_{key}": value for key, value in metrics.items()})
        figures = "  ".join(
            f"{key} {metrics[key]:.4f}" for key in ("loss", "accuracy", "f1", "perplexity", "masked_accuracy") if key in metrics
        )
        better = math.isfinite(score) and math.isfinite(metrics["loss"]) and (not p.best or score > p.best["score"])
        if better:
            p.best = {"step": p.step, "score": score, "metrics": metrics}
        self.say(f"step {p.step}, epoch {p.epoch}: validation {figures}{'  (best so far)' if better else ''}")
        return better

    def _append(self, values: dict) -> None:
        if self.workers.rank:
            return
        with open(self.log_path, "ab") as log:
            log.write(json.dumps(finite(values)).encode() + b"\n")
            log.flush()
            self.progress.log_bytes = log.tell()

    def _show(self, total_steps: int, text: str) -> None:
        """A bar on a terminal, plain lines elsewhere."""
        p = self.progress
        if self.workers.rank:
            return
        if sys.stderr.isatty():
            if self.bar is None:
                self.bar = tqdm(total=total_steps, initial=p.step, unit="step", dynamic_ncols=True)
            self.bar.update(p.step - self.bar.n)
            self.bar.set_postfix_str(text)
        else:
            left = p.seconds / p.step * (total_steps - p.step)
            print(f"step {p.step}/{total_steps}  {text}  {left / 60:.1f} min left", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line for the reader that does not tear the progress bar."""
        if self.workers.rank:
            return
        try:
            tqdm.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            if not self.signal:
                raise
            forget(sys.stdout)  # `| tee` ended by the same Ctrl-C; the run has still to be saved
