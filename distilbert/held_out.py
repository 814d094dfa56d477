"""Texts that a run was trained or chosen on must not pass for held-out ones when it is measured."""

import hashlib
import os
from pathlib import Path

from data.formats import bare, with_line_breaks
from data.sources import Part, Parts, is_imdb

from .errors import UserError
from .files import checksum, fingerprint, read_json, write_atomically

PARTS = ("train", "validation", "test")


def same_data(given: str, trained_on: str) -> bool:
    """Whether --data is what a run was trained on, or a copy of it.

    Where one of the paths is not there, as that of a run made on another machine, the names decide.
    """
    if os.path.exists(given) and os.path.exists(trained_on):
        if os.path.samefile(given, trained_on):
            return True
        alike = os.path.isfile(given) and os.path.isfile(trained_on) and os.path.getsize(given) == os.path.getsize(trained_on)
        return alike and checksum(Path(given)) == checksum(Path(trained_on))
    return Path(given).name == Path(trained_on).name


def changed(parts: Parts, directory: Path) -> bool:
    """Whether the run's record says that its texts, or their parts and labels, were others."""
    record = directory / "run.json"
    known = read_json(record).get("data") if record.exists() else None
    return isinstance(known, dict) and any(known.get(name, now) != now for name, now in fingerprints(parts).items())


def check_unchanged(parts: Parts, directory: Path, data: str) -> None:
    """Raises `UserError` when a run's data have changed since.

    A table without a column split is cut by the number of its rows: with a few more, most of what is test now was trained on.
    """
    if changed(parts, directory):
        told = " (without a column split all its rows are test, but for those that the run knows)"
        told = told if (directory / "known.hashes").exists() else ", with no text in it that the run may have learnt from"
        raise UserError(
            f"--data {data}: its texts, or their parts or labels, are not those that {directory} was made with, so some it "
            f"learnt from may pass for test; measure new texts as a table of another name{told}"
        )


def fingerprints(parts: Parts) -> dict[str, str]:
    """Of the texts, and of which part and label each has: by these a run recognises its data."""
    chosen = [(name, parts[name]) for name in PARTS if name in parts]
    return {
        "fingerprint": fingerprint(text for _, part in chosen for text in part.texts),
        "labels_fingerprint": fingerprint(f"{name} {label}" for name, part in chosen for label in part.labels),
    }


def write_known(parts: Parts, directory: Path, start: str = "") -> None:
    """known.hashes: eight bytes for each text that the run was trained or chosen on, or the run that it started from (`start`,
    what --model says, where it is a directory; it may be this one).

    Whoever has a text, or guesses it, can tell whether it is among them: not to be published where texts are private.
    """
    known = {hashed for name in PARTS[:2] for hashed in _hashes(parts[name].texts)}
    if start and os.path.isfile(before := os.path.join(start, "known.hashes")):
        known |= _read_known(Path(before))
    write_atomically(directory / "known.hashes", lambda temporary: temporary.write_bytes(b"".join(sorted(known))))


def leave_out_known(part: Part, directory: Path, data: str) -> Part:
    """A part of other data without the texts that the run was trained or chosen on (known.hashes tells them); says how many.

    Raises `UserError` for a broken list, and when no text is left.
    """
    path = directory / "known.hashes"
    if not path.exists():
        if (directory / "run.json").exists():  # an older run of ours
            print(f"{directory} has no known.hashes: whether it learnt from some of these texts is not looked at")
        return part
    known = _read_known(path)
    kept = part.take(i for i, hashed in enumerate(_hashes(part.texts)) if hashed not in known)
    if not len(kept):
        raise UserError(f"--data {data}: {directory} was trained or chosen on every text of it that was to be measured")
    if dropped := len(part) - len(kept):
        print(f"{data}: {dropped} of {len(part)} texts left out: {directory} was trained or chosen on them")
    return kept


def known_texts(part: Part, start: str) -> int:
    """How many texts of a part the run that --model names was trained or chosen on, where it is one that tells."""
    path = Path(start, "known.hashes")
    known = _read_known(path) if path.is_file() else set()
    return sum(hashed in known for hashed in _hashes(part.texts)) if known else 0


def _read_known(path: Path) -> set[bytes]:
    content = path.read_bytes()
    if len(content) % 8:
        raise UserError(f"{path}: is broken: it has {len(content)} bytes, expected 8 a text; remove it, to go on without it")
    return {content[start : start + 8] for start in range(0, len(content), 8)}


def _hashes(texts: list[str]) -> list[bytes]:
    """Equal for what the tokenizer takes for one text: kinds of blanks and line breaks, and IMDb's "<br />", do not count."""
    plain = (" ".join(with_line_breaks(text, False).split()) for text in texts)
    return [hashlib.sha256(bare(text).encode()).digest()[:8] for text in plain]


def split_of(args, own: dict, data: str) -> str:
    """--split of evaluate.py's `args`, or else the run's (`own`: what it was trained with). Raises `UserError` where that would
    hold out texts that the run has learnt from: another split may, and so may the same one of another archive.
    """
    own_split = own.get("split", "official")
    split = args.split or own_split
    # seed-a takes validation from the official test, the others from train: so each may hold what another was learnt from
    fitted = args.part == "validation" or args.calibrate
    seen = (fitted and split != "seed-a") or (args.part == "test" and own_split == "seed-a")
    own_data = own.get("data", "sample")
    if not (is_imdb(data) and is_imdb(own_data) and seen):
        return split
    if split != own_split:
        raise UserError(
            f"--split {split}: {args.model} was made with --split {own_split}, so some of these reviews are ones that it was "
            "trained or chosen on; leave --split out"
        )
    if split != "official" and not same_data(data, own_data):  # a published split counts reviews in its archive's order
        raise UserError(
            f"--data {data}: {args.model} was made with --split {split} of {own_data}; in the order of another archive, that "
            "split holds out reviews that it was trained or chosen on. Leave --data out"
        )
    return split
