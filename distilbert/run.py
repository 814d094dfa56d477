"""A run in its directory: log, checkpoints, resume, the final record. Skip it to follow the lesson.

checkpoint/arguments.json   the flags as given, with every `auto` resolved
checkpoint/step-N/          what resume.py writes
log.jsonl, curves.svg, run.json, README.md, and the model's own files
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import signal
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from data.sources import is_imdb

from .card import model_card
from .curves import draw_curves
from .directory import Directory, without_paths
from .distributed import Workers
from .errors import UserError
from .fast import tune_process
from .files import fingerprint, finite, read_json, write_json, write_text
from .optim import AdamW
from .precision import Precision
from .resume import asks_for_no_more, gather, newest_checkpoint, put_back, resumed_arguments, write_checkpoint
from .start import machine, revision
from .tokenizer import Tokenizer

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
    best: dict = dataclasses.field(default_factory=dict)  # step, score and metrics of the best validation
    loss: float = 0.0  # this and the rest: sums since the last line of the log
    labels: int = 0
    tokens: int = 0
    window_seconds: float = 0.0


class Run:
    """One training run in its directory. As a context it holds the lock, and lets signals wait for the end of a step."""

    def __init__(self, arguments):
        self.arguments, self.place = arguments, Directory(arguments.output_dir)
        self.directory, self.checkpoints = self.place.path, self.place.checkpoints
        self.progress, self.scaler_state, self.window = Progress(), {}, []
        self.signal, self.stop, self.bar = 0, 0, None  # stop: a signal that all workers know of
        self.workers = Workers(arguments.device)
        self.saved_at = time.monotonic()

    def __enter__(self) -> "Run":
        if self.workers.rank == 0:
            self.place.lock()
        self.handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, error_class, *_) -> None:
        if error_class is None:
            self.workers.wait()  # until the last file is written: a worker that ended badly would end the one that writes
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.bar is not None:
            self.bar.close()
        if self.workers.rank == 0:
            self.place.unlock()
        if error_class in (None, SystemExit):  # with nccl, leaving waits for all: an error must be told before
            self.workers.leave()

    def _stop(self, number: int, _frame) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        print("\nstopping once this step, or this judging, is done; a second time stops at once …", file=sys.stderr)

    # ---- beginning

    def finished(self) -> bool:
        """Whether --resume finds the final record of a run of as many steps as are asked for, if a number is."""
        path = self.directory / "run.json"
        if not (self.arguments.resume and path.exists()):
            return False
        done = asks_for_no_more(self.arguments, read_json(path).get("arguments"))
        if done and self.place.arguments.exists():  # another recipe is refused here as it is in the middle of a run
            resumed_arguments(self.arguments, self.place.arguments)
        elif done:  # its checkpoints are gone; the record has names in place of paths
            flags = without_paths(dataclasses.asdict(self.arguments))
            resumed_arguments(dataclasses.replace(self.arguments, **flags), path)
        return done

    def begin(self) -> dict[str, Tensor] | None:
        """The tensors of the checkpoint to go on from, or None for a fresh start; resolves every `auto`. Changes no file.

        Raises `UserError` when the directory holds a run and neither --overwrite nor --resume was given, or when a flag
        differs from the run's that must not.
        """
        stored = self.place.arguments
        going_on = self.arguments.resume and stored.exists()
        on = "It has no checkpoint to --resume" if self.arguments.resume else "To go on with a run: --resume"
        occupied = UserError(
            f"--output_dir {self.directory} already holds a run, or files that a run would replace. {on}; "
            "to replace what is there: --overwrite; or choose another directory"
        )
        if self.place.occupied() and not (self.arguments.overwrite or going_on):
            raise occupied if self.workers.rank == 0 else SystemExit(2)  # said once
        tensors = None
        if going_on:
            self.arguments = resumed_arguments(self.arguments, stored)
            if found := newest_checkpoint(self.checkpoints, self.say):
                tensors, state = found
                self.progress, self.scaler_state = self._progress_of(state), state["scaler"]
            elif (self.directory / "run.json").exists() and not self.arguments.overwrite:
                raise occupied if self.workers.rank == 0 else SystemExit(2)
        if self.arguments.resume:
            at = (
                f"resuming after step {self.progress.step}" if tensors else f"no checkpoint in {self.directory}: starting fresh"
            )
            self.say(at)
        step = self.progress.step
        if self.workers.largest(step) != -self.workers.largest(-step):  # asking, all wait: nobody writes before all have read
            raise UserError("--resume: not every process finds this checkpoint; --output_dir must be on a disk that all share")
        tune_process()
        try:
            precision = Precision.choose(self.arguments.device, self.arguments.precision)
        except UserError:
            if not going_on:
                raise
            device = self.arguments.device
            raise UserError(f"--resume: the run is of a machine with --device {device}; go on there, or start anew") from None
        self.arguments = dataclasses.replace(self.arguments, device=precision.device, precision=precision.kind)
        return tensors

    def _progress_of(self, state: dict) -> Progress:
        try:
            return Progress(**state["progress"])
        except TypeError:
            raise UserError(f"{self.checkpoints}: of another version of this project; start anew: --overwrite") from None

    def settle(self, epochs: int):
        """The arguments, with `epochs` for --num_train_epochs where the command line leaves it open: from here on the run's."""
        if self.arguments.num_train_epochs is None:
            self.arguments = dataclasses.replace(self.arguments, num_train_epochs=epochs)
        return self.arguments

    def restore(self, model: nn.Module, optimizer: AdamW, scaler, tensors: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Puts a checkpoint's tensors back where `save` took them; returns the best weights so far.

        From here on the directory is this run's: a former one is cleared away, or the log cut back to the checkpoint.
        """
        self.progress.revision = self.progress.revision or revision(self.arguments.model)  # later it may be another one
        best = put_back(tensors, model, optimizer) if tensors else {}
        if self.workers.rank == 0:
            p = self.progress
            p.log_bytes = self.place.clear(self.arguments.model, tensors is None, p.step, p.log_bytes)
            write_json(self.place.arguments, dataclasses.asdict(self.arguments))
        if self.scaler_state:
            scaler.load_state_dict(self.scaler_state)
        return best

    def describe(self, parts: dict, dropped: int, lengths: np.ndarray, precision: Precision, identity: str) -> None:
        """Says what is about to be trained on. Raises `UserError` when a resumed run would go on with other texts, or with
        another tokenizer (`identity`: what stands for it), to which the weights' ids mean nothing.
        """
        texts = fingerprint(text for part in parts.values() for text in part.texts)
        labels = fingerprint(f"{name} {label}" for name, part in parts.items() for label in part.labels)
        p = self.progress
        if p.step and (p.fingerprint != texts or p.labels_fingerprint not in ("", labels)):  # "": an older version's checkpoint
            raise UserError(
                f"--resume: the texts or labels of --data {self.arguments.data} have changed; use another --output_dir"
            )
        pieces = fingerprint([identity])
        if p.step and p.tokenizer_fingerprint not in ("", pieces):
            raise UserError(f"--resume: the tokenizer of --model {self.arguments.model} has changed; use another --output_dir")
        p.fingerprint, p.labels_fingerprint, p.tokenizer_fingerprint = texts, labels, pieces
        sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        self.say(f"{self.arguments.data}: {sizes}; {dropped} dropped that also stand in validation or test")
        if self.arguments.split != "official" and not is_imdb(self.arguments.data):
            self.say(f"--split {self.arguments.split} is a cut of IMDb, and these texts are not: --data imdb")
        self.say(f"{lengths.mean():.0f} tokens a sequence on average, once cut, {precision.kind} on {precision.device}")

    # ---- along the way

    def count(
        self,
        loss: Tensor,
        norm: Tensor,
        labels: int,
        tokens: int,
        seconds: float,
        skipped: bool,
        ended: bool,
        texts: np.ndarray,
    ) -> None:
        """One optimizer step more. `loss`, its mean over `labels`, and the norm stay on the device until the log needs them.

        Raises `UserError` when the loss scaler has skipped 20 steps in a row.
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
        if ended:
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
        with open(self.place.log, "ab") as log:
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
        if self.workers.rank == 0:
            tqdm.write(text)
            sys.stdout.flush()

    def evaluation_is_due(self, epoch_ended: bool, ended: bool) -> bool:
        every = self.arguments.eval_steps
        due = ended or (epoch_ended if every is None else self.progress.step % every == 0)
        if due:
            self._add_up()  # what a GPU has still to do is training, and its time no validation's
        return due

    def checkpoint_is_due(self, at_an_end: bool) -> bool:
        """At an end, by steps, by minutes, or on a signal, of which all workers learn here; `exit_if_stopped` obeys it."""
        every, minutes = self.arguments.save_steps, (time.monotonic() - self.saved_at) / 60
        by_steps = every is not None and self.progress.step % every == 0
        self.stop = self.workers.largest(self.signal)
        return bool(at_an_end or by_steps or self.stop or minutes >= self.arguments.save_minutes)

    def save(self, model: nn.Module, optimizer: AdamW, scaler, best: dict[str, Tensor]) -> None:
        """Writes checkpoint/step-N/."""
        self._add_up()  # never a checkpoint of something that is no number any more
        self.saved_at = time.monotonic()
        if self.workers.rank:
            return
        with open(self.place.log, "ab") as log:
            os.fsync(log.fileno())  # a checkpoint knows how long the log was, so that it must not outlive it
        state = {"progress": dataclasses.asdict(self.progress), "scaler": scaler.state_dict()}
        write_checkpoint(self.checkpoints, self.progress.step, gather(model, optimizer, best), state)

    def exit_if_stopped(self, ended: bool = False) -> None:
        """After SIGINT or SIGTERM, once this step is saved: says how to go on, exits with 130 or 143, all workers at once."""
        if ended:  # no step asks any more
            self.stop = self.workers.largest(self.signal)
        if self.stop:
            self.workers.wait()  # until the first has saved: torchrun ends all of them as soon as one has ended
            self.say(f"saved at step {self.progress.step}. To go on, run the same command with --resume")
            raise SystemExit(128 + self.stop)

    # ---- end

    def finish(self, model, tokenizer: Tokenizer, weights: dict, parts: dict, dropped: int, test: dict, memory: int) -> None:
        """Writes the model, curves, card and, last of all, run.json: its presence means a finished run.

        `test`: metrics of the test part; those of validation are the best ones that were logged.
        """
        if self.workers.rank:
            return
        model.save_pretrained(self.directory, weights)
        tokenizer.save_pretrained(self.directory, model.config.max_position_embeddings)
        try:
            draw_curves([self.directory], self.directory / "curves.svg")
        except UserError as error:  # no picture is worth a run
            self.say(f"no curves.svg: {error}")
        record = {
            "arguments": without_paths(dataclasses.asdict(self.arguments)),
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "tokenizers", "safetensors", "numpy")},
            "machine": machine(self.arguments.device),
            "revision": self.progress.revision,
            "data": {name: len(part) for name, part in parts.items()}
            | {
                "dropped_duplicates": dropped,
                "fingerprint": self.progress.fingerprint,
            },
            "steps": self.progress.step,
            "epochs": self.progress.epoch,
            "best_step": self.progress.best["step"],
            "metrics": {"validation": self.progress.best["metrics"], "test": test},
            "seconds": round(self.progress.seconds, 1),
            "peak_memory_bytes": memory,
        }
        write_text(self.directory / "README.md", model_card(record, type(model).__name__))
        write_json(self.directory / "run.json", record)
