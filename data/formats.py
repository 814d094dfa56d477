"""Files of other people's making to rows (text, label, name, …). What is broken or not harmless is refused by name."""

import csv
import gzip
import io
import json
import re
import shlex
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from distilbert.errors import UserError
from distilbert.files import encodable

IMDB = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
SST2 = "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"
REVIEW = re.compile(r"(?:\./)?(?:aclImdb/)?((?:train|test)/(neg|pos|unsup))/\d+_\d+\.txt")
LABELS = {"0": 0, "neg": 0, "negative": 0, "1": 1, "pos": 1, "positive": 1}
UNLABELLED = -1
LONGEST = 1 << 20  # bytes of one text; IMDb's longest has 14 thousand
LARGEST = 1 << 30  # bytes of an archive unpacked; IMDb has a quarter of that
Row = tuple[str, int, str, str]  # text, label, what it is called in its source, the part it is said to be of


def imdb_reviews(path: Path) -> Iterator[tuple[str, str, int, str]]:
    """(folder such as "train/neg", text, label, name) of each review of a tarball or an unpacked folder."""
    seen = {}
    for name, raw in _members(path):
        if match := REVIEW.fullmatch(name):
            review = match[1], name.rpartition("/")[2]
            if review in seen:  # unpacked inside itself, or appended to
                raise UserError(f"{path}: holds {seen[review]} and {name}, the same review; remove one copy of the reviews")
            seen[review] = name
            yield match[1], _decode(raw, name), LABELS.get(match[2], UNLABELLED), name


