"""Downloads from a real server on this machine that breaks off, stalls, refuses, or sends something else."""

import hashlib
import http.server
import os
import signal
import threading
import time

import pytest
import warm

from distilbert import files
from distilbert.errors import UserError
from distilbert.files import download

CONTENT = bytes(range(256)) * 8_192  # 2 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
STATUS = {"missing": 404, "forbidden": 403, "broken": 500, "busy": 503}


class Server(http.server.BaseHTTPRequestHandler):
    """The page's name says what goes wrong; asked a second time, "once/…" goes right."""

    asked: dict[str, int]
    ended: threading.Event

    def do_GET(self):
        name = self.path[1:]
        self.asked[name] = self.asked.get(name, 0) + 1
        if name.startswith("once/"):
            name = name[5:] if self.asked[name] == 1 else "whole"
        if name in STATUS:
            return self.send_error(STATUS[name])
        if name == "silent":
            return self.ended.wait(30)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if name == "other":
            return self.wfile.write(CONTENT[::-1])
        self.wfile.write(CONTENT if name == "whole" else CONTENT[: len(CONTENT) // 2])
        while name in ("stalls", "trickles") and not self.ended.wait(0.05):
            if name == "trickles":
                self.wfile.write(b"x")

    def log_message(self, *_):
        pass


@pytest.fixture
def address(monkeypatch):
    """Of the server, whose patience with it is a second here."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(files, "SECONDS", 1)
    monkeypatch.setattr(files, "SLOWEST", 1 << 20)
    Server.asked, Server.ended = {}, threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Server.ended.set()
        server.shutdown()


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("missing", "not downloaded .*404.*--data"),
        ("forbidden", "not downloaded .*403"),
        ("broken", "not downloaded .*500"),
        ("busy", "not downloaded .*503"),
        ("other", "sha256 is .*, expected .*: a broken download; run again"),
        ("breaks-off", "sha256 is .*, expected .*: a broken download; run again"),
        ("silent", "not downloaded .*timed out"),
        ("stalls", "not downloaded .*timed out"),
        ("trickles", "not downloaded .*fewer than .* bytes a second"),
    ],
)
def test_what_goes_wrong_is_said_within_the_time_limit_and_the_next_start_gets_the_file(
    tmp_path, address, page, says, monkeypatch
):
    started, path = time.monotonic(), tmp_path / "cache" / "file"
    with pytest.raises(UserError, match=f"^{address}/once/{page}: {says}") as caught:
        download(f"{address}/once/{page}", path, sha256=SHA256)
    assert time.monotonic() - started < 10
    assert len(str(caught.value).splitlines()) == 1
    assert list(path.parent.iterdir()) == []
    monkeypatch.setattr(files, "SECONDS", 60)
    assert download(f"{address}/once/{page}", path, sha256=SHA256).read_bytes() == CONTENT


def test_the_limits_are_twenty_seconds_and_ten_thousand_bytes_a_second():
    assert (files.SECONDS, files.SLOWEST) == (20, 10_000)


def test_a_download_that_is_killed_leaves_no_file_and_the_next_start_begins_anew(tmp_path, address):
    path = tmp_path / "cache" / "file"
    process = warm.WARM.Process(target=download, args=(f"{address}/once/stalls", path), kwargs={"sha256": SHA256})
    process.start()
    while not any(left.stat().st_size for left in tmp_path.glob("cache/.file.*.part")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (left,) = path.parent.iterdir()
    assert left.suffix == ".part"
    download(f"{address}/once/stalls", path, sha256=SHA256)
    assert path.read_bytes() == CONTENT and left.exists()  # it might be another process's
    path.unlink()
    os.utime(left, (0, time.time() - 3_700))
    download(f"{address}/once/stalls", path, sha256=SHA256)
    assert list(path.parent.iterdir()) == [path]  # nobody has written to it for an hour
