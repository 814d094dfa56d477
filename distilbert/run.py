"""A run in its directory: checkpoints, resume, the final record. Skip it at a first reading.

checkpoint/arguments.json   the flags as given, with every `auto` resolved
checkpoint/step-N/          what resume.py writes
log.jsonl                   what log.py writes
curves.svg, run.json, README.md, and the model's own files
"""

import dataclasses
import importlib.metadata
import os
import signal
import sys
import time

import numpy as np
import torch
from torch import Tensor, nn

from data.sources import is_imdb

from .card import model_card
from .cli import forget
from .curves import draw_curves
from .directory import Directory, without_paths
from .distributed import Workers
from .errors import COMPILERS, UserError
from .fast import tune_process
from .files import fingerprint, read_json, write_json, write_text
from .held_out import fingerprints, known_texts, write_known
from .log import Log, Progress
from .optim import AdamW
from .precision import Precision
from .resume import (
    LENGTH,
    asks_for_no_more,
    gather,
    lengthened,
    newest_checkpoint,
    put_back,
    resumed_arguments,
    write_checkpoint,
)
from .start import machine, revision
from .tokenizer import Tokenizer


class Run(Log):
    """One training run in its directory. As a context it holds the lock, and lets signals wait for the end of a step."""

    def __init__(self, arguments):
        self.arguments, self.place = arguments, Directory(arguments.output_dir)
        self.directory, self.checkpoints = self.place.path, self.place.checkpoints
        super().__init__(self.place.log, Workers(arguments.device))
        self.scaler_state, self.saved_at = {}, time.monotonic()
        self.stop = 0  # a signal that all workers know of

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
        elif self.signal and error_class.__module__.startswith(COMPILERS):
            raise SystemExit(128 + self.signal)  # the same Ctrl-C ended the C++ compiler

    def _stop(self, number: int, _frame) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        said = "\nstopping once this step, or this judging, is done; a second time stops at once …"
        try:
            print(said, file=sys.stderr, flush=True)
        except (OSError, RuntimeError):  # `2>&1 | tee` ended by the same Ctrl-C; or a line waits for `| less`, which is full
            forget(sys.stderr)

    # ---- beginning

    def finished(self) -> bool:
        """Whether --resume finds a finished run as long as the flags ask for (if they ask for a length at all); says so."""
        path = self.directory / "run.json"
        if not (self.arguments.resume and path.exists()):
            return False
        if not asks_for_no_more(self.arguments, read_json(path).get("arguments")):
            return False
        if self.place.arguments.exists():  # another recipe is refused here as it is in the middle of a run
            resumed_arguments(self.arguments, self.place.arguments)
        else:  # its checkpoints are gone; the record has names in place of paths
            flags = without_paths(dataclasses.asdict(self.arguments))
            resumed_arguments(dataclasses.replace(self.arguments, **flags), path)
        self.say(f"{self.directory} holds a finished run; nothing is left to do")
        return True

    def begin(self) -> dict[str, Tensor] | None:
        """The tensors of the checkpoint to go on from, or None for a fresh start; resolves every `auto`. Changes no file.

        Raises `UserError` when the directory holds a run and neither --overwrite nor --resume was given, or when a flag
        differs from the run's that must not.
        """
        stored = self.place.arguments
        going_on = self.arguments.resume and stored.exists()
        if going_on:
            self.arguments = resumed_arguments(self.arguments, stored)
        found = newest_checkpoint(self.checkpoints, self.say) if going_on else None
        whole = any((self.directory / name).exists() for name in ("run.json", "model.safetensors"))  # a trained one
        taken = whole if going_on else self.place.occupied(self.arguments.resume)
        if taken and not found and not self.arguments.overwrite:
            if self.workers.rank:
                raise SystemExit(2)  # the first process says why
            on = "It has no checkpoint to --resume" if self.arguments.resume else "To go on with a run: --resume"
            raise UserError(
                f"--output_dir {self.directory} already holds a run, or files that a run would replace. {on}; "
                "to replace what is there: --overwrite; or choose another directory"
            )
        tensors, state = found or (None, None)
        if found:
            self.progress, self.scaler_state = self._progress_of(state), state["scaler"]
        step = self.progress.step
        if self.arguments.resume:
            self.say(f"resuming after step {step}" if found else f"no checkpoint in {self.directory}: starting fresh")
        if found and lengthened(self.arguments, self.progress.planned or read_json(stored)):  # an older one has no plan
            self.progress.lengthened.append(step)
            self.say("longer than planned: from here on the learning rate is that of a run of the new length")
        if self.workers.largest(step) != -self.workers.largest(-step):  # asking, all wait: nobody writes before all have read
            raise UserError("--resume: not every process finds this checkpoint; --output_dir must be on a disk that all share")
        tune_process()
        try:
            self.precision = Precision.choose(self.arguments.device, self.arguments.precision)
        except UserError:
            if not going_on:
                raise
            device = self.arguments.device
            raise UserError(f"--resume: the run is of a machine with --device {device}; go on there, or start anew") from None
        self.arguments = dataclasses.replace(self.arguments, device=self.precision.device, precision=self.precision.kind)
        before, self.progress.computed_by = self.progress.computed_by, [self.workers.size, torch.get_num_threads()]
        if self.precision.device == "cpu" and before not in ([], self.progress.computed_by):
            self.say(
                "computed by {} processes of {} threads so far, and now by {} of {}: sums are rounded in another order, so the "
                "last digits will not be those of an undisturbed run".format(*before, *self.progress.computed_by)
            )
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

        From here on the directory is this run's: a former one is cleared away, or the log cut back to the checkpoint. Whoever
        stopped it before, as one who had not meant --overwrite, finds it as it was.
        """
        if stop := self.workers.largest(self.signal):
            self.say("stopped before the first step: nothing was changed")
            raise SystemExit(128 + stop)
        self.progress.revision = self.progress.revision or revision(self.arguments.model)  # later it may be another one
        best = put_back(tensors, model, optimizer) if tensors else {}
        if self.workers.rank == 0:
            p = self.progress
            p.log_bytes = self.place.clear(self.arguments.model, tensors is None, p.step, p.log_bytes)
            write_json(self.place.arguments, dataclasses.asdict(self.arguments))
        if self.scaler_state:
            scaler.load_state_dict(self.scaler_state)
        return best

    def describe(self, parts: dict, dropped: int, lengths: np.ndarray, identity: str) -> None:
        """Says what is about to be trained on. Raises `UserError` when a resumed run would go on with other texts, or with
        another tokenizer (`identity`: what stands for it), to which the weights' ids mean nothing.
        """
        texts, labels = fingerprints(parts).values()
        pieces, p, args = fingerprint([identity]), self.progress, self.arguments
        if p.step and (p.fingerprint, p.labels_fingerprint) != (texts, labels):
            raise UserError(f"--resume: the texts or labels of --data {args.data} have changed; use another --output_dir")
        if p.step and p.tokenizer_fingerprint != pieces:
            raise UserError(f"--resume: the tokenizer of --model {args.model} has changed; use another --output_dir")
        p.fingerprint, p.labels_fingerprint, p.tokenizer_fingerprint = texts, labels, pieces
        sizes = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        self.say(f"{args.data}: {sizes}; {dropped} dropped that also stand in validation or test")
        if args.split != "official" and not is_imdb(args.data):
            self.say(f"--split {args.split} is a cut of IMDb, and these texts are not: --data imdb")
        if known := known_texts(parts["test"], args.model):
            of = f"{known} of {len(parts['test'])} test texts"
            self.say(f"{of} are ones that {args.model} was trained or chosen on: what is measured on them is too good")
        self.say(f"{lengths.mean():.0f} tokens a sequence on average, once cut, {args.precision} on {args.device}")

    # ---- along the way

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
        self.progress.planned = {name: getattr(self.arguments, name) for name in LENGTH}
        state = {"progress": dataclasses.asdict(self.progress), "scaler": scaler.state_dict()}
        write_checkpoint(self.checkpoints, self.progress.step, gather(model, optimizer, best), state)

    def exit_if_stopped(self, ended: bool = False) -> None:
        """After SIGINT or SIGTERM, once this step is saved: says how to go on, exits with 130 or 143, all workers at once."""
        if ended:  # no step asks any more
            self.stop = self.workers.largest(self.signal)
        if self.stop:
            self.workers.wait()  # until the first has saved: torchrun ends all of them as soon as one has failed
            self.say(f"saved at step {self.progress.step}. To go on, run the same command with --resume")
            raise SystemExit(128 + self.stop)

    # ---- end

    def finish(self, model, tokenizer: Tokenizer, weights: dict, parts: dict, dropped: int, test: dict, memory: int) -> None:
        """Writes the model, curves, card and, last of all, run.json: its presence means a finished run.

        `test`: metrics of the test part; those of validation are the best ones that were logged.
        """
        if self.workers.rank:
            return
        p = self.progress
        self.place.forget_measured()  # what evaluate.py has written in the meantime is of the weights before these
        model.save_pretrained(self.directory, weights)
        tokenizer.save_pretrained(self.directory, model.config.max_position_embeddings)
        try:
            draw_curves([self.directory], self.directory / "curves.svg")
        except Exception as error:  # no picture is worth a run, whatever is wrong with matplotlib or its settings
            self.say(f"no curves.svg: {error}")
        record = {
            "arguments": without_paths(dataclasses.asdict(self.arguments)),
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "tokenizers", "safetensors", "numpy")},
            "machine": machine(self.arguments.device),
            "revision": p.revision,
            "data": {name: len(part) for name, part in parts.items()}
            | {"dropped_duplicates": dropped, "fingerprint": p.fingerprint, "labels_fingerprint": p.labels_fingerprint},
            "steps": p.step,
            "epochs": p.epoch,
            "lengthened_at": p.lengthened,
            "best_step": p.best["step"],
            "metrics": {"validation": p.best["metrics"], "test": test},
            "seconds": round(p.seconds, 1),
            "peak_memory_bytes": memory,
        }
        if "accuracy" in test:  # a classifier's, which evaluate.py measures
            write_known(parts, self.directory, self.arguments.model)
        write_text(self.directory / "README.md", model_card(record, type(model).__name__))
        write_json(self.directory / "run.json", record)
