"""What several test files share: a tiny DistilBERT, every size of it another number, and its twin in `transformers`."""

import io
import json
import os
import random
import signal
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the network
os.environ["no_proxy"] = "*"  # and the servers of some tests are on this machine
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is equal to the bit is so on a CPU
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it, and its children would too
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a bare `pytest` finds the packages

import numpy as np
import pytest
import setuptools  # noqa: F401 - for torch.compile: Python 3.11 cannot import it once something asked for pip
import torch
import transformers
from hypothesis import settings

from distilbert.config import DistilBertConfig
from distilbert.logits import predict_logits

transformers.utils.logging.disable_progress_bar()
settings.register_profile("steady", database=None, derandomize=True, deadline=None)  # the same on a busy machine
settings.load_profile("steady")

SIZES = {"vocab_size": 61, "max_position_embeddings": 17, "dim": 12, "hidden_dim": 20, "n_layers": 3, "n_heads": 2}
LABELS = {0: "awful", 1: "poor", 2: "fair", 3: "good", 4: "great"}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
ARCHITECTURES = ("DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification")


def our_config(**changes) -> DistilBertConfig:
    return DistilBertConfig(**{**SIZES, "id2label": LABELS, **changes})


def their_config(**changes) -> transformers.DistilBertConfig:
    labels = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}
    return transformers.DistilBertConfig(**{**SIZES, **labels, "attn_implementation": "eager", **changes})


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The model with every parameter drawn anew, norms and biases too: at their defaults, swapped names would pass."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0  # a norm's weight, or anything else
            parameter.copy_(centre + 0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def ragged_batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (4, 13), also behind the text where nobody may look, and the mask of lengths 13, 9, 4 and 1."""
    ids = torch.randint(5, SIZES["vocab_size"], (4, 13), generator=torch.Generator().manual_seed(seed))
    return ids, (torch.arange(13) < torch.tensor([[13], [9], [4], [1]])).long()


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-10) -> None:
    """Asserts equality of values, shapes and number formats."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache directory of this test's own, not there yet."""
    monkeypatch.setenv("DISTILBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def imdb_members(per_class: int = 10, unlabelled: int = 7) -> list[tuple[str, bytes]]:
    """(name, content) of each review of a small IMDb, in the order in which an unpacked folder is read."""
    folders = [(f"{part}/{label}", per_class) for part in ("test", "train") for label in ("neg", "pos")]
    folders += [("train/unsup", unlabelled)]
    stars = {"neg": 3, "pos": 8, "unsup": 0}
    names = [f"{folder}/{i}_{stars[folder.split('/')[1]]}" for folder, count in folders for i in range(count)]
    return sorted((f"aclImdb/{name}.txt", f"This is review {name}.".encode()) for name in names)


def write_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """A tarball, gzipped if its name says so, of members that are named or are a ready TarInfo."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = member.size or len(content)
            archive.addfile(member, io.BytesIO(content) if content else None)
    return path


# ---- a toy task and a run that has learnt it

FILLER = ["the", "film", "a", "plot", "this", "actor", "with", "scene", "and", "music", "its", "story", "in", "an", "evening"]
DULL = ["dull", "awful", "clumsy", "boring", "hollow", "dreadful"]
LOVELY = ["lovely", "brilliant", "warm", "funny", "moving", "superb"]
TINY = ["--model", "scratch-tiny", "--max_length", "48", "--precision", "fp32", "--learning_rate", "5e-3"]
TINY += ["--device", "cpu"]


def write_toy_corpus(path: Path, count: int = 160, seed: int = 0) -> Path:
    """Texts of 6 to 17 words, three of them verdicts; even ones are negative. No part is named: an 80/10/10 cut."""
    chance = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            words = chance.choices(FILLER, k=chance.randint(3, 14)) + chance.sample((DULL, LOVELY)[i % 2], 3)
            chance.shuffle(words)
            file.write(json.dumps({"text": " ".join(words), "label": i % 2}) + "\n")
    return path


@pytest.fixture(scope="session", autouse=True)
def own_place(tmp_path_factory):
    """Nobody's ~/.cache is read or written, and nobody's GPU is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.mps, "is_available", lambda: False)
        patch.setenv("DISTILBERT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("private-folder") / "toy.jsonl")


def train_and_record(flags: list[str]) -> np.ndarray:
    """Runs train_cls.py and returns the logits of its test part."""
    import train_cls

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_cls, "predict_logits", lambda *args: seen.append(predict_logits(*args)) or seen[-1])
        train_cls.main(flags)
    return seen[-1]


@pytest.fixture(scope="session")
def finished(corpus, tmp_path_factory) -> SimpleNamespace:
    """A finished run: its directory, its flags, and the logits of its test part. Copy it before changing it."""
    directory = tmp_path_factory.mktemp("private-folder") / "judge"
    flags = [*TINY, "--data", str(corpus), "--output_dir", str(directory), "--logging_steps", "3", "--num_train_epochs", "3"]
    return SimpleNamespace(directory=directory, flags=flags, test_logits=train_and_record(flags))
