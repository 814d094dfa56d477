"""`--data` to texts and labels, cut into parts. Nothing here knows tokens or models."""

import csv
import gzip
import io
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distilbert.errors import UserError
from distilbert.files import cache_directory, download

IMDB = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
IMDB_SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
SST2 = "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"
SST2_MD5 = "9f81648d4199384278b86e315dac217c"
SAMPLE = Path(__file__).parent / "sample"
LABELS = {"0": 0, "neg": 0, "negative": 0, "1": 1, "pos": 1, "positive": 1}
UNLABELLED = -1
LONGEST = 1 << 20  # bytes of one text; IMDb's longest has 14 thousand


@dataclass
class Part:
    """Texts, their labels (0, 1, or -1 for none) and what each is called in its source."""

    texts: list[str]
    labels: np.ndarray
    names: list[str]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, int, str]]) -> "Part":
        """From (text, label, name, …) of each."""
        rows = list(rows)
        return cls([row[0] for row in rows], np.array([row[1] for row in rows], dtype=np.int64), [row[2] for row in rows])

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> "Part":
        chosen = list(map(int, indices))
        return Part([self.texts[i] for i in chosen], self.labels[chosen], [self.names[i] for i in chosen])


Parts = dict[str, Part]  # "train", "validation", "test", "unlabelled": those that a source has


def load(data: str, split: str = "official", keep_breaks: bool = False, whole_tables: bool = False) -> Parts:
    """Reads what `--data` names and cuts it into parts. `whole_tables`: one without a split column is all test.

    Raises `UserError` for an unknown name or format, and for texts that are empty, undecodable or wrongly labelled.
    """
    path = Path(data)
    if data == "sample":
        parts = table_parts(SAMPLE / "labelled.jsonl") | {"unlabelled": Part.of(_rows(SAMPLE / "unlabelled.jsonl"))}
    elif data == "imdb":
        parts = cut_imdb(read_imdb(download(IMDB, cache_directory() / "aclImdb_v1.tar.gz", sha256=IMDB_SHA256)), split)
    elif data == "sst2":
        parts = read_sst2(download(SST2, cache_directory() / "SST-2.zip", md5=SST2_MD5))
    elif not path.exists():
        raise UserError(f"--data {data}: no such file, and not one of sample, imdb, sst2")
    elif path.is_dir() or path.name.endswith((".tar.gz", ".tgz", ".tar")):
        parts = cut_imdb(read_imdb(path), split)
    elif path.suffix == ".zip":
        parts = read_sst2(path)
    elif path.suffix in (".jsonl", ".csv", ".tsv"):
        parts = table_parts(path, whole_tables)
    elif path.suffix == ".txt":
        lines = enumerate(_decode(path.read_bytes(), str(path)).split("\n"), 1)
        parts = {"unlabelled": Part.of((line.strip("\r"), UNLABELLED, f"line {i}") for i, line in lines if line.strip())}
    else:
        raise UserError(f"--data {data}: unknown format; expected .tar.gz, a folder aclImdb/, .jsonl, .csv, .tsv or .txt")
    for name, part in parts.items():
        if not part.texts:
            raise UserError(f"--data {data}: the {name} part is empty")
        if not keep_breaks:
            part.texts = [text.replace("<br />", "\n") for text in part.texts]
        for text, where in zip(part.texts, part.names, strict=True):
            if not text.strip():
                raise UserError(f"--data {data}: {where} holds an empty text")
    return parts


# ---- IMDb: 25,000 labelled reviews to train on, 25,000 to test on, 50,000 unlabelled (Maas et al. 2011)


REVIEW = re.compile(r"(?:\./)?(?:aclImdb/)?((?:train|test)/(neg|pos|unsup))/\d+_\d+\.txt")


