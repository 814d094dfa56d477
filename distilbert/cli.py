"""A frozen dataclass as a command line: a field is a flag, its metadata is the help, its default is the default."""

import argparse
import contextlib
import math
import os
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import field, fields
from importlib.util import find_spec
from pathlib import Path

from .errors import COMPILERS, FULL, UserError
from .files import cache_directory, encodable

NEEDED = ("huggingface_hub", "numpy", "safetensors", "tokenizers", "torch", "tqdm")  # as in requirements.txt


def flag(
    default, help: str, choices: tuple = (), low: float | None = None, high: float | None = None, positional: bool = False
):
    """A dataclass field that is a flag: `low` and `high` are the least and the greatest value accepted.

    A positional one is given without its name: `trace "Not bad"`.
    """
    return field(
        default=default, metadata={"help": help, "choices": choices, "low": low, "high": high, "positional": positional}
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message} (see python {self.prog} --help)")


def parse(arguments_class: type, argv: list[str] | None = None, presets: dict[str, dict] | None = None):
    """The dataclass, filled from `argv` (default: the command line). A preset fills what the command line leaves open.

    Raises `UserError` for an unknown flag, a value of the wrong type, one outside its range or not among its choices, and
    where a package is not installed: a program comes here before it imports one.
    """
    program = sys.modules["__main__"].__spec__  # of `python -m distilbert.look`; a script has none
    parser = _Parser(
        prog=f"-m {program.name}" if program else None,
        description=arguments_class.__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for item in fields(arguments_class):
        shown = f" (default: {item.default})" if item.default not in (None, "") else ""
        options = {"dest": item.name, "default": argparse.SUPPRESS, "help": item.metadata["help"].replace("%", "%%") + shown}
        if item.type is bool:
            options["action"] = "store_true"
        else:
            options["type"] = _converter(item)
            options["metavar"] = "|".join(filter(None, item.metadata["choices"])) or item.name.split("_")[-1].upper()
        if item.metadata["positional"]:
            parser.add_argument(options.pop("dest"), nargs="?", **options)
            continue
        names = dict.fromkeys([f"--{item.name}", f"--{item.name.replace('_', '-')}"])
        parser.add_argument(*names, **options)
        if item.type is bool:  # against a preset that switches it on
            names = [f"--no_{item.name}", f"--no-{item.name.replace('_', '-')}"]
            parser.add_argument(*names, **options | {"action": "store_false", "help": argparse.SUPPRESS})
    given = vars(parser.parse_args(argv))
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"{sys.executable} has no {', '.join(missing)}; in the clone: pip install -r requirements.txt")
    chosen = (presets or {}).get(given.get("preset"), {})
    return arguments_class(**chosen | given)


def _converter(item) -> Callable[[str], object]:
    """From the flag's text to its value; `argparse` puts the flag's name before the message."""
    kind = item.type
    if isinstance(kind, types.UnionType):  # `int | None`: None is what an omitted flag means
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
    low, high, choices = (item.metadata[key] for key in ("low", "high", "choices"))

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {'a whole number' if kind is int else 'a number'}") from None
        if kind is str and not encodable(text):  # a record could not hold it
            raise argparse.ArgumentTypeError("its bytes are not UTF-8")
        if choices and value not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        if kind is float and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise argparse.ArgumentTypeError(f"{text} is out of range, expected {bounds}")
        return value

    return convert


def check_stored(arguments_class: type, stored: dict, source: object) -> dict:
    """`stored`, when the command line would accept each of its flags' values; raises `UserError` for the first it would not."""
    for item in fields(arguments_class):
        value = stored.get(item.name)
        try:
            accepted = isinstance(value, bool) if item.type is bool else _converter(item)(str(value)) == value
        except argparse.ArgumentTypeError:
            accepted = False
        if item.name in stored and value != item.default and not accepted:
            raise UserError(f"{source}: {item.name} is {value!r}, which --{item.name} does not accept")
    return stored


def printable(text: str) -> str:
    """The text with � for each character that a terminal would not print but obey: a stranger's names and texts stand in it."""
    return "".join(c if c.isprintable() else "�" for c in text)


def forget(stream) -> None:
    """Of a pipe whose reader has gone, as `| head` goes: what is still written, and flushed at the end, goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _harmless(text: str) -> str:
    """At most two printable lines and 1,000 characters."""
    return "\n".join(map(printable, text.split("\n")[:2]))[:1_000]


@contextlib.contextmanager
def user_errors():
    """Around a program: what the user can mend becomes two lines at most on stderr and exit status 2, without a traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by 2>&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")  # a terminal that has no → shows something else
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)  # as the shell counts SIGINT
    except BrokenPipeError:
        forget(sys.stdout)
        sys.exit(141)  # as the shell counts SIGPIPE
    except Exception as error:
        if (said := _advice(error)) is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)


def _advice(error: Exception) -> str | None:
    """What to tell the user, or None: then the mistake may be ours, and needs its traceback."""
    message = str(error)
    if isinstance(error, UserError):
        return _harmless(message)
    no_memory = any(said in message for said in ("out of memory", "can't allocate memory"))
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and no_memory):  # torch's are RuntimeErrors
        return _harmless(message.partition("\n")[0] or "no memory left") + (
            "\nIf it was a batch that did not fit: a smaller --eval_batch_size or --max_length, or in training a "
            "smaller --batch_size with more --gradient_accumulation_steps"
        )
    if type(error).__module__.startswith(COMPILERS):
        told = "torch.compile failed, which needs a C++ compiler and Python's headers; leave --compile out"
        return f"{told}, or mend what it said:\n{_harmless(message).partition(chr(10))[0][:300]}"
    from safetensors import SafetensorError  # here, as are the other packages: the command line is read without them

    if not isinstance(error, OSError | SafetensorError):
        return None
    if getattr(error, "errno", None) in FULL or any(f"os error {number}" in message for number in FULL):  # safetensors' way
        return "the disk is full; files written before are whole. Make room and run again, a training with --resume"
    if getattr(error, "filename", None) is None:
        return None
    said = _harmless(f"{error.filename}: {error.strerror}")  # no right to read or to write it, a disk that fails
    with contextlib.suppress(UserError):  # nobody's home
        cache, place = cache_directory(), Path(str(error.filename))
        if cache == place or cache in place.parents or place in cache.parents:
            said += "; the environment variable DISTILBERT_CACHE names another place for the cache"
    return said
