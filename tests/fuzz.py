"""Broken files by the thousand: seeds that are right, a mutator, and the loaders that must survive what comes of it.

Every input is a function of (kind, number). This is what runs in the process that test_fuzz.py starts.
"""

import contextlib
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import evaluate
import train_cls
from data.sources import check_classes, load, prepare
from distilbert.checkpoint import read_checkpoint
from distilbert.cli import user_errors
from distilbert.config import DistilBertConfig
from distilbert.files import fingerprint
from distilbert.foreign import BERT, BERT_CONFIG
from distilbert.model import DistilBertForSequenceClassification
from distilbert.run import Run
from distilbert.tokenizer import SPECIAL_TOKENS, Tokenizer

SECONDS, MEMORY = 10, 512 << 20  # of the processor, and bytes: the most that one input may take
ABSURD = [None, True, False, -1, 0, 1, 7, 0.5, 1e308, 10**12, 2**63, 2**64, -(2**63), float("nan"), float("inf"), "", "x", "0"]
ABSURD += ["../../etc/passwd", "\ud800", "\0", "é" * 300, "9" * 5_000, [], {}, [[]], {"a": 1}, [1, 2], list(range(99))]


# ---- mutations


def mutated(raw: bytes, chance: random.Random, name: str) -> bytes:
    """The content of a file called `name`, broken in one way or a few."""
    ways = [flip, cut, drop, repeat, insert, splice, digits]
    if name.endswith((".json", ".jsonl")):
        ways += [change_json] * 9
    if name.endswith(".safetensors"):
        ways += [change_header] * 9
    if name.endswith("gz") and chance.random() < 0.8:  # else its own checksum would refuse nearly all
        return gzip.compress(mutated(gzip.decompress(raw), chance, name.removesuffix("gz")), mtime=0)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        raw = chance.choice(ways)(raw, chance)
    return raw


def flip(raw: bytes, chance: random.Random) -> bytes:
    out = bytearray(raw)
    for _ in range(min(chance.choice((1, 1, 4, 40)), len(out))):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def piece(raw: bytes, chance: random.Random) -> slice:
    start = chance.randint(0, len(raw))
    return slice(start, start + chance.choice((1, 1, 8, 100, 512, 5_000)))


def cut(raw: bytes, chance: random.Random) -> bytes:
    return raw[: chance.randint(0, len(raw))]


def drop(raw: bytes, chance: random.Random) -> bytes:
    gone = piece(raw, chance)
    return raw[: gone.start] + raw[gone.stop :]


def repeat(raw: bytes, chance: random.Random) -> bytes:
    again = piece(raw, chance)
    return raw[: again.start] + raw[again] * chance.choice((2, 3, 50)) + raw[again.stop :]


def insert(raw: bytes, chance: random.Random) -> bytes:
    place = chance.randint(0, len(raw))
    found = chance.choice((b"\0", b"\xff\xfe", b'"', b"\n", b"{", b"[" * 3_000, b"\t,", b"\xed\xa0\x80", chance.randbytes(20)))
    return raw[:place] + found + raw[place:]


def splice(raw: bytes, chance: random.Random) -> bytes:
    here, there = piece(raw, chance), piece(raw, chance)
    return raw[: here.start] + raw[there] + raw[here.stop :]


def digits(raw: bytes, chance: random.Random) -> bytes:
    """A digit becomes many nines: sizes and offsets beyond all bounds."""
    places = [i for i, byte in enumerate(raw[:50_000]) if 48 <= byte <= 57]
    if not places:
        return raw
    place = chance.choice(places)
    return raw[:place] + b"9" * chance.choice((1, 3, 12, 30)) + raw[place + 1 :]


def change_json(raw: bytes, chance: random.Random) -> bytes:
    """One value somewhere in it becomes another, is left out, or gets a brother."""
    lines = raw.split(b"\n") if raw.count(b"\n{") > 1 else [raw]  # .jsonl
    number = chance.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except (ValueError, RecursionError):
        return raw
    spots = list(places_in(value))
    if not spots:
        return json.dumps(chance.choice(ABSURD)).encode()
    parent, key = chance.choice(spots)
    act = chance.randrange(6)
    if act == 0:
        del parent[key]
    elif act == 1 and isinstance(parent, dict):
        parent[chance.choice(("x", "", *map(str, parent)))] = parent[key]
    elif act == 2:
        parent[key] = [parent[key]]
    else:
        parent[key] = chance.choice(ABSURD)
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines)


