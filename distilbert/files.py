"""Writing so that a crash leaves the previous file whole, and reading so that a broken file is said to be one."""

import contextlib
import glob
import hashlib
import http.client
import json
import os
import re
import secrets
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import FULL, UserError


def cache_directory() -> Path:
    """Where tokens, weights and data sets are kept: $DISTILBERT_CACHE, or ~/.cache/distilbert."""
    try:
        return Path(os.environ.get("DISTILBERT_CACHE") or Path.home() / ".cache" / "distilbert")
    except RuntimeError:
        raise UserError("there is no home directory; say by DISTILBERT_CACHE=/some/directory where downloads go") from None


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write` fills a temporary neighbour, which is flushed to disk and then renamed to `path` in one step.

    What is no file (a pipe, a terminal) is written to as it is: a rename would put a file in its place. Of a link to a
    file it does: in a stranger's directory it may lead anywhere.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        return write(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # by a process that was killed: a living one writes all the time
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > 3_600:
                left.unlink()
    name = f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part"  # on a shared disk another machine may have this number
    temporary = path.with_name(name)
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """JSON, indented; NaN as null, because JSON has no NaN."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: object) -> object:
    """The value with None for NaN and the infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value  # inf - inf and NaN are not 0


def read_json(path: Path) -> dict:
    """An object from a JSON file. Raises `UserError` when it is missing, broken, or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def remembered(kind: str, source: Path, make: Callable[[], object]) -> object:
    """What `make` reads out of a large file, as JSON in the cache: the file's place, size and time stand for its content."""
    status = source.stat()
    name = fingerprint([str(source.resolve()), str(status.st_size), str(status.st_mtime_ns)])
    path = cache_directory() / kind / f"{name}.json"
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):  # not there, or not whole
        value = make()
        write_text(path, json.dumps(value, ensure_ascii=False))
        return value


def bare_name(data: str) -> str:
    """What a --data is called in the files of a run: aclImdb_v1 for /data/aclImdb_v1.tar.gz."""
    return re.sub(r"\.(tar\.gz|tgz|tar|zip|jsonl|csv|tsv)$", "", Path(os.path.abspath(data)).name)


def checksum(path: Path, kind: str = "sha256") -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold it. Half a surrogate pair it can't: JSON may name one, an odd byte of a command line is one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def fingerprint(texts: Iterable[str]) -> str:
    """A SHA-256 of the texts, in hexadecimal; where one ends and the next begins counts too."""
    digest = hashlib.sha256()
    for text in texts:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


SECONDS, SLOWEST = 20, 10_000  # without an answer, or with less than so many bytes a second: then a server has stalled


def download(url: str, path: Path, **expected: str) -> Path:
    """Fetches `url` to `path` unless it is there; `expected` is one checksum, sha256=… or md5=….

    Raises `UserError` when the server refuses, stalls for 20 seconds, or gives a file with another checksum. A download that
    was interrupted begins anew.
    """
    ((kind, digest),) = expected.items()

    def fetch(temporary: Path) -> None:
        from tqdm import tqdm  # here: what is missing is said by the command line, which reads this file first

        started, received = time.monotonic(), 0
        with urllib.request.urlopen(url, timeout=SECONDS) as answer, open(temporary, "wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name, disable=None) as bar:
                while piece := answer.read1(1 << 20):
                    file.write(piece)
                    bar.update(len(piece))
                    received += len(piece)
                    if time.monotonic() - started > SECONDS + received / SLOWEST:
                        raise TimeoutError(f"fewer than {SLOWEST:,} bytes a second")
        if (found := checksum(temporary, kind)) != digest:
            raise UserError(f"{url}: {kind} is {found[:12]}…, expected {digest[:12]}…: a broken download; run again")

    if not path.exists():
        try:
            write_atomically(path, fetch)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in FULL or isinstance(error, PermissionError):  # the disk's fault, not the net's
                raise
            raise UserError(f"{url}: not downloaded ({error}). Fetch it by other means and give its path as --data") from None
    return path
