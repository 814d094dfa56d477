"""`--data` to texts and labels, cut into parts. Nothing here knows tokens or models."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from distilbert.errors import UserError
from distilbert.files import cache_directory, download, remembered

from .formats import IMDB, SST2, UNLABELLED, bare, check_order, imdb_reviews, sst2_rows, table_rows, text_rows, with_line_breaks

IMDB_SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
SST2_MD5 = "9f81648d4199384278b86e315dac217c"
SAMPLE = Path(__file__).parent / "sample"
CUT = "a table without a column split is cut 80/10/10, and of IMDb's train a tenth is validation: give it 20 texts of each "
CUT += "class, and no small --train_size or --eval_size"


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
    """Reads what `--data` names and cuts it into parts. `whole_tables`: a table without a split column is all test.

    Raises `UserError` for an unknown name or format, and for texts that are empty, undecodable or wrongly labelled.
    """
    path = Path(data)
    if data == "sample":
        parts = table_parts(SAMPLE / "labelled.jsonl") | {"unlabelled": Part.of(table_rows(SAMPLE / "unlabelled.jsonl"))}
    elif data == "imdb":
        parts = cut_imdb(read_imdb(download(IMDB, cache_directory() / "aclImdb_v1.tar.gz", sha256=IMDB_SHA256)), split)
    elif data == "sst2":
        parts = {"test": Part.of(sst2_rows(download(SST2, cache_directory() / "SST-2.zip", md5=SST2_MD5)))}
    elif not os.path.exists(data):  # which, unlike Path's, says no to a name that no file system can hold
        raise UserError(f"--data {data}: no such file, and not one of sample, imdb, sst2")
    elif is_imdb(data):
        parts = cut_imdb(read_imdb(path), split)
    elif path.suffix == ".zip":
        parts = {"test": Part.of(sst2_rows(path))}
    elif path.suffix in (".jsonl", ".csv", ".tsv"):
        parts = table_parts(path, whole_tables)
    elif path.suffix == ".txt":
        parts = {"unlabelled": Part.of(text_rows(path))}
    else:
        raise UserError(f"--data {data}: unknown format; expected .tar.gz, a folder aclImdb/, .zip, .jsonl, .csv, .tsv or .txt")
    for name, part in parts.items():
        if not part.texts:
            cut = name in ("train", "validation") and not is_imdb(data)
            raise UserError(f"--data {data}: the {name} part is empty" + f"; {CUT}" * cut)
        part.texts = [with_line_breaks(text, keep_breaks) for text in part.texts]
        for text, where in zip(part.texts, part.names, strict=True):
            if not text.strip():
                raise UserError(f"--data {data}: {where} holds an empty text")
    return parts


def is_imdb(data: str) -> bool:
    """Whether --data names IMDb, which --split cuts: by name, or as a tarball or a folder."""
    return data == "imdb" or data.endswith((".tar.gz", ".tgz", ".tar")) or Path(data).is_dir() or Path(data).name == "aclImdb"


# ---- IMDb: 25,000 labelled reviews to train on, 25,000 to test on, 50,000 unlabelled (Maas et al. 2011)


def read_imdb(path: Path) -> Parts:
    """From the tarball, in its order, never unpacked (its texts are cached); or from a folder, in the order of names.

    Raises `UserError` when IMDb's folders are not in it.
    """
    found: dict[str, list] = {"train/neg": [], "train/pos": [], "test/neg": [], "test/pos": [], "train/unsup": []}
    reviews = imdb_reviews(path) if path.is_dir() else remembered("texts", path, lambda: list(imdb_reviews(path)))
    for folder, *row in reviews:
        if folder in found:
            found[folder].append(row)
    if missing := [name for name, rows in found.items() if not rows and name != "train/unsup"]:
        raise UserError(f"{path}: holds no aclImdb/{missing[0]}/*.txt, expected IMDb's layout")
    parts = {part: Part.of(found[f"{part}/neg"] + found[f"{part}/pos"]) for part in ("train", "test")}
    return parts | ({"unlabelled": Part.of(found["train/unsup"])} if found["train/unsup"] else {})


def cut_imdb(parts: Parts, split: str) -> Parts:
    """Adds a validation part: a stratified tenth of train, whatever the archive's order ("official"), or as published."""
    if split == "official":
        parts = {name: part.take(np.argsort(part.names, kind="stable")) for name, part in parts.items()}
    else:
        check_order(parts["train"].names[0], split)
    train, test = parts["train"], parts["test"]
    if split == "seed-a":  # both held-out parts from the official test, by torch's random_split with seed 23
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(23)).numpy()
        return parts | {"validation": test.take(order[: len(test) // 5]), "test": test.take(order[len(test) // 5 :])}
    if split == "seed-b":  # as the library datasets cuts with seed 42
        validation, rest = np.split(np.random.default_rng(42).permutation(len(train)), [len(train) // 10])
    else:
        validation, rest = stratified(train.labels, len(train) // 10, seed=0)
    return parts | {"validation": train.take(validation), "train": train.take(rest)}


# ---- tables: text, and perhaps label and split


def table_parts(path: Path, whole: bool = False) -> Parts:
    """The parts that the column `split` names; without one all is test (`whole`), or cut into a stratified 80/10/10."""
    rows = list(table_rows(path))
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


# ---- what happens to the parts before training


def prepare(parts: Parts, keep_duplicates=False, train_size=None, eval_size=None, seed=0, data="") -> tuple[Parts, int]:
    """Drops what leaks, then takes subsets -> (parts, number of texts dropped).

    A text of train that is also in validation or test would be measured as if it were new. Raises `UserError` if none is left.
    train_size; eval_size, of validation and of test each: so many texts, classes in proportion (None: all). data: its name.
    """
    held_out = {bare(text) for name in ("validation", "test") if name in parts for text in parts[name].texts}
    kept, dropped = dict(parts), 0
    if "train" in parts and not keep_duplicates:
        kept["train"] = parts["train"].take(i for i, text in enumerate(parts["train"].texts) if bare(text) not in held_out)
        dropped = len(parts["train"]) - len(kept["train"])
        if not len(kept["train"]):
            raise UserError(f"--data {data}: every text to train on stands in validation or test; --keep_duplicates keeps it")
    for name, size in (("train", train_size), ("validation", eval_size), ("test", eval_size)):
        if name in kept and size is not None:
            kept[name] = kept[name].take(stratified(kept[name].labels, size, seed)[0])
    return kept, dropped


def check_classes(parts: Parts, names: tuple[str, ...], data: str) -> Parts:
    """The parts of these names. Raises `UserError` when one is missing, or has an unlabelled text or too few of a class."""
    for name in names:
        if name not in parts:
            it_has = f"only {', '.join(parts)}; a table names its parts in a column split"
            fits = "train_mlm.py takes texts without labels" if "unlabelled" in parts else "try evaluate.py"
            raise UserError(f"--data {data}: has no {name} part; {fits if name == 'train' and len(names) > 1 else it_has}")
        labels = parts[name].labels
        if (labels == UNLABELLED).any():
            where = parts[name].names[int((labels == UNLABELLED).argmax())]
            raise UserError(f"--data {data}: {where} ({name}) has no label; expected 0/1 or neg/pos")
        for label in (0, 1):
            if (n := int((labels == label).sum())) < 2:
                hint = f"; {CUT}" * ("train" in parts)  # a table that is measured whole has no other part
                raise UserError(f"--data {data}: {name} has {n} texts of class {label}, expected at least two of each{hint}")
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