def check_order(first: str, split: str) -> None:
    """The published splits count reviews in the order of the published archive, which begins with 127_4.txt."""
    if not first.endswith("/127_4.txt"):
        print(f"--split {split}: this archive begins with {first}, not as the published one does (--data imdb): "
              "its parts are as large as the published ones, but hold other reviews", file=sys.stderr)  # fmt: skip


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each text file. Refuses an archive that is broken, or whose members are not harmless."""
    if path.is_dir():
        folders = ("train", "test", "aclImdb/train", "aclImdb/test")  # of any other folder nothing but these is looked at
        for file in sorted(file for folder in folders for file in path.glob(f"{folder}/*/*.txt")):
            name = file.relative_to(path).as_posix()
            if REVIEW.fullmatch(name) and file.is_file():
                _check_size(path, name, file.stat().st_size)
                yield name, file.read_bytes()
        return
    try:
        with (
            open(path, "rb") as raw,
            gzip.open(raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw as unpacked,
            tarfile.open(fileobj=_Bounded(unpacked), mode="r:", tarinfo=_Plain) as archive,
        ):
            file = archive.fileobj
            while member := archive.next():
                archive.members = []  # it would keep them all
                if member.name.startswith(("/", "\\")) or ".." in Path(member.name).parts:
                    raise UserError(f"{path}: member {member.name!r} points outside the archive; this is not IMDb's")
                if not (member.isfile() or member.isdir()):
                    raise UserError(f"{path}: member {member.name!r} is a link or a device; this is not IMDb's")
                if member.isfile() and REVIEW.fullmatch(member.name):
                    _check_size(path, member.name, member.size)
                    yield member.name, archive.extractfile(member).read(LONGEST)
            file.seek(archive.offset)  # tarfile takes a damaged header for the end, and does not read up to gzip's checksum
            if file.read(512) != bytes(512):
                raise tarfile.ReadError("it breaks off, or a header is damaged")
            while file.read(LONGEST):
                pass
    except (PermissionError, UserError):
        raise  # the first says nothing of the archive
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, IndexError, RecursionError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: a broken archive ({what}); remove it and download it again from {IMDB}") from None


def _check_size(path: Path, name: str, size: int) -> None:
    if size > LONGEST:
        raise UserError(f"{path}: review {name!r} claims {size:,} bytes; this is not IMDb's")


class _Bounded:
    """The bytes of an archive, unpacked. One that wants more than LONGEST at once, or more than LARGEST in all, is broken."""

    def __init__(self, file: BinaryIO):
        self.file, self.tell = file, file.tell

    def read(self, size: int) -> bytes:
        if size > LONGEST:  # tarfile reads a member's long name in one piece, whatever length it claims
            raise tarfile.ReadError(f"it claims a name of {size:,} bytes")
        self.seek(self.tell())
        return self.file.read(size)

    def seek(self, place: int) -> None:
        if place > LARGEST:
            raise tarfile.ReadError(f"it unpacks to more than {LARGEST:,} bytes")
        if place < self.tell() - tarfile.BLOCKSIZE:  # a member of less than no bytes, after which it comes again
            raise tarfile.ReadError("its members go in a circle")
        if place != self.tell():
            self.file.seek(place)


class _Plain(tarfile.TarInfo):
    """A member that is not sparse: the map of one that is may be longer than all texts. tarfile has no public way to say so."""

    def _refuse(self, *_):
        raise tarfile.ReadError("it has a sparse member")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


def table_rows(path: Path, content: str | None = None) -> Iterator[Row]:
    """(text, label, name, split) of each line; label -1 and split "" where the table has no such column."""
    content = _decode(path.read_bytes(), str(path)) if content is None else content
    for number, record in _json_lines(content, path) if path.suffix == ".jsonl" else _csv_lines(content, path):
        text, label = record.get("text", record.get("sentence")), record.get("label")  # GLUE's files say sentence
        if not isinstance(text, str):
            raise UserError(f"{path}: line {number} has no text; expected a column 'text' (and 'label': 0/1 or neg/pos)")
        if path.suffix == ".tsv" and text[:1] == text[-1:] == '"' and '""' in text[1:-1]:
            told = 'doubles its quotes ("") as a .csv does, but in a .tsv quotes are text; save it as .csv or .jsonl'
            raise UserError(f"{path}: line {number} {told}")
        if not encodable(text):
            raise UserError(f"{path}: line {number} holds half a surrogate pair (\\ud800 to \\udfff), which is no character")
        key = "" if label is None else str(label).strip().lower()
        if label is not None and key not in LABELS:
            raise UserError(f"{path}: line {number} has the label {key[:30]!r}, expected 0, 1, neg or pos")
        yield text, LABELS.get(key, UNLABELLED), f"line {number}", str(record.get("split") or "")


def _json_lines(content: str, path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not JSON ({error})") from None
        if not isinstance(record, dict):
            raise UserError(f'{path}: line {number} is not an object; expected {{"text": …, "label": 0 or 1}}')
        named = {key.strip().lower(): value for key, value in record.items()}
        if len(named) < len(record):
            raise UserError(f"{path}: line {number} has two keys that differ in capitals or blanks only")
        yield number, named


def _csv_lines(content: str, path: Path) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(LONGEST)
    tabs = path.suffix != ".csv"
    quoting = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL  # GLUE's tab-separated files quote nothing
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter="\t" if tabs else ",", quoting=quoting, strict=True)
    try:
        names = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        if twice := [name for name in ("text", "sentence", "label", "split") if names.count(name) > 1]:
            raise UserError(f"{path}: has the column {twice[0]!r} twice")
        for record in reader:
            if any(record.get(None, ())):  # DictReader's key for what is beyond the header
                hint = "" if tabs else '; a text with commas in it wants "quotes"'
                raise UserError(f"{path}: line {reader.line_num} has more fields than the header{hint}")
            if None in record.values():
                hint = "; a text of several lines wants a .csv or a .jsonl" * tabs
                raise UserError(f"{path}: line {reader.line_num} has fewer fields than the header{hint}")
            yield reader.line_num, record
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.reader.line_num} is not readable ({error})") from None


def sst2_rows(path: Path) -> Iterator[Row]:
    """The 872 labelled sentences of SST-2's dev set (Socher et al. 2013), from GLUE's zip."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("SST-2/dev.tsv") as file:
            if archive.getinfo("SST-2/dev.tsv").compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("it is packed in a way that GLUE's is not")
            raw = file.read(LONGEST + 1)
            if len(raw) > LONGEST:
                raise zipfile.BadZipFile(f"it has more than {LONGEST:,} bytes")
            content = _decode(raw, "SST-2/dev.tsv")
    except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, EOFError, zlib.error, UnicodeDecodeError) as error:
        # RuntimeError: encrypted; UnicodeDecodeError: of a member's name
        raise UserError(f"{path}: no readable SST-2/dev.tsv in it ({error}); expected {SST2}") from None
    return table_rows(path, content)


def text_rows(path: Path) -> Iterator[tuple[str, int, str]]:
    """Each line of a .txt that is not blank. Only a line feed ends one: splitlines would also cut at U+2028 and others."""
    for number, line in enumerate(_decode(path.read_bytes(), str(path)).split("\n"), 1):
        if line.strip():
            yield line.strip("\r"), UNLABELLED, f"line {number}"


def with_line_breaks(text: str, keep_breaks: bool) -> str:
    """IMDb's reviews have "<br />" where a line ends; unless it is to be kept, a line feed stands there instead."""
    return text if keep_breaks else text.replace("<br />", "\n")


def bare(text: str) -> str:
    """Equal for two texts that a reader takes for one: capitals, and blanks at the ends, do not tell them apart."""
    return text.strip().lower()


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        said, path = f"{where}: byte {error.start} is not UTF-8", Path(where)
        if path.exists():  # a file of its own, and no member of an archive
            source, target = (shlex.quote(str(name)) for name in (path, path.with_stem(f"{path.stem}-utf8")))
            kind, code = ("UTF-16", "utf-16") if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("Latin-1", "latin1")
            said += f". If it is {kind}: iconv -f {code} -t utf-8 {source} > {target}"
        raise UserError(said) from None
