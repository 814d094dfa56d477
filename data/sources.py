"""`--data` to texts and labels, cut into parts. Nothing here knows tokens or models."""

import csv
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

IMDB_URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
IMDB_SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
SST2_URL = "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"
SST2_MD5 = "9f81648d4199384278b86e315dac217c"
LONGEST = 1 << 20  # bytes of one text; IMDb's longest has 14 thousand
LABELS = {"0": 0, "neg": 0, "negative": 0, "1": 1, "pos": 1, "positive": 1}
SAMPLE = Path(__file__).parent / "sample"


@dataclass
class Part:
    """Texts of one part, their labels (0, 1; -1 = none) and what each is called in its source."""

    texts: list[str]
    labels: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> "Part":
        chosen = list(map(int, indices))
        return Part([self.texts[i] for i in chosen], self.labels[chosen], [self.names[i] for i in chosen])


Parts = dict[str, Part]  # "train", "validation", "test", "unlabelled": those that a source has


def load(data: str, split: str = "official", keep_breaks: bool = False) -> Parts:
    """Reads what `--data` names and cuts it into parts.

    Raises `UserError` for an unknown name or format, and for texts that are empty, undecodable or wrongly labelled.
    """
    path = Path(data)
    if data == "sample":
        parts = table_parts(SAMPLE / "labelled.jsonl") | {"unlabelled": _part(_table_rows(SAMPLE / "unlabelled.jsonl"))}
    elif data == "imdb":
        parts = cut_imdb(read_imdb_tar(download(IMDB_URL, cache_directory() / "aclImdb_v1.tar.gz", sha256=IMDB_SHA256)), split)
    elif data == "sst2":
        parts = read_sst2_zip(download(SST2_URL, cache_directory() / "SST-2.zip", md5=SST2_MD5))
    elif not path.exists():
        raise UserError(f"--data {data}: no such file, and not one of sample, imdb, sst2")
    elif path.is_dir():
        parts = cut_imdb(read_imdb_folder(path), split)
    elif path.name.endswith((".tar.gz", ".tgz", ".tar")):
        parts = cut_imdb(read_imdb_tar(path), split)
    elif path.suffix == ".zip":
        parts = read_sst2_zip(path)
    elif path.suffix in (".jsonl", ".csv", ".tsv"):
        parts = table_parts(path)
    elif path.suffix == ".txt":
        lines = _decode(path.read_bytes(), str(path)).splitlines()
        parts = {"unlabelled": _part((line, -1, "", f"line {i}") for i, line in enumerate(lines, 1) if line.strip())}
    else:
        raise UserError(f"--data {data}: unknown format; expected .tar.gz, a folder aclImdb/, .jsonl, .csv, .tsv or .txt")
    for name, part in parts.items():
        if not part.texts:
            raise UserError(f"--data {data}: the {name} part is empty")
        for text, where in zip(part.texts, part.names, strict=True):
            if not text.strip():
                raise UserError(f"--data {data}: {where} holds an empty text")
    if not keep_breaks:
        for part in parts.values():
            part.texts = [text.replace("<br />", "\n") for text in part.texts]
    return parts


# ---- IMDb: 25,000 labelled reviews for training, 25,000 for test, 50,000 unlabelled (Maas et al. 2011)

MEMBER = re.compile(r"(?:\./)?aclImdb/(train|test)/(neg|pos|unsup)/(\d+_\d+)\.txt")


def read_imdb_tar(path: Path) -> Parts:
    """Member by member, in the archive's order, without unpacking anything to disk. Other members are passed over.

    Raises `UserError` for a broken archive and for one that is not harmless: absolute paths, `..`, links, devices.
    """
    found: dict[str, list] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.startswith(("/", "\\")) or ".." in Path(member.name).parts:
                    raise UserError(f"{path}: member {member.name!r} points outside the archive; this is not IMDb's")
                if not member.isfile() and not member.isdir():
                    raise UserError(f"{path}: member {member.name!r} is a link or a device; this is not IMDb's")
                if member.size > LONGEST:
                    raise UserError(f"{path}: member {member.name!r} claims {member.size:,} bytes; this is not IMDb's")
                if member.isfile() and (match := MEMBER.fullmatch(member.name)):
                    _add_review(found, match, archive.extractfile(member).read(LONGEST), member.name)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: a broken archive ({error}); remove it and download it again: {IMDB_URL}") from None
    return _imdb_parts(found, path)


def read_imdb_folder(path: Path) -> Parts:
    """An unpacked aclImdb/ (or the folder that holds it), in the order of names."""
    root = path / "aclImdb" if (path / "aclImdb").is_dir() else path
    found: dict[str, list] = {}
    for file in sorted(root.glob("*/*/*.txt")):
        name = "aclImdb/" + file.relative_to(root).as_posix()
        if match := MEMBER.fullmatch(name):
            _add_review(found, match, file.read_bytes(), name)
    return _imdb_parts(found, path)


def _add_review(found: dict, match: re.Match, raw: bytes, name: str) -> None:
    folder, kind, _ = match.groups()
    label = {"neg": 0, "pos": 1, "unsup": -1}[kind]
    found.setdefault(f"{folder}/{kind}", []).append((_decode(raw, name), label, "", name.removeprefix("aclImdb/")))


