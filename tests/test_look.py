"""python -m distilbert.look: what the page is told, the page in a real browser, and the server on the loopback address."""

import base64
import contextlib
import copy
import dataclasses
import http.client
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import browser as chromium
import numpy as np
import pytest
import tokenizers
import torch
from conftest import our_config, randomise
from hypothesis import given, settings
from hypothesis import strategies as st

from distilbert import Tokenizer, infer_reviews
from distilbert.errors import UserError
from distilbert.explain import attention_and_decisions, integrated_gradients
from distilbert.look import TEMPLATE, Reader, main, packed, page, pieces, shown
from distilbert.model import DistilBertForSequenceClassification, DistilBertModel
from distilbert.serve import REQUEST_LIMIT, server
from distilbert.tokenizer import SPECIAL_TOKENS

ROOT = Path(__file__).resolve().parent.parent
REVIEW = "A Dull, clumsy plot; but the lovely music\nis warm & moving!"
ATTACK = "lovely </script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"><!-- & dull"


@pytest.fixture(scope="module")
def reader(finished) -> Reader:
    return Reader.from_pretrained(str(finished.directory))


def data_of(html: str) -> dict:
    """What a page was told, as its script reads it."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def unpacked(data: dict) -> np.ndarray:
    """The weights (L, H, T, T) that a page can tell from its bytes."""
    T = len(data["pieces"])
    raw = np.frombuffer(zlib.decompress(base64.b64decode(data["attention"])), dtype=np.uint8)
    return (raw.reshape(-1, data["heads"], T, T) / 255) ** 2


# ---- what the page is told


def test_the_verdict_is_that_of_infer_reviews(reader):
    for text in (REVIEW, "dull", "lovely and warm and funny"):
        _, label, confidence = infer_reviews(text, reader.model, reader.tokenizer)
        data = reader.look(text)
        assert data["label"] == label and data["confidence"] == pytest.approx(confidence, abs=1e-5)
        towards = data["decision"] if label == "Positive" else -data["decision"]
        assert 1 / (1 + math.exp(-towards)) == pytest.approx(confidence)


def test_numbers_are_those_of_explain_piece_by_piece(reader):
    data, ids = reader.look(REVIEW), torch.tensor([reader.tokenizer.encode(REVIEW)])
    _, decisions = attention_and_decisions(reader.model, ids)
    contributions, baseline, decision = integrated_gradients(reader.model, ids, reader.tokenizer.pad_id)
    assert data["decisions"] == pytest.approx(decisions.tolist()) and data["decisions"][-1] == pytest.approx(decision)
    assert data["contributions"] == pytest.approx(contributions.tolist()) and data["baseline"] == pytest.approx(baseline)
    assert [piece["piece"] for piece in data["pieces"]] == [reader.tokenizer.backend.id_to_token(int(i)) for i in ids[0]]
    assert (data["heads"], len(data["decisions"])) == (4, 3)
    assert sum(data["contributions"]) == pytest.approx(decision - baseline, rel=0.05)  # the page says by how much they differ


def test_weights_survive_their_packing_to_two_digits(reader):
    weights = attention_and_decisions(reader.model, torch.tensor([reader.tokenizer.encode(REVIEW)]))[0].numpy()
    np.testing.assert_allclose(unpacked(reader.look(REVIEW)), weights, atol=0.004)
    small = torch.full((1, 1, 512, 512), 1 / 512)
    kept = np.frombuffer(zlib.decompress(base64.b64decode(packed(small))), dtype=np.uint8)
    assert len(kept) == 512 * 512 and kept.min() == round(255 * math.sqrt(1 / 512)) > 0


def test_a_calibrated_run_says_less_and_means_the_same(finished, reader, tmp_path):
    run = Path(shutil.copytree(finished.directory, tmp_path / "run"))
    (run / "calibration.json").write_text('{"temperature": 2.5, "fitted_on": 16}')
    plain, cool = reader.look(REVIEW), Reader.from_pretrained(str(run)).look(REVIEW)
    assert cool["label"] == plain["label"] and cool["confidence"] < plain["confidence"]
    for name in ("decision", "baseline", "decisions", "contributions"):
        np.testing.assert_allclose(np.multiply(cool[name], 2.5), plain[name], rtol=1e-5, atol=1e-6)
    assert (cool["calibration"]["temperature"], cool["calibration"]["fitted_on"]) == (2.5, 16)
    assert cool["attention"] == plain["attention"]


@pytest.mark.parametrize("temperature", ["0", "-1", "null", '"warm"', "NaN", "Infinity", "true", "1e-320", "9" * 400])
def test_a_temperature_that_is_none_is_refused(finished, tmp_path, temperature):
    run = Path(shutil.copytree(finished.directory, tmp_path / "run"))
    (run / "calibration.json").write_text(f'{{"temperature": {temperature}}}')
    with pytest.raises(UserError, match=r"calibration\.json: temperature is .*expected a positive number.*--calibrate"):
        Reader.from_pretrained(str(run))


def test_of_a_calibration_the_page_is_told_what_it_shows_and_no_more(finished, tmp_path):
    """The page's JSON knows no NaN, and what it calls a number must be one."""
    run = Path(shutil.copytree(finished.directory, tmp_path / "run"))
    (run / "calibration.json").write_text('{"temperature": 2, "ece": {"before": NaN}, "fitted_on": {"toLocaleString": 1}}')
    assert Reader.from_pretrained(str(run)).look("dull")["calibration"] == {"temperature": 2, "fitted_on": 0}


