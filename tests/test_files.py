"""Files are written whole or not at all, and what is read or fetched broken is said to be so."""

import functools
import hashlib
import http.server
import json
import math
import os
import threading
from pathlib import Path

import pytest

from distilbert.errors import UserError
from distilbert.files import (
    bare_name,
    cache_directory,
    checksum,
    download,
    finite,
    read_json,
    remembered,
    write_atomically,
    write_json,
    write_text,
)

CONTENT = bytes(range(256)) * 9_001  # 2.2 MB: more than one piece of a download
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_without_a_home_the_cache_wants_a_place(monkeypatch):
    monkeypatch.delenv("DISTILBERT_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UserError, match="no home directory; say by DISTILBERT_CACHE"):
        cache_directory()


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    """In a stranger's directory it may lead anywhere."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    write_text(tmp_path / "link", "theirs")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "link").read_text() == "theirs"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        *(("/data/aclImdb_v1.tar.gz", "aclImdb_v1"), ("aclImdb/", "aclImdb"), ("a/SST-2.zip", "SST-2"), ("dev.tsv", "dev")),
        *(
            ("films.v2.jsonl", "films.v2"),
            ("films.csv", "films"),
            ("imdb.tgz", "imdb"),
            ("imdb.tar", "imdb"),
            ("sample", "sample"),
        ),
    ],
)
def test_data_is_called_by_its_file_without_the_folders_and_the_kind(data, name):
    assert bare_name(data) == name


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


class Server(http.server.BaseHTTPRequestHandler):
    """One answer a path."""

    def do_GET(self):
        if self.path == "/nonsense":
            return self.wfile.write(b"this is not the protocol\r\n\r\n")
        self.send_response(200)
        if self.path == "/chunked-and-cut":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write((b"%x\r\n" % (len(CONTENT) + 1) if "chunked" in self.path else b"") + CONTENT)

    def log_message(self, *_):
        pass


class ChunkedServer(Server):
    protocol_version = "HTTP/1.1"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def serve():
    """Starts a server on this machine and gives its address."""
    running = []

    def start(handler=Server):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


# ---- writing


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_writer_that_fails_half_way_leaves_the_previous_file_whole_and_nothing_else(tmp_path, error):
    path = tmp_path / "run.json"
    write_text(path, "before")

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "before"
    assert names(tmp_path) == ["run.json"]


def test_a_writer_that_fails_the_first_time_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "new", lambda temporary: 1 / 0)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": {1, 2}})  # JSON has no sets
    assert names(tmp_path) == []


def test_the_new_content_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    path, order = tmp_path / "weights", []
    write_text(path, "before")
    fsync, replace = os.fsync, os.replace

    def note(name, function):
        def noted(*arguments):
            order.append((name, path.read_text()))
            return function(*arguments)

        return noted

    monkeypatch.setattr(os, "fsync", note("fsync", fsync))
    monkeypatch.setattr(os, "replace", note("replace", replace))
    write_text(path, "after")
    assert order == [("fsync", "before"), ("replace", "before")]
    assert path.read_text() == "after"


def test_a_crash_between_writing_and_renaming_leaves_the_previous_file_whole(tmp_path, monkeypatch):
    write_text(tmp_path / "log", "before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(SystemExit(137)))
    with pytest.raises(SystemExit):
        write_text(tmp_path / "log", "after")
    assert (tmp_path / "log").read_text() == "before"
    assert names(tmp_path) == ["log"]


def test_two_writers_of_one_file_on_two_machines_do_not_disturb_each_other(tmp_path):
    """Which may have the same number there."""
    path = tmp_path / "file"

    def write(temporary: Path) -> None:
        temporary.write_text("the first's")
        write_text(path, "the second's")
        assert path.read_text() == "the second's"

    write_atomically(path, write)
    assert path.read_text() == "the first's" and list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write_text(tmp_path / "pipe", "a page")
    reader.join(10)
    assert read == ["a page"] and (tmp_path / "pipe").is_fifo()


def test_missing_folders_are_made_and_text_is_utf8(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "é – 電影\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "é – 電影\n".encode()


# ---- JSON


def test_nan_and_the_infinities_become_null_at_every_depth(tmp_path):
    value = {"f1": math.nan, "nested": {"interval": [math.nan, 0.5], "pair": (math.inf, -math.inf)}, "n": 3, "whole": 1e308}
    write_json(tmp_path / "x.json", value)
    strict = json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {"f1": None, "nested": {"interval": [None, 0.5], "pair": [None, None]}, "n": 3, "whole": 1e308}


def test_everything_else_comes_back_as_it_went_and_as_readable_text(tmp_path):
    value = {"text": "é – 電影", "none": None, "true": True, "zero": 0, "minus": -0.5, "empty": [{}, []]}
    assert finite(value) == value
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "電影" in text and text.endswith("}\n") and '\n  "zero": 0' in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not readable as JSON"),
        (b'{"a": 1', "not readable as JSON"),
        (b"{'a': 1}", "not readable as JSON"),
        (b"\xff\xfe{}", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b"1" * 5_000, "not readable as JSON"),
        (b"[1, 2]", "holds a JSON list, expected an object"),
        (b"null", "holds a JSON NoneType, expected an object"),
        (None, "no such file"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_broken_json_is_a_user_error_that_names_the_file(tmp_path, content, says):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ") and says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_directory_in_the_place_of_a_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="not readable as JSON"):
        read_json(tmp_path)


# ---- checksums and the cache


def test_checksums_are_the_published_ones(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # FIPS 180-4 and RFC 1321
    assert checksum(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(path, "md5") == "900150983cd24fb0d6963f7d28e17f72"


def test_the_cache_is_where_the_environment_says_or_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILBERT_CACHE", str(tmp_path / "elsewhere"))
    assert cache_directory() == tmp_path / "elsewhere"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in (lambda: monkeypatch.setenv("DISTILBERT_CACHE", ""), lambda: monkeypatch.delenv("DISTILBERT_CACHE")):
        unset()
        assert cache_directory() == tmp_path / ".cache" / "distilbert"


# ---- downloads


@pytest.mark.parametrize("expected", [{"sha256": SHA256}, {"md5": hashlib.md5(CONTENT).hexdigest()}], ids=["sha256", "md5"])
def test_a_download_with_the_right_checksum_is_the_file_and_nothing_beside_it(tmp_path, serve, expected):
    path = tmp_path / "cache" / "archive.tar.gz"
    assert download(f"{serve()}/archive", path, **expected) == path
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "cache") == ["archive.tar.gz"]


def test_what_is_there_is_not_fetched_again(tmp_path):
    (tmp_path / "there").write_text("kept")
    assert download("http://127.0.0.1:1/nobody-listens", tmp_path / "there", md5="0" * 32).read_text() == "kept"


def test_a_server_that_is_not_there_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"not downloaded .*refused.*--data"):
        download("http://127.0.0.1:1/x", tmp_path / "cache" / "file", sha256=SHA256)
    assert names(tmp_path / "cache") == []


def test_a_folder_that_must_not_be_written_to_is_no_fault_of_the_servers(tmp_path, serve, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("distilbert.files.write_atomically", refused)
    with pytest.raises(PermissionError):
        download(f"{serve()}/archive", tmp_path / "file", sha256=SHA256)


@pytest.mark.parametrize(("page", "handler"), [("nonsense", Server), ("chunked-and-cut", ChunkedServer)])
def test_an_answer_that_breaks_the_protocol_is_a_user_error(tmp_path, serve, page, handler):
    with pytest.raises(UserError, match="not downloaded") as caught:
        download(f"{serve(handler)}/{page}", tmp_path / "cache" / "file", sha256=SHA256)
    assert len(str(caught.value).splitlines()) <= 2
    assert names(tmp_path / "cache") == []


def test_a_download_that_is_interrupted_leaves_the_folder_as_it_was(tmp_path, serve, monkeypatch):
    monkeypatch.setattr("distilbert.files.checksum", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        download(f"{serve()}/archive", tmp_path / "cache" / "file", sha256=SHA256)
    assert names(tmp_path / "cache") == []


# ---- what was read before


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path, cache):
    source, reads = tmp_path / "large", []

    def read() -> list[str]:
        reads.append(source.read_text())
        return [reads[-1], "é"]

    source.write_text("one")
    assert [remembered("texts", source, read) for _ in range(2)] == [["one", "é"]] * 2 and reads == ["one"]
    source.write_text("other")
    assert remembered("texts", source, read) == ["other", "é"] and reads == ["one", "other"]
    os.utime(source, ns=(0, 0))
    remembered("texts", source, read)
    assert len(reads) == 3 and len(list((cache / "texts").glob("*.json"))) == 3


def test_a_cache_that_is_not_whole_is_made_again(tmp_path, cache):
    source = tmp_path / "large"
    source.write_text("x")
    remembered("texts", source, lambda: ["right"])
    (path,) = (cache / "texts").glob("*.json")
    path.write_bytes(path.read_bytes()[:-3])
    assert remembered("texts", source, lambda: ["again"]) == ["again"] == json.loads(path.read_bytes())