def _imdb_parts(found: dict, path: Path) -> Parts:
    for needed in ("train/neg", "train/pos", "test/neg", "test/pos"):
        if needed not in found:
            raise UserError(f"{path}: holds no aclImdb/{needed}/*.txt, expected IMDb's layout")
    parts = {"train": _part(found["train/neg"] + found["train/pos"]), "test": _part(found["test/neg"] + found["test/pos"])}
    if "train/unsup" in found:
        parts["unlabelled"] = _part(found["train/unsup"])
    return parts


def cut_imdb(parts: Parts, split: str) -> Parts:
    """A validation part. official: a stratified tenth of train. seed-a, seed-b: the two published systems' own cuts."""
    train, test = parts["train"], parts["test"]
    if split == "seed-a":  # both held-out parts from the official test, by torch's random_split with seed 23
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(23)).numpy()
        fifth = len(test) // 5
        return parts | {"validation": test.take(order[:fifth]), "test": test.take(order[fifth:])}
    if split == "seed-b":
        order = np.random.default_rng(42).permutation(len(train))
        held = order[: len(train) // 10], order[len(train) // 10 :]
    else:
        held = stratified(train.labels, max(len(train) // 10, 2), seed=0)
    return parts | {"validation": train.take(held[0]), "train": train.take(held[1])}


# ---- tables: .jsonl, .csv, .tsv with text and label, and perhaps split


def table_parts(path: Path) -> Parts:
    """The parts that the `split` column names, or a stratified 80/10/10."""
    rows = list(_table_rows(path))
    names = {split for _, _, split, _ in rows}
    if names == {""}:
        whole = _part(rows)
        test, rest = stratified(whole.labels, max(len(whole) // 10, 2), seed=0)
        validation, train = stratified(whole.labels[rest], max(len(whole) // 10, 2), seed=1)
        return {"train": whole.take(rest[train]), "validation": whole.take(rest[validation]), "test": whole.take(test)}
    if unknown := names - {"train", "validation", "test"}:
        raise UserError(f"{path}: split is {min(unknown)!r}, expected train, validation or test on every line")
    return {name: _part(row for row in rows if row[2] == name) for name in ("train", "validation", "test") if name in names}


def _table_rows(path: Path, content: str | None = None) -> Iterator[tuple[str, int, str, str]]:
    """(text, label, split, name) of each line; label -1 and split "" where the table has no such column."""
    content = _decode(path.read_bytes(), str(path)) if content is None else content
    lines = _json_lines(content, path) if path.suffix == ".jsonl" else _csv_lines(content, path)
    for number, record in lines:
        text, label = record.get("text", record.get("sentence")), record.get("label")  # GLUE's files say sentence
        if not isinstance(text, str):
            raise UserError(f"{path}: line {number} has no text; expected a column 'text' (and 'label': 0/1 or neg/pos)")
        key = "" if label is None else str(label).strip().lower()
        if label is not None and key not in LABELS:
            raise UserError(f"{path}: line {number} has the label {key[:30]!r}, expected 0, 1, neg or pos")
        yield text, LABELS.get(key, -1), str(record.get("split") or ""), f"line {number}"


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
    tabs = path.suffix != ".csv"  # GLUE's tab-separated files quote nothing
    quoting = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter="\t" if tabs else ",", quoting=quoting)
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not readable ({error})") from None


def read_sst2_zip(path: Path) -> Parts:
    """The 872 labelled sentences of SST-2's dev set (Socher et al. 2013; GLUE) as the test part."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("SST-2/dev.tsv") as file:
            content = _decode(file.read(LONGEST), "SST-2/dev.tsv")
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise UserError(f"{path}: no readable SST-2/dev.tsv in it ({error}); expected {SST2_URL}") from None
    return {"test": _part(_table_rows(path, content))}


# ---- what happens to the parts before training


def prepare(
    parts: Parts,
    keep_duplicates: bool = False,
    train_size: int | None = None,
    eval_size: int | None = None,
    seed: int = 0,
) -> tuple[Parts, int]:
    """Drops what leaks, then takes subsets -> (parts, number of texts dropped).

    A text of train or unlabelled that also stands in validation or test would let the model learn its answer.
    """
    held_out = {text for name in ("validation", "test") if name in parts for text in parts[name].texts}
    kept, dropped = dict(parts), 0
    for name in ("train", "unlabelled"):
        if name in parts and not keep_duplicates:
            indices = [i for i, text in enumerate(parts[name].texts) if text not in held_out]
            dropped += len(parts[name]) - len(indices)
            kept[name] = parts[name].take(indices)
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
        if (labels < 0).any():
            where = parts[name].names[int((labels < 0).argmax())]
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


def _part(rows: Iterable[tuple[str, int, str, str]]) -> Part:
    rows = list(rows)
    return Part([row[0] for row in rows], np.array([row[1] for row in rows], dtype=np.int64), [row[3] for row in rows])


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} is not UTF-8; convert it with: iconv -f latin1 -t utf-8") from None