def test_a_temperature_near_zero_gives_confidence_one_and_no_error(finished, tmp_path):
    run = Path(shutil.copytree(finished.directory, tmp_path / "run"))
    (run / "calibration.json").write_text('{"temperature": 1e-4}')
    for text in ("dull dull dull", "lovely warm and funny"):
        assert Reader.from_pretrained(str(run)).look(text)["confidence"] == 1.0


@pytest.mark.parametrize(
    "arguments", [{"max_length": "long"}, {"max_length": 2}, {"max_length": True}, {"truncation": "middle"}, ["max_length"]]
)
def test_a_record_that_no_run_wrote_is_refused(finished, tmp_path, arguments):
    run = Path(shutil.copytree(finished.directory, tmp_path / "run"))
    (run / "run.json").write_text(json.dumps({"arguments": arguments}))
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(
        UserError, match=r"run\.json: (max_length is .* and truncation .*, which no run writes|arguments is .*an object)"
    ):
        Reader.from_pretrained(str(run))


def test_a_run_that_is_being_extended_is_read_as_it_was_trained(finished, tmp_path):
    run = Path(shutil.copytree(finished.directory, tmp_path / "run"))
    (run / "run.json").unlink()  # as --resume does when it begins
    reader = Reader.from_pretrained(str(run))
    assert (reader.max_length, reader.truncation) == (48, "head-tail")


@pytest.mark.parametrize("keep", [False, True])
def test_breaks_are_read_as_in_training(finished, tmp_path, keep):
    run = Path(shutil.copytree(finished.directory, tmp_path / "run"))
    stored = run / "checkpoint" / "arguments.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"keep_breaks": keep}))
    reader = Reader.from_pretrained(str(run))
    broken, whole = (reader.look(text) for text in ("lovely<br />dull", "lovely\ndull"))
    assert (broken["decision"] == whole["decision"]) != keep and (broken["text"] == whole["text"]) != keep


def test_length_and_truncation_are_the_runs(reader):
    long = "dull " * 60 + "lovely " * 60
    assert (reader.max_length, reader.truncation) == (48, "head-tail")  # as the run was trained
    data = reader.look(long)
    assert [piece["piece"] for piece in data["pieces"]] == ["[CLS]", *["dull"] * 11, *["lovely"] * 35, "[SEP]"]
    assert [(i, piece["skipped"]) for i, piece in enumerate(data["pieces"]) if piece["skipped"]] == [(12, 120 - 46)]


# ---- pieces

VOCABULARY = Tokenizer.from_vocabulary([*SPECIAL_TOKENS, "the", "fil", "##m", "a", "##s", ",", "!", "e", "i", "'", "##a"])


def pieces_of(text: str, kept: list[int] | None = None) -> list[dict]:
    encoding = VOCABULARY.backend.encode(text)
    return pieces(text, encoding, kept or list(range(len(encoding.ids))))


@settings(max_examples=50)
@given(st.text() | st.text("The fÍLM\u0301\u200b\n, as!", max_size=60))
def test_gaps_and_spellings_make_up_the_review_as_it_was_written(text):
    assert "".join(piece["gap"] + piece["text"] for piece in pieces_of(text)) == text


def test_pieces_made_of_one_character_spell_it_once():
    backend = Tokenizer.from_vocabulary([*SPECIAL_TOKENS, "e", "."]).backend
    backend.normalizer = tokenizers.normalizers.NFKC()  # not BERT's, but a tokenizer.json may have it
    encoding = backend.encode("e… e")
    found = pieces("e… e", encoding, list(range(len(encoding.ids))))
    assert [piece["piece"] for piece in found][1:-1] == ["e", ".", ".", ".", "e"]
    assert "".join(piece["gap"] + piece["text"] for piece in found) == "e… e"