def read_imdb(path: Path) -> Parts:
    """From the tarball, in its order, nothing unpacked to disk; or from an unpacked folder, in the order of names.

    Raises `UserError` when IMDb's folders are not in it.
    """
    found: dict[str, list] = {"train/neg": [], "train/pos": [], "test/neg": [], "test/pos": [], "train/unsup": []}
    for name, raw in _members(path):
        match = REVIEW.fullmatch(name)
        if match and match[1] in found:
            found[match[1]].append((_decode(raw, name), LABELS.get(match[2], UNLABELLED), name))
    if missing := [name for name, rows in found.items() if not rows and name != "train/unsup"]:
        raise UserError(f"{path}: holds no aclImdb/{missing[0]}/*.txt, expected IMDb's layout")
    parts = {part: Part.of(found[f"{part}/neg"] + found[f"{part}/pos"]) for part in ("train", "test")}
    return parts | ({"unlabelled": Part.of(found["train/unsup"])} if found["train/unsup"] else {})


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each text file. Refuses an archive that is broken, or whose members are not harmless."""
    if path.is_dir():
        for file in sorted(path.rglob("*.txt")):
            yield file.relative_to(path).as_posix(), file.read_bytes()
        return
    try:
        with gzip.open(path) if path.name.endswith("gz") else open(path, "rb") as file, tarfile.open(fileobj=file) as archive:
            for member in archive:
                if member.name.startswith(("/", "\\")) or ".." in Path(member.name).parts:
                    raise UserError(f"{path}: member {member.name!r} points outside the archive; this is not IMDb's")
                if not (member.isfile() or member.isdir()):
                    raise UserError(f"{path}: member {member.name!r} is a link or a device; this is not IMDb's")
                if member.isfile() and REVIEW.fullmatch(member.name):
                    if member.size > LONGEST:
                        raise UserError(f"{path}: review {member.name!r} claims {member.size:,} bytes; this is not IMDb's")
                    yield member.name, archive.extractfile(member).read(LONGEST)
            file.seek(archive.offset)  # tarfile takes a damaged header for the end, and does not read up to gzip's checksum
            if file.read(512) != bytes(512):
                raise tarfile.ReadError("it breaks off, or a header is damaged")
            while file.read(LONGEST):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        what = str(error).splitlines()[0]
        raise UserError(f"{path}: a broken archive ({what}); remove it and download it again from {IMDB}") from None


def cut_imdb(parts: Parts, split: str) -> Parts:
    """A validation part. official: a stratified tenth of train. seed-a, seed-b: the two published systems' own cuts."""
    train, test = parts["train"], parts["test"]
    if split == "seed-a":  # both held-out parts from the official test, by torch's random_split with seed 23
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(23)).numpy()
        return parts | {"validation": test.take(order[: len(test) // 5]), "test": test.take(order[len(test) // 5 :])}
    if split == "seed-b":
        validation, rest = np.split(np.random.default_rng(42).permutation(len(train)), [len(train) // 10])
    else:
        validation, rest = stratified(train.labels, len(train) // 10, seed=0)
    return parts | {"validation": train.take(validation), "train": train.take(rest)}


# ---- tables: text, and perhaps label and split


def table_parts(path: Path, whole: bool = False) -> Parts:
    """The parts that the column `split` names; without one all is test (`whole`), or cut into a stratified 80/10/10."""
    rows = list(_rows(path))
    names = {split for *_, split in rows}
    if names <= {""} and whole:
        return {"test": Part.of(rows)}
    if names <= {""}:
        every, tenth = Part.of(rows), len(rows) // 10
        test, rest = (every.take(chosen) for chosen in stratified(every.labels, tenth, seed=0))
        validation, train = (rest.take(chosen) for chosen in stratified(rest.labels, tenth, seed=1))
        return {"train": train, "validation": validation, "test": test}
    if unknown := names - {"train", "validation", "test"}:
        raise UserError(f"{path}: split is {min(unknown)!r}, expected train, validation or test on every line")
    return {name: Part.of(row for row in rows if row[3] == name) for name in ("train", "validation", "test") if name in names}


def _rows(path: Path, content: str | None = None) -> Iterator[tuple[str, int, str, str]]:
    """(text, label, name, split) of each line; label -1 and split "" where the table has no such column."""
    content = _decode(path.read_bytes(), str(path)) if content is None else content
    for number, record in _json_lines(content, path) if path.suffix == ".jsonl" else _csv_lines(content, path):
        text, label = record.get("text", record.get("sentence")), record.get("label")  # GLUE's files say sentence
        if not isinstance(text, str):
            raise UserError(f"{path}: line {number} has no text; expected a column 'text' (and 'label': 0/1 or neg/pos)")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
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
        yield number, record


def _csv_lines(content: str, path: Path) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(LONGEST)
    tabs = path.suffix != ".csv"
    quoting = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL  # GLUE's tab-separated files quote nothing
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter="\t" if tabs else ",", quoting=quoting)
    try:
        yield from ((reader.line_num, record) for record in reader)
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.reader.line_num} is not readable ({error})") from None


def read_sst2(path: Path) -> Parts:
    """The 872 labelled sentences of SST-2's dev set (Socher et al. 2013), from GLUE's zip, as the test part."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("SST-2/dev.tsv") as file:
            content = _decode(file.read(LONGEST), "SST-2/dev.tsv")
    except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, zlib.error) as error:  # RuntimeError: it is encrypted
        raise UserError(f"{path}: no readable SST-2/dev.tsv in it ({error}); expected {SST2}") from None
    return {"test": Part.of(_rows(path, content))}


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} is not UTF-8; convert it with: iconv -f latin1 -t utf-8") from None


# ---- what happens to the parts before training


def prepare(
    parts: Parts, keep_duplicates: bool = False, train_size: int | None = None, eval_size: int | None = None, seed: int = 0
) -> tuple[Parts, int]:
    """Drops what leaks, then takes subsets -> (parts, number of texts dropped).

    A text of train or unlabelled that also stands in validation or test would let the model learn its answer.
    """
    held_out = {text for name in ("validation", "test") if name in parts for text in parts[name].texts}
    kept, dropped = dict(parts), 0
    for name in ("train", "unlabelled"):
        if name in parts and not keep_duplicates:
            kept[name] = parts[name].take(i for i, text in enumerate(parts[name].texts) if text not in held_out)
            dropped += len(parts[name]) - len(kept[name])
    for name, size in (("train", train_size), ("validation", eval_size), ("test", eval_size)):
        if name in kept and size is not None:
            kept[name] = kept[name].take(stratified(kept[name].labels, size, seed)[0])
    return kept, dropped


def check_classes(parts: Parts, names: tuple[str, ...], data: str) -> Parts:
    """The parts of these names. Raises `UserError` when one is missing, or has an unlabelled text or too few of a class."""
    for name in names:
        if name not in parts:
            raise UserError(f"--data {data}: has no {name} part, which this needs")
        labels = parts[name].labels
        if (labels == UNLABELLED).any():
            where = parts[name].names[int((labels == UNLABELLED).argmax())]
            raise UserError(f"--data {data}: {where} ({name}) has no label; expected 0/1 or neg/pos")
        for label in (0, 1):
            if (count := int((labels == label).sum())) < 2:
                raise UserError(f"--data {data}: {name} has {count} texts of class {label}, expected at least two of each")
    return {name: parts[name] for name in names}


def stratified(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`size` random examples with the classes in the whole's proportions, and the rest: two sorted index arrays."""
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):  # how far down its own class each example stands, from 0 to 1
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = order[np.argsort(place[order], kind="stable")]
    return np.sort(chosen[:size]), np.sort(chosen[size:])
