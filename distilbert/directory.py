"""A run directory: who may write there, what a run replaces there, what is cleared away. Skip it at a first reading."""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from .errors import UserError
from .files import read_json
from .resume import saved_steps

MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MEASURED = ("run.json", "eval-*.json", "eval-*.svg", "calibration*.json")
WRITTEN = (*MODEL, "log.jsonl", "curves.svg", "README.md", "known.hashes", *MEASURED)


class Directory:
    """A run's place. Between `lock` and `unlock` no other process trains there."""

    def __init__(self, path: str):
        if not path:
            raise UserError("--output_dir is empty, expected a directory")
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoint"
        self.arguments, self.log = self.checkpoints / "arguments.json", self.path / "log.jsonl"

    def lock(self) -> None:
        """Makes the directory. Raises `UserError` when it can't be written to, or another process holds the lock."""
        try:
            self.made = [path for path in (self.path, *self.path.parents) if not path.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # of a stranger's directory: a link there may point anywhere
            self.held = os.fdopen(os.open(self.path / ".lock", flags, 0o666), "r+")
        except OSError as error:
            raise UserError(f"--output_dir {self.path}: can't be written to ({error.strerror})") from None
        try:
            fcntl.flock(self.held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when the process dies
        except OSError as error:
            self.held.close()
            busy = isinstance(error, BlockingIOError)
            said = "another process is training there" if busy else f"can't be locked ({error.strerror})"
            raise UserError(f"--output_dir {self.path}: {said}") from None

    def unlock(self) -> None:
        if not self.arguments.exists():  # it never came to a run: leave nothing behind
            (self.path / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: somebody else's
                for path in self.made:
                    path.rmdir()
        self.held.close()

    def occupied(self, resume: bool = False) -> bool:
        """Whether a run would replace something here; `resume`: something else than the log of one that left no more."""
        patterns = [pattern for pattern in WRITTEN if not (resume and pattern == "log.jsonl")]
        return self.arguments.exists() or bool(saved_steps(self.checkpoints)) or any(any(self.path.glob(w)) for w in patterns)

    def forget_measured(self) -> None:
        for pattern in MEASURED:
            for path in self.path.glob(pattern):
                path.unlink()

    def clear(self, model: str, fresh: bool, step: int, log_bytes: int) -> int:
        """Removes what a former run left (`fresh`), or what is later than `step`; returns the log's length in bytes after that.

        A fresh run that starts from the model here (`model` is what --model says) needs it until its end, so it stays, and so
        does its known.hashes, which the new one takes over. Raises `UserError` when log.jsonl is a link.
        """
        if self.log.is_symlink() and not fresh:
            raise UserError(f"{self.log}: is a link, expected a file")
        (self.path / "run.json").unlink(missing_ok=True)  # first: killed at any point from here on, this is no finished run
        halves = [path for name in WRITTEN for path in self.path.glob(f".{name}.[0-9]*.part")]  # of a process that was killed
        halves += [*self.checkpoints.glob(".step-*.part"), *self.checkpoints.glob(".arguments.json.[0-9]*.part")]
        for path in halves:
            remove(path)
        for saved in saved_steps(self.checkpoints):
            if fresh or saved > step:  # of a former run, or damaged
                remove(self.checkpoints / f"step-{saved}")
        own = os.path.isdir(model) and os.path.samefile(model, self.path)
        kept = (*MODEL, "known.hashes") if own else ()
        stale = [pattern for pattern in WRITTEN if pattern not in kept] if fresh else MEASURED
        for pattern in stale:  # these and no others: the directory may hold files that are not ours
            for path in self.path.glob(pattern):
                path.unlink()
        if fresh:
            return 0
        content = self.log.read_bytes()[:log_bytes] if self.log.exists() else b""
        whole = content.rfind(b"\n") + 1  # after a power cut it may end within a line
        with open(self.log, "ab") as log:
            log.truncate(whole)
        return whole


def remove(path: Path) -> None:
    """A file, a folder, or a link to either, which is not followed."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def trained_with(directory: Path) -> tuple[dict, Path]:
    """The flags of the run in a directory, and the file that says so; of one without checkpoints its record, where paths are
    names. ({}, …) where there is no run. Raises `UserError` for a file that holds no flags.
    """
    path, record = directory / "checkpoint" / "arguments.json", directory / "run.json"
    if path.exists():
        return read_json(path), path
    own = read_json(record).get("arguments", {}) if record.exists() else {}
    if not isinstance(own, dict):
        raise UserError(f"{record}: arguments is {own!r}, expected an object")
    return own, record


def without_paths(arguments: dict) -> dict:
    """Flags as a record may publish them: of a directory or file its name alone; a hub id whole."""
    hub = arguments["model"].count("/") == 1 and arguments["model"][0] not in "/.~" and not os.path.exists(arguments["model"])
    names = ("data", "output_dir") if hub else ("model", "data", "output_dir")
    return {name: Path(value).name if name in names and "/" in value else value for name, value in arguments.items()}