def test_pieces_of_one_word_share_its_number_and_are_spelled_as_written():
    found = pieces_of("The  FILMS, a film!")
    assert [piece["text"] for piece in found] == ["", "The", "FIL", "M", "S", ",", "a", "fil", "m", "!", ""]
    assert [piece["piece"] for piece in found][2:5] == ["fil", "##m", "##s"]
    assert [piece["word"] for piece in found] == [0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7]
    assert [piece["gap"] for piece in found] == ["", "", "  ", "", "", "", " ", " ", "", "", ""]


def test_what_was_cut_is_counted_and_the_rest_of_a_cut_word_is_a_word_of_its_own():
    found = pieces_of("the films a", [0, 1, 2, 4, 6])
    assert [(piece["text"], piece["skipped"], piece["word"]) for piece in found] == [
        ("", 0, 0), ("the", 0, 1), ("fil", 0, 2), ("s", 1, 3), ("", 1, 4)]  # fmt: skip
    assert [piece["gap"] for piece in found] == ["", "", " ", "", ""]


# ---- the file


def test_the_template_takes_data_in_one_place_and_asks_for_nothing_from_elsewhere():
    template = TEMPLATE.read_text(encoding="utf-8")
    assert template.count("@data@") == 1 and "default-src 'none'" in template
    assert not re.search(r"https?:|//\w+\.|@import|url\(|innerHTML|document\.write|insertAdjacentHTML|\beval\b", template)


@settings(max_examples=50)
@given(st.text())
def test_no_text_ends_the_data_or_changes_on_the_way(text):
    html = page({"text": text, "pieces": [{"text": text}]})
    assert data_of(html) == {"text": text, "pieces": [{"text": text}]}
    raw = html[html.index('id="data">') + 10 :].split("</script>")[0]
    assert "<" not in raw and raw.isascii() and html.count("</script>") == 2


def test_a_page_is_written_to_where_a_link_leads(finished, tmp_path):
    (tmp_path / "page.html").write_text("")
    (tmp_path / "stdout").symlink_to(tmp_path / "page.html")
    main(["lovely", "--model", str(finished.directory), "--output", str(tmp_path / "stdout")])
    assert (tmp_path / "stdout").is_symlink() and "<html" in (tmp_path / "page.html").read_text()


def test_a_page_can_be_piped_on(finished):
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe, ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read)  # meanwhile: a pipe holds less than a page
        try:
            main(["lovely", "--model", str(finished.directory), "--output", f"/dev/fd/{writer}"])
        finally:
            os.close(writer)
        assert b"<html" in read.result() and b"</html>" in read.result()