def places_in(value: object):
    """(container, key) of each value inside, at every depth."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places_in(value[key])


def change_header(raw: bytes, chance: random.Random) -> bytes:
    """Of a safetensors file: 8 bytes that say how long the JSON is, the JSON, the numbers."""
    size = int.from_bytes(raw[:8], "little")
    header, numbers = raw[8 : 8 + size], raw[8 + size :]
    if chance.random() < 0.1:
        return chance.choice((0, 1, size + 1, 100_000_001, 2**62, 2**64 - 1)).to_bytes(8, "little") + header + numbers
    header = (digits if chance.random() < 0.2 else change_json)(header, chance)
    return len(header).to_bytes(8, "little") + header + numbers


# ---- seeds, and what must survive them


def model_folder(folder: Path) -> None:
    config = DistilBertConfig(vocab_size=61, max_position_embeddings=17, dim=12, hidden_dim=20, n_layers=2, n_heads=2)
    DistilBertForSequenceClassification(config).save_pretrained(folder)


def sharded_folder(folder: Path) -> None:
    model_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = [f"model-{i + 1:05}-of-00003.safetensors" for i in range(3)]
    where = {name: shards[i % 3] for i, name in enumerate(tensors)}
    for shard in shards:
        save_file({name: tensor for name, tensor in tensors.items() if where[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


def bert_folder(folder: Path) -> None:
    model_folder(folder)
    tensors = {"bert.embeddings.token_type_embeddings.weight": torch.ones(2, 12)}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.startswith("distilbert."):
            for theirs, ours in BERT:
                name = name.replace(ours, theirs)
            tensors[name.replace("distilbert.", "bert.")] = tensor
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "bert"}
    for theirs, ours in BERT_CONFIG.items():
        config[theirs] = config.pop(ours)
    (folder / "config.json").write_text(json.dumps(config))


def bare_folder(folder: Path) -> None:
    model_folder(folder)
    (folder / "config.json").unlink()


def tokenizer_folder(folder: Path) -> None:
    Tokenizer.from_texts(["a fine film with a plot", "the actor was dull"]).save_pretrained(folder, 17)


def vocabulary_folder(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, *"abcdefghi", "film", "##s", "dull", "é"]) + "\n")


ROWS = [(f"A {'dull' if i % 2 else 'fine'} film, number {i}.", i % 2) for i in range(40)]


def table(name: str, separator: str = "") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
        if separator:
            lines = ["text" + separator + "label", *(f'"{text}"{separator}{label}' for text, label in ROWS)]
        (folder / name).write_text("\n".join(lines) + "\n")

    return make


def reviews() -> dict[str, bytes]:
    names = [f"aclImdb/{part}/{kind}/{i}_5.txt" for part in ("train", "test") for kind in ("neg", "pos") for i in range(12)]
    return {name: f"This is {name}.<br />".encode() for name in names}


def tarball(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as archive:
            for member, content in reviews().items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return make


def unpacked(folder: Path) -> None:
    for name, content in reviews().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def zipped(folder: Path) -> None:
    with zipfile.ZipFile(folder / "SST-2.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("SST-2/dev.tsv", "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS))


def read_model(folder: Path) -> None:
    DistilBertForSequenceClassification.from_pretrained(folder)
    read_checkpoint(folder)


def read_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(folder)
    ids = tokenizer.encode_batch(["A fine film, isn't it?", "é", ""], 17)
    assert max(map(max, ids)) < len(tokenizer) and max(map(len, ids)) <= 17
    tokenizer.decode(ids[0])
    assert len(tokenizer) > 1_000 or len(tokenizer.continues) == len(tokenizer)


def read_data(folder: Path) -> None:
    (path,) = folder.iterdir()
    for whole in (False, True):
        parts = load(str(path), whole_tables=whole)
        fingerprint(text for part in parts.values() for text in part.texts)
        if not whole and "train" in parts:
            check_classes(prepare(parts, train_size=4)[0], ("train", "test"), str(path))


def judge(folder: Path) -> None:
    evaluate.main(["--model", str(folder), "--text", "a lovely film"])


def measure(folder: Path) -> None:
    evaluate.main(["--model", str(folder), "--eval_size", "4"])


def resume(folder: Path) -> None:
    arguments = json.loads(os.environ["FUZZ_ARGUMENTS"])
    run = Run(train_cls.Arguments(**arguments | {"output_dir": str(folder), "resume": True}))
    run.finished()
    run.begin()


KINDS = {  # what makes the seed, what reads it, which of its files are broken
    "weights": (model_folder, read_model, "*"),
    "shards": (sharded_folder, read_model, "*"),
    "bert": (bert_folder, read_model, "*"),
    "no config": (bare_folder, read_model, "*"),
    "tokenizer": (tokenizer_folder, read_tokenizer, "tokenizer.json"),
    "vocabulary": (vocabulary_folder, read_tokenizer, "*"),
    "jsonl": (table("films.jsonl"), read_data, "*"),
    "csv": (table("films.csv", ","), read_data, "*"),
    "tsv": (table("films.tsv", "\t"), read_data, "*"),
    "txt": (table("films.txt", " "), read_data, "*"),
    "tar.gz": (tarball("imdb.tar.gz"), read_data, "*"),
    "tar": (tarball("imdb.tar"), read_data, "*"),
    "folder": (unpacked, read_data, "**/*.txt"),
    "zip": (zipped, read_data, "*"),
    "evaluate": (None, judge, "*.json"),
    "measure": (None, measure, "checkpoint/arguments.json"),
    "resume": (None, resume, "**/*.json"),
}


class Hang(BaseException):
    """An input took longer than SECONDS."""


def hang(*_) -> None:
    raise Hang


def limited(kind: str, numbers: range, run: Path, send: Callable[[object], None]) -> None:
    """`fuzz`, with no more memory than MEMORY beyond what the process has already; sends reports, then the count."""
    if Path("/proc/self/statm").exists():
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, has + MEMORY))
    torch.set_num_threads(1)  # each thread takes memory, and machines have more or fewer of them
    os.environ["RAYON_NUM_THREADS"] = "1"  # the tokenizers' threads
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.modules["matplotlib"] = None  # pictures take longer than all the rest
    send(fuzz(kind, numbers, run, send))


def fuzz(kind: str, numbers: range, run: Path, report: Callable[[str], None]) -> int:
    """Reads inputs of one kind, and reports whatever is neither read nor refused in words -> how many were refused.

    `run`: a finished run of train_cls.py, the seed for the kinds that read run directories.
    """
    make, read, pattern = KINDS[kind]
    refused = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "seed"
        if make:
            folder.mkdir()
            make(folder)
        else:
            shutil.copytree(run, folder)
            os.environ["FUZZ_ARGUMENTS"] = (folder / "checkpoint" / "arguments.json").read_text()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            read(folder)  # the seed itself is right
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        signal.signal(signal.SIGPROF, hang)
        for number in numbers:
            chance = random.Random(f"{kind} {number}")
            file = chance.choice(files)
            whole = file.read_bytes()
            file.write_bytes(mutated(whole, chance, file.name))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                with (
                    contextlib.redirect_stdout(io.StringIO()),
                    contextlib.redirect_stderr(io.StringIO()) as said,
                    user_errors(),
                ):
                    read(folder)
            except SystemExit as ended:
                refused += 1
                too_large = "a batch that did not fit" in said.getvalue()  # what `user_errors` says where memory runs out
                if ended.code != 2 or too_large or len(said.getvalue().splitlines()) > 3 or len(said.getvalue()) > 1_200:
                    report(f"{kind} {number}: exit status {ended.code}, {said.getvalue()[:500]}")
            except BaseException as error:  # a panic of a Rust library, a hang, a bug
                trace = traceback.extract_tb(error.__traceback__)[-1]
                report(f"{kind} {number}: {type(error).__name__}: {str(error)[:200]} ({trace.filename}:{trace.lineno})")
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                file.write_bytes(whole)
    return refused