def test_the_command_writes_one_file_and_says_the_verdict(finished, reader, tmp_path, capsys):
    main([REVIEW, "--model", str(finished.directory), "--output", str(tmp_path / "new" / "page.html")])
    assert [path.name for path in tmp_path.rglob("*.*")] == ["page.html"]
    data = data_of((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert data["pieces"] == reader.look(REVIEW)["pieces"] and "serve" not in data
    assert capsys.readouterr().out == f"{data['label']} {data['confidence']:.3f}  wrote {tmp_path / 'new' / 'page.html'}\n"
    assert str(finished.directory.parent) not in json.dumps(data) and data["model"] == "judge"  # a page can be published


def test_the_readmes_picture_is_a_small_png():
    (name,) = re.findall(r'<img src="(.*?)"', (ROOT / "README.md").read_text(encoding="utf-8"))
    picture = (ROOT / name).read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 150_000


def test_help_answers_before_torch_is_imported():
    command = [sys.executable, "-X", "importtime", "-m", "distilbert.look", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--serve" in done.stdout and not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


WRONG = {
    "": "no review given",
    "lovely --port 65536": "between 0 and 65535",
    "lovely --model nowhere": "no such directory",
    "lovely --output .": r"--output \.: a directory; give the name of a file, say look\.html",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_is_told_what_was_expected(finished, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=WRONG[command]):
        main(["--model", str(finished.directory), *command.split()])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "\udcff"])
def test_a_review_with_nothing_to_read_is_refused(reader, text):
    with pytest.raises(UserError, match=r"nothing to read|not UTF-8"):
        reader.look(text)


def test_a_model_whose_numbers_overflow_is_refused(reader):
    model = copy.deepcopy(reader.model)
    with torch.no_grad():
        model.head.output.weight.fill_(3e38)
    with pytest.raises(UserError, match="judge: its weights are so large"):
        dataclasses.replace(reader, model=model).look("dull")


def test_only_a_trained_classifier_of_two_classes_is_looked_into(finished, tmp_path):
    tokenizer = Tokenizer.from_pretrained(finished.directory)
    size = len(tokenizer)
    DistilBertModel(our_config(vocab_size=size)).save_pretrained(tmp_path / "encoder")
    DistilBertForSequenceClassification(our_config(vocab_size=size)).save_pretrained(tmp_path / "five")
    for name, said in (("encoder", "no trained classifier; train one: python train_cls.py"), ("five", "5 classes apart")):
        tokenizer.save_pretrained(tmp_path / name, 17)
        with pytest.raises(UserError, match=said):
            Reader.from_pretrained(str(tmp_path / name))


def test_a_classifier_without_a_run_is_read_from_the_front_up_to_its_positions(tmp_path):
    tokenizer = Tokenizer.from_vocabulary([*SPECIAL_TOKENS, "dull", "lovely"])
    config = our_config(vocab_size=7, id2label={0: "bad", 1: "good"})
    randomise(DistilBertForSequenceClassification(config)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path, 17)
    data = Reader.from_pretrained(str(tmp_path)).look("dull " * 15 + "lovely " * 15)
    assert [piece["piece"] for piece in data["pieces"]] == ["[CLS]", *["dull"] * 15, "[SEP]"]
    assert data["labels"] == ["bad", "good"] and data["pieces"][-1]["skipped"] == 15


# ---- the server


@pytest.fixture(scope="module")
def served(reader):
    """(host, port) of a server that runs until the end of the module."""
    with server(lambda text: shown(reader, text), "", 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running.server_address
        running.shutdown()
        thread.join()


def ask(served, method: str, path: str, body: bytes | None = None, **headers) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*served, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def post(served, text: str, **headers) -> tuple[int, str]:
    return ask(served, "POST", "/", urlencode({"text": text}).encode(), **headers)


def test_the_page_is_served_on_the_loopback_address_only_with_a_form(served):
    assert served[0] == "127.0.0.1"
    status, html = ask(served, "GET", "/")
    assert status == 200 and data_of(html) == {"serve": True, "model": "judge", "text": ""}


@pytest.mark.parametrize("text", [REVIEW, ATTACK, "Ünïcode – 電影 🎬 lovely + a=b&c"])
def test_a_posted_review_comes_back_as_its_page(served, reader, text):
    status, html = post(served, text)
    assert status == 200 and data_of(html) == json.loads(json.dumps({"serve": True} | reader.look(text)))


def test_a_review_with_nothing_in_it_is_answered_with_a_sentence_and_none_with_the_form(served):
    for body in (b"", b"text=", b"other=lovely", b"\xff\xfe"):
        assert ask(served, "POST", "/", body) == ask(served, "GET", "/")
    status, html = post(served, " \u200b")
    assert status == 200 and data_of(html)["error"].startswith("nothing to read") and "pieces" not in data_of(html)


@pytest.mark.parametrize(
    "path",
    ["/look.html", "/README.md", "/look", "/?text=lovely", "/../../etc/passwd", "/%2e%2e/README.md", "/etc/passwd"],
)
def test_no_path_but_the_root_is_there(served, path):
    for method in ("GET", "POST"):
        with socket.create_connection(served, timeout=20) as raw:
            raw.sendall(f"{method} {path} HTTP/1.0\r\nHost: localhost:1\r\nContent-Length: 11\r\n\r\ntext=lovely".encode())
            answer = raw.makefile("rb").read().decode()  # to the end: nothing follows the refusal
        assert answer.startswith("HTTP/1.0 404 ") and len(answer) < 1000
        assert "judge" not in answer and "root:" not in answer and "DistilBERT" not in answer


def test_no_request_opens_a_file_of_its_naming(served, tmp_path):
    opened, done = [], False
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" and not done else None)
    (tmp_path / "secret").write_text("secret")
    assert any("secret" in name for name in opened)  # the hook hears of what is opened
    opened.clear()
    assert ask(served, "GET", str(tmp_path / "secret"))[0] == 404
    assert ask(served, "POST", str(tmp_path / "secret"), b"text=lovely")[0] == 404
    assert post(served, str(tmp_path / "secret"))[0] == 200
    done = True
    assert str(TEMPLATE) in opened and not any("secret" in name for name in opened)


def test_a_request_too_large_or_of_unknown_size_is_refused_unread(served):
    assert post(served, "a" * (REQUEST_LIMIT - 10))[0] == 200
    for length, status in (
        (REQUEST_LIMIT + 1, 413),
        (10**18, 413),
        ("9" * 5000, 413),
        ("-5", 411),
        ("²", 411),
        ("lots", 411),
        (None, 411),
    ):
        with socket.create_connection(served, timeout=20) as raw:
            header = "" if length is None else f"Content-Length: {length}\r\n"
            raw.sendall(f"POST / HTTP/1.1\r\nHost: 127.0.0.1:1\r\n{header}\r\n".encode("latin-1"))
            assert raw.recv(1000).split()[1] == str(status).encode(), length


def test_a_page_of_another_site_gets_no_answer(served):
    for headers in (
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Host": ""},
        {"Origin": f"http://127.0.0.1:{served[1] + 1}"},
        {"Origin": f"https://127.0.0.1:{served[1]}"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        assert ask(served, "GET", "/", **headers)[0] == 403
        assert post(served, "lovely", **headers)[0] == 403
    own = f"127.0.0.1:{served[1]}"
    assert post(served, "lovely", Host=own, Origin=f"http://{own}")[0] == 200
    assert ask(served, "GET", "/", Host="localhost:9000")[0] == 200  # a tunnel's other end
    assert ask(served, "GET", "/", Host="localhost")[0] == 200  # port 80 is not said


def test_the_browser_is_asked_to_keep_nothing_and_to_show_it_in_no_other_page(served):
    with contextlib.closing(http.client.HTTPConnection(*served, timeout=20)) as connection:
        connection.request("GET", "/")
        headers = connection.getresponse().headers
    assert (headers["Cache-Control"], headers["X-Frame-Options"]) == ("no-store", "DENY")
    assert (headers["Cross-Origin-Resource-Policy"], headers["X-Content-Type-Options"]) == ("same-origin", "nosniff")


def test_half_a_review_is_not_judged(served):
    with socket.create_connection(served, timeout=20) as raw:
        raw.sendall(b"POST / HTTP/1.0\r\nHost: localhost:1\r\nContent-Length: 100\r\n\r\ntext=lovely")
        raw.shutdown(socket.SHUT_WR)
        assert raw.recv(1) == b""


def test_reviews_asked_for_at_once_each_get_their_own_page(served, reader):
    texts = ["lovely film", "dull film", "a warm and funny story", "boring hollow music in a dreadful scene"]
    expected = [reader.look(text)["contributions"] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: data_of(post(served, text)[1]), texts * 3))
    assert [data["text"] for data in answers] == texts * 3
    for data, contributions in zip(answers, expected * 3, strict=True):
        assert data["contributions"] == pytest.approx(contributions, abs=1e-6)


def test_a_client_that_says_nothing_keeps_nobody_waiting_and_is_let_go():
    with server(str.upper, "hello", 0) as running:
        assert 0 < running.RequestHandlerClass.timeout <= 10
        running.RequestHandlerClass.timeout = 3600
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        with socket.create_connection(running.server_address):
            assert ask(running.server_address, "GET", "/") == (200, "HELLO")
        running.RequestHandlerClass.timeout = 0.1
        with socket.create_connection(running.server_address, timeout=20) as silent:
            silent.sendall(b"POST / HTTP/1.0\r\nHost: localhost:1\r\nContent-Length: 100\r\n\r\ntext=")
            assert silent.recv(1) == b""  # closed by the other side
        running.shutdown()
        thread.join()


def test_a_taken_port_is_told(served):
    with pytest.raises(UserError, match=rf"--port {served[1]}: Address already in use; try another"):
        server(str.upper, "", served[1])


def test_the_command_serves_until_ctrl_c_and_ends_quietly(finished):
    command = [sys.executable, "-m", "distilbert.look", REVIEW, "--serve", "--port", "0", "--model", str(finished.directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = int(re.match(r"http://127\.0\.0\.1:(\d+)/  \(Ctrl-C ends it\)", process.stdout.readline())[1])
            status, html = ask(("127.0.0.1", port), "GET", "/")
            assert status == 200 and data_of(html)["text"] == REVIEW  # the review of the command line comes first
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0 and process.stderr.read() == ""
        finally:
            process.kill()


# ---- in a browser


@pytest.fixture(scope="module")
def chrome():
    if chromium.found() is None:
        reason = "no browser: the page was NOT tested in one; on Debian: apt-get install chromium chromium-driver"
        warnings.warn(reason, stacklevel=1)  # pytest repeats it at the end, where a mere skip is one letter
        pytest.skip(reason)
    with chromium.opened() as browser:
        yield browser


@pytest.fixture
def show(chrome, reader, tmp_path):
    """Opens the page of a review and returns what it was told."""

    def show(text: str, width: int = 1000, dark: bool = False, max_length: int = 512, **changes) -> dict:
        data = dataclasses.replace(reader, max_length=max_length).look(text) | changes
        (tmp_path / "look.html").write_text(page(data), encoding="utf-8")
        chrome.screen(width, dark=dark)
        chrome.open((tmp_path / "look.html").as_uri())
        return data

    yield show
    assert chrome.complaints() == []


def texts(chrome, selector: str) -> list[str]:
    return chrome.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((element) => element.textContent)")


def test_the_page_shows_verdict_words_layers_and_heads(chrome, show):
    data = show(REVIEW)
    assert texts(chrome, "#label") == [data["label"]]
    assert float(texts(chrome, "#confidence")[0].strip("<> \xa0%")) == pytest.approx(100 * data["confidence"], abs=0.51)
    assert texts(chrome, "title")[0].startswith(data["label"])
    assert texts(chrome, "#words .text") == [REVIEW]
    words = texts(chrome, "#words [role=option]")
    assert "".join(words) == "".join(REVIEW.split()) and "Dull" in words
    colours = dict(
        zip(words, chrome.run("[...document.querySelectorAll('#words [role=option]')].map((e) => e.className)"), strict=True)
    )
    assert "toward0" in colours["Dull"] and "toward1" in colours["lovely"]  # the toy task taught it so
    assert texts(chrome, "#top0 th")[0] in ("Dull", "clumsy") and len(texts(chrome, "#top1 th")) >= 3
    assert texts(chrome, "#blocks tbody th, #blocks table > tr th") == ["Embeddings", "Block 1", "Block 2"]
    assert len(texts(chrome, "#attention .grid [role=option]")) == 2 * 4
    pieces = texts(chrome, "#attention .text [role=option]")
    assert (pieces[0], pieces[-1], len(pieces)) == ("[CLS]", "[SEP]", len(data["pieces"]))
    assert "Not calibrated" in texts(chrome, "#calibrated")[0]
    assert chrome.run("document.querySelector('#form').checkVisibility()") is False


def test_a_calibrated_verdict_says_so(chrome, show):
    show("lovely", calibration={"temperature": 1.25, "fitted_on": 2000})
    assert "divided by 1.25, the temperature fitted on 2,000 held-out" in texts(chrome, "#calibrated")[0]


def test_a_temperature_that_nobody_says_where_from_is_said_all_the_same(chrome, show):
    show("lovely", calibration={"temperature": 2, "fitted_on": 0})
    assert "Calibrated: the logits were divided by 2.00, so that" in texts(chrome, "#calibrated")[0]


@pytest.mark.parametrize("text", ["Loved it \u2764\ufe0f", "a cafe\u0301", "lovely mefi\u0301lm", "dull\u00adness"])
def test_what_the_tokenizer_leaves_out_stands_on_the_page(chrome, show, text):
    show(text)
    assert texts(chrome, "#words .text") == [text]
    assert texts(chrome, "#attention .text")[0].strip() == f"[CLS] {text} [SEP]"


def test_what_was_not_read_is_said_in_its_place(chrome, show):
    show("dull " * 20 + "film " * 20 + "lovely " * 20, max_length=12)
    assert texts(chrome, "#words .text") == ["dull dull … 50 pieces not read … " + " ".join(["lovely"] * 8)]


def test_the_sum_on_the_page_adds_up(chrome, show):
    data = show(REVIEW)
    baseline, words, error, decision = (
        float(term.replace("−", "-").removeprefix("= ")) for term in texts(chrome, "#sum dd")[:4]
    )
    assert decision == pytest.approx(data["decision"], abs=0.006) and baseline + words + error == pytest.approx(
        decision, abs=0.02
    )


@pytest.mark.parametrize("text", ["lovely superb film", "dull awful film"])
def test_needle_layers_and_sum_say_how_positive_the_decision_is(chrome, show, text):
    data = show(text)

    def number(said: str) -> float:
        return float(said.replace("−", "-").strip("<> \xa0%"))

    def percent(log_odds: float) -> float:
        return pytest.approx(100 / (1 + math.exp(-log_odds)), abs=0.51)

    def middle(selector: str) -> float:
        return chrome.run(f"(({{ x, width }}) => x + width / 2)(document.querySelector('{selector}').getBoundingClientRect())")

    assert (middle("#needle") > middle(".scale")) == (data["decision"] > 0) == text.startswith("lovely")
    found = list(map(number, texts(chrome, "#blocks td.number")))
    for log_odds, said, share in zip(data["decisions"], found[::2], found[1::2], strict=True):
        assert said == pytest.approx(log_odds, abs=0.006) and share == percent(log_odds)
    assert number(texts(chrome, "#sum dd")[4]) == percent(data["decision"])


def test_each_square_shows_its_own_head_and_the_text_is_shaded_by_what_the_chosen_piece_looks_at(chrome, show):
    data = show(REVIEW)
    T = len(data["pieces"])
    roots = np.sqrt(unpacked(data)).reshape(-1, T, T)
    for head in (0, 3, 6):
        pixels = f"document.querySelectorAll('.grid canvas')[{head}].getContext('2d').getImageData(0, 0, {T}, {T}).data"
        alpha = chrome.run(f"[...{pixels}].filter((_, i) => i % 4 === 3)")
        assert np.abs(np.array(alpha) - 255 * roots[head].ravel() / roots[head].max()).max() <= 1
    chrome.press("Tab", "Tab", "Tab", "Right", "Right")
    shares = "[...document.querySelectorAll('#attention .text [role=option]')].map((e) => +e.style.getPropertyValue('--share'))"
    row = roots[4, 2]  # the first head of the last layer, and the third piece
    assert chrome.run(shares) == pytest.approx((0.62 * row / row.max()).tolist(), abs=0.001)


def test_the_share_of_a_word_is_the_sum_of_its_pieces(chrome, show):
    data = show("lovely mefilm dull")  # a word that the toy vocabulary has to spell
    shares = [c for piece, c in zip(data["pieces"], data["contributions"], strict=True) if piece["word"] == 2]
    assert len(shares) > 2 and abs(sum(shares) - shares[-1]) > 0.01
    name = chrome.run("document.querySelectorAll('#words [role=option]')[1].ariaLabel")
    assert float(name.split()[1].replace("−", "-")) == pytest.approx(sum(shares), abs=0.006)


def focused(chrome) -> str:
    """The accessible name of what has the focus."""
    return chrome.run("document.activeElement.getAttribute('aria-label') ?? document.activeElement.tagName")


def told(data: dict, layer: int, head: int, row: int) -> list[tuple[str, float]]:
    """The five pieces that a piece looks at most, and how much."""
    weights = unpacked(data)[layer, head, row]
    return [(data["pieces"][i]["piece"], weights[i]) for i in np.argsort(-weights, kind="stable")[:5]]


def test_everything_can_be_reached_and_chosen_with_the_keyboard_alone(chrome, show):
    data = show(REVIEW)
    chrome.press("Tab")
    assert "toward" in focused(chrome)  # the strongest word
    chrome.press("Home")
    assert focused(chrome).startswith("A,") and texts(chrome, "#words .detail")[0].startswith("A ")
    chrome.press("Right")
    assert focused(chrome).startswith("Dull,") and "toward Negative" in texts(chrome, "#words .detail")[0]
    chrome.press("Left", "Left", "End")
    assert focused(chrome).startswith("!,")

    chrome.press("Tab")
    assert focused(chrome) == "Block 2, head 1"
    chrome.press("Right", "Right", "Up")
    assert focused(chrome) == "Block 1, head 3"
    assert chrome.run("document.querySelectorAll('#attention .grid [aria-selected=true]').length") == 1
    chrome.press("Tab")
    assert focused(chrome) == "[CLS]"
    chrome.press("Right", "Right")
    assert focused(chrome) == "dull"
    said = texts(chrome, "#attention .detail")[0]
    assert said.startswith("Block 1, head 3: dull looks most at")
    shown = re.findall(r"(\S+) ([<>]? ?[\d.]+)\xa0%", said.partition(" at")[2])
    for (name, percent), (expected, weight) in zip(shown, told(data, 0, 2, 2), strict=True):
        assert name == expected and float(percent.strip("<> ")) == pytest.approx(100 * weight, abs=0.6)
    chrome.press("Down")  # to the review's second line
    assert chrome.run("document.activeElement.textContent") in ("is", "warm", "&", "moving")
    chrome.press("Tab")
    assert focused(chrome) == "SUMMARY"


def test_a_word_a_head_and_a_row_can_be_chosen_with_the_mouse(chrome, show):
    show(REVIEW)
    chrome.click("#words [role=option]:nth-of-type(2)")
    assert texts(chrome, "#words .detail")[0].startswith("Dull ")
    chrome.click("#attention .grid [title='Block 1, head 4']")
    assert texts(chrome, "#attention .detail")[0].startswith("Block 1, head 4: [CLS]")
    chrome.click("#attention .whole canvas")  # its middle
    middle = chrome.run(
        "[...document.querySelectorAll('#attention .text [role=option]')].findIndex((e) => e.ariaSelected === 'true')"
    )
    assert middle == len(texts(chrome, "#attention .text [role=option]")) // 2


def test_rows_of_the_last_layer_that_nobody_reads_are_said_to_be_such(chrome, show):
    show(REVIEW)
    assert chrome.run("document.querySelector('#unused').hidden") is True  # [CLS]
    chrome.press("Tab", "Tab", "Tab", "Right")
    assert chrome.run("document.querySelector('#unused').hidden") is False
    assert "only the row of [CLS] reaches the decision" in texts(chrome, "#unused")[0]


@pytest.mark.parametrize("width", [320, 375, 1000])
@pytest.mark.parametrize("text", [REVIEW, "Incomprehensibilities" * 30 + " dull " * 60])
def test_nothing_is_wider_than_the_screen_and_heads_are_large_enough_to_touch(chrome, show, width, text):
    show(text, width)
    assert chrome.run("document.documentElement.scrollWidth") == chrome.run("window.innerWidth") == width
    beyond = "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth).length"
    assert chrome.run(beyond) == 0
    assert chrome.run("document.querySelector('.grid canvas').getBoundingClientRect().width") >= 24


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_what_is_behind_it(chrome, show, dark):
    """A contrast of 4.5 to 1 (WCAG 2.2, 1.4.3), with the backgrounds laid over each other as the browser does."""
    show(REVIEW, dark=dark)
    assert (chrome.run("matchMedia('(prefers-color-scheme: dark)').matches")) is dark
    script = """(() => {
      const numbers = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
      const over = ([r, g, b, a = 1], below) => [r, g, b].map((c, i) => a * c + (1 - a) * below[i]);
      const behind = (e) => e ? over(numbers(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
      const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      return [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && e.tagName !== "SCRIPT"
          && [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((e) => {
        const [one, two] = [light(numbers(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
        return [(one + 0.05) / (two + 0.05), e.textContent.slice(0, 30)];
      }).sort((a, b) => a[0] - b[0]);
    })()"""
    contrasts = chrome.run(script)
    assert len(contrasts) > 60 and contrasts[0][0] >= 4.5, contrasts[:5]


def test_a_review_that_contains_a_script_is_shown_and_not_run(chrome, show):
    show(ATTACK)
    assert texts(chrome, "#words .text") == [ATTACK]
    assert "taken" not in texts(chrome, "title")[0]
    assert chrome.run("document.querySelectorAll('script').length") == 2 and chrome.run("document.images.length") == 0


def test_a_model_whose_names_contain_a_script_does_not_run_it_either(chrome, show):
    show("lovely", label=ATTACK, labels=[ATTACK, ATTACK], model=ATTACK)
    assert texts(chrome, "#label") == [ATTACK] == texts(chrome, "#sum div:last-child dt")
    assert chrome.run("document.querySelectorAll('script').length") == 2 and chrome.run("document.images.length") == 0


def test_the_page_loads_nothing(chrome, show):
    show(REVIEW)
    assert chrome.run("performance.getEntriesByType('resource').map((entry) => entry.name)") == []


def test_a_review_is_typed_sent_and_shown(chrome, served):
    chrome.screen(375)
    chrome.open(f"http://127.0.0.1:{served[1]}/")
    assert focused(chrome) == "Your review" and chrome.run("document.querySelector('#main').hidden") is True
    assert "kept nowhere" in texts(chrome, "#invitation:not([hidden])")[0]
    chrome.press("Lovely <b>music</b>", "Tab", "Enter")
    chrome.wait("document.documentElement.dataset.ready === 'yes'")
    assert texts(chrome, "#words .text") == ["Lovely <b>music</b>"]
    assert chrome.run("document.querySelector('textarea').value") == "Lovely <b>music</b>"
    assert chrome.run("document.querySelector('button').disabled") is False
    chrome.run("document.querySelector('textarea').select()")
    chrome.press(" ", "Tab", "Enter")
    chrome.wait("document.querySelector('#error').checkVisibility()")
    assert "nothing to read" in texts(chrome, "#error")[0] and chrome.complaints() == []
