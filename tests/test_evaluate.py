"""evaluate.py: the run's own figures again, other data, calibration, errors, single texts."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import TINY, imdb_members, train_and_record, write_tar, write_toy_corpus
from matplotlib.axes import Axes
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

import evaluate
import train_cls
from data.sources import Part, load, prepare
from distilbert import DistilBertForSequenceClassification, DistilBertModel, Tokenizer, hub, infer_reviews
from distilbert.calibration import fit_temperature
from distilbert.curves import draw_judgements
from distilbert.errors import UserError
from distilbert.files import fingerprint
from distilbert.held_out import leave_out_known, write_known
from distilbert.logits import predict_logits
from distilbert.metrics import softmax, wilson_interval
from distilbert.mistakes import NEGATION

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished.directory, tmp_path / "run"))


@pytest.fixture
def other(tmp_path) -> Path:
    """Eleven texts that no run has seen, with three labels wrong on purpose."""
    path = write_toy_corpus(tmp_path / "other.films.jsonl", count=11, seed=5)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for i in (1, 4, 8):
        rows[i]["label"] = 1 - rows[i]["label"]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def judged(monkeypatch) -> list[np.ndarray]:
    """The logits of each part that evaluate.py judges, in order."""
    seen = []
    monkeypatch.setattr(evaluate, "predict_logits", lambda *args: seen.append(predict_logits(*args)) or seen[-1])
    return seen


@pytest.fixture
def two(monkeypatch) -> None:
    """Two is the temperature that fits: the run judges all its texts right, and then there is none."""
    monkeypatch.setattr(evaluate, "fit_temperature", lambda *_: 2.0)


def measure(run: Path, *flags) -> dict:
    """Runs evaluate.py and returns what it wrote about the data."""
    for old in run.glob("eval-*.json"):
        os.utime(old, (0, 0))
    evaluate.main(["--model", str(run), "--precision", "fp32", *map(str, flags)])
    (written,) = (path for path in run.glob("eval-*.json") if path.stat().st_mtime > 0)
    return json.loads(written.read_text())


def as_if_made_with(run: Path, changes: dict) -> None:
    """Changes the flags that the run says it was made with; its record then no longer says of which texts."""
    stored, record = run / "checkpoint" / "arguments.json", run / "run.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | changes))
    said = json.loads(record.read_text())
    said["data"] = {name: value for name, value in said["data"].items() if "fingerprint" not in name}
    record.write_text(json.dumps(said))


def test_the_runs_own_logits_and_figures_come_out_again(finished, run, judged, capsys):
    found = measure(run)
    np.testing.assert_allclose(judged[0], finished.test_logits, rtol=0, atol=1e-5)
    recorded = json.loads((run / "run.json").read_text())["metrics"]["test"]
    for name, value in recorded.items():
        exact = name in ("n", "confusion_matrix")
        assert found[name] == (value if exact else pytest.approx(value, abs=1e-5)), name
    assert (run / "eval-toy.json").exists() and (found["data"], found["part"], found["max_length"]) == ("toy", "test", 48)
    said = capsys.readouterr().out
    assert f"accuracy   {recorded['accuracy']:.4f}" in said and f"roc_auc    {recorded['roc_auc']:.4f}" in said


def test_the_printed_matrix_has_what_a_text_is_in_rows_and_what_was_said_of_it_in_columns(capsys):
    evaluate.print_metrics(
        "toy", {"n": 16, "accuracy": 0.8125, "accuracy_interval": (0.5, 0.9), "confusion_matrix": [[6, 2], [1, 7]]}
    )
    assert re.search(r"said +Negative +Positive\n +is Negative +6 +2\n +is Positive +1 +7\n", capsys.readouterr().out)


def test_what_evaluation_writes_names_no_path(run):
    measure(run)
    text = (run / "eval-toy.json").read_text()
    assert "private-folder" not in text and str(run.parent) not in text


def test_without_calibrate_nothing_but_the_figures_is_written_and_named(run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    measure(run)
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {run / "eval-toy.json", run / "eval-toy.svg"} and after.items() >= before.items()
    assert capsys.readouterr().out.endswith(f"wrote eval-toy.json, eval-toy.svg in {run}\n")


def test_who_stops_reading_the_errors_loses_no_figures(run, monkeypatch):
    def nobody_reads(*_):
        raise BrokenPipeError

    monkeypatch.setattr(evaluate, "print_errors", nobody_reads)
    with pytest.raises(BrokenPipeError):
        measure(run, "--errors", 3)
    assert "confident_mistakes" in json.loads((run / "eval-toy.json").read_text())


def test_a_picture_that_could_not_be_drawn_is_not_said_to_be_written(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    measure(run)
    assert capsys.readouterr().out.endswith(f"wrote eval-toy.json in {run}\n") and not (run / "eval-toy.svg").exists()


def test_the_picture_shows_the_matrix_and_how_sure_the_model_was(run, two):
    measure(run, "--calibrate")
    picture = (run / "eval-toy.svg").read_text()
    assert all(f"<!-- {words} -->" in picture for words in ("confusion matrix", "reliability", "as trained", "calibrated"))


def test_the_pictures_numbers_are_the_matrix_and_its_line_is_accuracy_over_confidence(tmp_path, monkeypatch):
    drawn, placed, text = [], [], Axes.text
    monkeypatch.setattr(Axes, "text", lambda axes, *at, **style: placed.append(at) or text(axes, *at, **style))
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda _, x, y, **style: drawn.append((list(x), list(y))))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda _: None)
    bins = np.array([2, 0, 4]), np.array([1, 0, 3]), np.array([1.2, 0.0, 3.8])  # texts, right ones, summed confidence
    draw_judgements([[7, 2], [1, 6]], {"as trained": bins}, tmp_path / "picture.svg")
    assert re.findall(r"<!-- (\d+) -->", (tmp_path / "picture.svg").read_text()) == ["7", "2", "1", "6"]
    assert placed == [(0, 0, "7"), (1, 0, "2"), (0, 1, "1"), (1, 1, "6")]  # x: said, y: is, downwards
    assert drawn == [([0.5, 1], [0.5, 1]), ([0.6, 0.95], [0.5, 0.75])]


def test_each_part_of_the_runs_data_can_be_measured(run):
    assert [measure(run, "--part", part)["n"] for part in ("train", "validation", "test")] == [128, 16, 16]
    assert measure(run, "--part", "train", "--eval_size", 9)["n"] == 9 and measure(run, "--eval_size", 10)["n"] == 10


def test_a_run_that_kept_breaks_is_measured_with_them(run, monkeypatch):
    path, kept = run / "checkpoint" / "arguments.json", []
    monkeypatch.setattr(evaluate, "load", lambda *args, **named: kept.append(args[2]) or load(*args, **named))
    for keep in (False, True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"keep_breaks": keep}))
        measure(run)
    assert kept == [False, True]


@pytest.mark.parametrize("keep", [False, True])
def test_the_training_part_is_measured_without_the_leaks_that_the_run_dropped(run, corpus, keep):
    rows = [json.loads(line) for line in corpus.read_text().splitlines()[:24]]
    parts = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4
    rows = [row | {"split": part} for row, part in zip(rows, parts, strict=True)]
    rows[0]["text"] = rows[20]["text"]  # line 1 of train stands in test, too
    path = run.parent / "leaky.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    as_if_made_with(run, {"data": str(path), "keep_duplicates": keep, "train_size": None})
    assert measure(run, "--part", "train")["n"] == 15 + keep


def test_the_number_format_is_that_of_the_weights(run, judged):
    formats = [measure(run)["number_format"], measure(run, "--precision", "bf16")["number_format"]]
    np.testing.assert_allclose(judged[0], judged[1], rtol=0, atol=0.03)
    assert formats == ["fp32", "bf16"] and not np.allclose(judged[0], judged[1], rtol=0, atol=1e-4)


def test_the_device_is_compared_with_the_cpu_before_it_measures(run, judged, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "check_device", lambda model, device: asked.append((device, len(judged))))
    measure(run)
    assert asked == [("cpu", 0)]


def test_the_subset_that_the_run_was_tested_on_is_measured_again(corpus, tmp_path, judged):
    flags = [*TINY, "--data", str(corpus), "--eval_size", "6", "--seed", "3", "--max_steps", "1"]
    expected = train_and_record([*flags, "--output_dir", str(tmp_path / "run")])
    assert measure(tmp_path / "run")["n"] == 6
    np.testing.assert_allclose(judged[0], expected, rtol=0, atol=1e-5)


def test_a_run_without_its_checkpoints_is_read_as_it_was_trained(run, corpus, judged, monkeypatch):
    expected = measure(run)
    shutil.rmtree(run / "checkpoint")
    refused(rf"{run} was trained on {corpus.name}, which is not here; give --data", "--model", run)
    monkeypatch.chdir(corpus.parent)  # its record names the file alone
    assert measure(run) == expected
    assert (judged[0] == judged[1]).all()
    (run / "run.json").write_text('{"arguments": 7}')
    refused("arguments is 7, expected an object", "--model", run)


def test_a_run_that_was_put_on_the_hub_is_measured_as_it_was_trained(run, corpus, tmp_path, monkeypatch):
    from_hub = tmp_path / "from-hub"
    from_hub.mkdir()
    for path in run.iterdir():
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in hub.FILES):
            shutil.copy(path, from_hub)
    found = [measure(place, "--data", corpus) for place in (run, from_hub)]
    assert found[0] == found[1] and (found[1]["n"], found[1]["max_length"]) == (16, 48)
    renamed = shutil.copy(corpus, tmp_path / "renamed.jsonl")
    monkeypatch.chdir(tmp_path)
    assert measure(from_hub, "--data", renamed)["n"] == 16


def test_nothing_is_written_into_a_downloaded_model(run, other, monkeypatch):
    monkeypatch.setattr(evaluate, "locate", lambda name: run)
    before = sorted(run.rglob("*"))
    evaluate.main(["--model", "owner/name", "--precision", "fp32", "--data", str(other)])
    assert sorted(run.rglob("*")) == before


def test_the_training_part_is_what_the_run_was_trained_on(run, corpus, judged):
    as_if_made_with(run, {"train_size": 24})
    found = measure(run, "--part", "train")
    assert found["n"] == 24 and (found["split"], found["truncation"], found["number_format"]) == (
        "official",
        "head-tail",
        "fp32",
    )
    texts = prepare(load(str(corpus)), train_size=24)[0]["train"].texts
    model = DistilBertForSequenceClassification.from_pretrained(run)
    expected = infer_reviews(texts, model, Tokenizer.from_pretrained(run))
    np.testing.assert_allclose(softmax(judged[0]).max(axis=1), [confidence for *_, confidence in expected], rtol=0, atol=1e-5)


def test_a_temperature_of_other_data_leaves_the_runs_own_alone(run, two, tmp_path):
    measure(run, "--calibrate")
    before = (run / "calibration.json").read_bytes()
    assert json.loads(before)["data"] == "toy"
    elsewhere = write_toy_corpus(tmp_path / "elsewhere.jsonl", count=40, seed=9)
    rows = map(json.loads, elsewhere.read_text().splitlines())
    parts = ["validation"] * 20 + ["test"] * 20
    lines = [json.dumps(row | {"split": part}) for row, part in zip(rows, parts, strict=True)]
    elsewhere.write_text("\n".join(lines))
    measure(run, "--data", elsewhere, "--calibrate")
    assert (run / "calibration.json").read_bytes() == before and (run / "calibration-elsewhere.json").exists()


@pytest.mark.parametrize(
    "flags",
    [["--max_length", 9], ["--truncation", "tail"], ["--eval_size", 8], ["--part", "train"], ["--split", "seed-b"]],
)
def test_a_temperature_of_another_measurement_leaves_the_runs_own_alone(run, two, flags):
    measure(run, "--calibrate")
    before = (run / "calibration.json").read_bytes()
    measure(run, "--calibrate", *flags)
    assert (run / "calibration.json").read_bytes() == before and len(list(run.glob("calibration-toy*.json"))) == 1


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_text_without_a_word_is_refused(run, text):
    with pytest.raises(UserError, match=r"--text .* nothing to judge"):
        evaluate.main(["--model", str(run), "--text", text])


def test_half_a_character_is_refused(run):
    refused("its bytes are not UTF-8", "--model", run, "--text", "caf\udce9")


def test_a_calibration_without_a_validation_part_is_refused_before_anything_is_judged(run, other, judged):
    with pytest.raises(UserError, match=r"other\.films\.jsonl: has no validation part; only test; .* column split"):
        measure(run, "--data", other, "--calibrate")
    assert judged == [] and not (run / "calibration.json").exists()


def test_another_part_leaves_the_record_of_the_test_part_alone(run):
    measure(run)
    before = (run / "eval-toy.json").read_bytes()
    assert measure(run, "--part", "validation")["part"] == "validation"
    assert (run / "eval-toy.json").read_bytes() == before and (run / "eval-toy-validation.json").exists()


def test_a_temperature_is_not_measured_on_the_texts_it_is_fitted_on(run):
    with pytest.raises(UserError, match="--part"):
        measure(run, "--calibrate", "--part", "validation")


def made_on_imdb(run: Path, split: str, data: str | None = None) -> Path:
    """The run, as if it had been trained on a small IMDb, which it returns; `data`: what it called it."""
    archive = write_tar(run.parent / "imdb.tar.gz", imdb_members(per_class=20))
    as_if_made_with(run, {"data": data or str(archive), "split": split})
    write_known(prepare(load(str(archive), split))[0], run)
    return archive


@pytest.mark.parametrize(
    ("made", "asked", "flags"),
    [
        ("seed-b", "official", ("--part", "validation")),
        ("seed-b", "official", ("--calibrate",)),
        ("official", "seed-b", ("--part", "validation")),
        ("seed-a", "official", ()),
        ("seed-a", "seed-b", ("--part", "validation")),
    ],
    ids=str,
)
@pytest.mark.parametrize("called", [None, "imdb", "/elsewhere/aclImdb"])
def test_another_split_is_refused_where_it_holds_out_what_the_run_was_trained_or_chosen_on(run, made, asked, flags, called):
    archive = made_on_imdb(run, made, called)
    with pytest.raises(UserError, match=f"--split {asked}.* made with --split {made}.*leave --split out"):
        measure(run, "--data", archive, "--split", asked, *flags)


@pytest.mark.parametrize(
    ("made", "asked", "flags", "n"),
    [
        ("official", "seed-a", (), 32),
        ("official", "seed-a", ("--part", "validation"), 8),
        ("seed-b", "official", (), 40),
        ("seed-a", "seed-b", ("--part", "train"), 36),
        ("seed-a", "seed-a", ("--part", "validation"), 8),
        ("seed-a", "", (), 32),  # the run's own
        ("seed-b", "seed-b", ("--part", "validation"), 4),
    ],
    ids=str,
)
def test_another_split_is_measured_where_it_holds_out_what_the_run_has_not_seen(run, made, asked, flags, n):
    made_on_imdb(run, made)
    assert measure(run, "--split", asked, *flags)["n"] == n


def test_imdb_is_looked_at_for_changes_by_the_runs_own_split(run):
    archive = made_on_imdb(run, "official")
    record = json.loads((run / "run.json").read_text())
    parts, _ = prepare(load(str(archive)))
    record["data"]["fingerprint"] = fingerprint(text for name in ("train", "validation", "test") for text in parts[name].texts)
    (run / "run.json").write_text(json.dumps(record))
    assert [measure(run)["n"], measure(run, "--split", "seed-a")["n"]] == [40, 32]
    record["data"]["fingerprint"] = "of other texts"
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="are not those"):
        measure(run)


@pytest.mark.parametrize(
    ("made", "flags"),
    [("seed-b", ("--part", "validation")), ("seed-b", ("--calibrate",)), ("seed-a", ()), ("seed-a", ("--calibrate",))],
    ids=str,
)
@pytest.mark.parametrize("called", ["imdb", "another.tar.gz"])
def test_the_runs_split_is_refused_on_another_copy_of_imdb_whose_order_may_be_another(run, made, flags, called):
    archive = made_on_imdb(run, made, called)
    with pytest.raises(UserError, match=f"imdb.tar.gz: .* made with --split {made} of {called}.* Leave --data out"):
        measure(run, "--data", archive, *flags)


@pytest.mark.parametrize(
    ("made", "flags", "n"), [("seed-b", (), 40), ("official", ("--part", "validation"), 4), ("seed-a", ("--part", "train"), 40)]
)
def test_another_copy_of_imdb_is_measured_where_its_order_does_not_matter(run, made, flags, n):
    assert measure(run, "--data", made_on_imdb(run, made, "imdb"), *flags)["n"] == n


@pytest.mark.parametrize("flags", [("--part", "validation"), ("--calibrate",)], ids=str)
def test_a_model_that_is_no_run_of_ours_is_measured_on_every_split(run, flags):
    archive = made_on_imdb(run, "official")
    shutil.rmtree(run / "checkpoint")
    (run / "run.json").unlink()
    (run / "known.hashes").unlink()
    assert measure(run, "--data", archive, "--split", "seed-b", *flags)["split"] == "seed-b"


def test_a_split_of_other_data_than_imdb_means_nothing_and_is_not_refused(run):
    assert measure(run, "--split", "seed-b", "--part", "validation")["n"] == 16


def test_a_file_of_one_class_is_told_nothing_of_a_cut_that_it_has_not_had(run, other):
    other.write_text('{"text": "lovely", "label": 1}\n' * 3)
    with pytest.raises(UserError, match=r"0 texts of class 0, expected at least two of each$"):
        measure(run, "--data", other)


@pytest.mark.parametrize(("flags", "fitted"), [(("--part", "train", "--eval_size", "6"), 6), (("--part", "train"), 16)])
def test_the_subset_is_of_the_part_to_calibrate_on_too(run, judged, flags, fitted):
    measure(run, "--calibrate", *flags)
    assert [len(logits) for logits in judged] == [6 if fitted == 6 else 128, fitted]


def test_another_file_without_parts_is_measured_whole(run, other):
    found = measure(run, "--data", other)
    assert (run / "eval-other.films.json").exists() and found["n"] == 11
    assert np.trace(found["confusion_matrix"]) == 8 == round(found["accuracy"] * 11)


def test_the_dev_set_of_sst2_is_measured_whole(run, other):
    rows = [json.loads(line) for line in other.read_text().splitlines()]
    path = other.with_name("dev.tsv")
    path.write_text("sentence\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows))
    found = measure(run, "--data", path)
    assert found["n"] == 11 and np.trace(found["confusion_matrix"]) == 8


def test_the_runs_own_file_under_another_spelling_is_still_cut_into_parts(run, corpus):
    assert measure(run, "--data", corpus.parent / ".." / corpus.parent.name / corpus.name)["n"] == 16


def test_a_file_of_the_runs_name_is_its_own_where_the_path_it_was_trained_by_does_not_hold(run, corpus, tmp_path, monkeypatch):
    """A table without parts would be measured whole otherwise, with the texts that the run was trained on."""
    as_if_made_with(run, {"data": corpus.name})
    monkeypatch.chdir(tmp_path)
    known = (run / "known.hashes").read_bytes()  # without which a stranger's table is measured whole, all 160
    (run / "known.hashes").unlink()
    assert measure(run, "--data", corpus)["n"] == 16
    (run / "known.hashes").write_bytes(known)
    write_toy_corpus(tmp_path / corpus.name, count=40, seed=9)  # now it holds, and is another file
    assert measure(run, "--data", corpus)["n"] == 16, "measured whole, but for what the run knows"
    (run / "known.hashes").unlink()
    assert measure(run, "--data", corpus)["n"] == 160


@pytest.mark.parametrize(
    "flags", [(), ("--calibrate",), ("--part", "train"), ("--eval_size", 6), ("--split", "seed-b")], ids=str
)
@pytest.mark.parametrize("path_holds", [True, False])
def test_a_table_that_has_grown_since_the_run_is_refused(run, corpus, tmp_path, monkeypatch, path_holds, flags):
    """Cut anew by the number of its rows, its test part would hold texts that the run was trained on."""
    grown = tmp_path / "grown" / corpus.name
    grown.parent.mkdir()
    more = write_toy_corpus(tmp_path / "more.jsonl", count=4, seed=9)
    grown.write_text(corpus.read_text().strip() + "\n" + more.read_text())
    stored = run / "checkpoint" / "arguments.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"data": str(grown) if path_holds else corpus.name}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"are not those that .* was made with.* a table of another name"):
        measure(run, "--data", grown, *flags)


@pytest.mark.parametrize("flags", [(), ("--errors", 2), ("--eval_size", 12)], ids=str)
def test_of_another_table_the_texts_that_the_run_knows_are_left_out_and_counted(run, corpus, tmp_path, capsys, flags):
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    rows = [row | {"text": f" {row['text'].upper()}\n"} for row in rows]  # which an uncased model can't tell from the others
    more = write_toy_corpus(tmp_path / "more.jsonl", count=4, seed=9)
    table = tmp_path / "another.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)) + "\n" + more.read_text())
    assert measure(run, "--data", table, *flags)["n"] == (12 if "--eval_size" in flags else 20)  # 16 of its test, and 4 new
    assert f"another.jsonl: 144 of 164 texts left out: {run} was trained or chosen on them" in capsys.readouterr().out
    assert measure(run, "--data", more)["n"] == 4 and "left out" not in capsys.readouterr().out


def test_a_table_of_texts_that_the_run_knows_is_refused_if_it_left_a_list_of_them(run, corpus, tmp_path, capsys):
    part = prepare(load(str(corpus)))[0]["train"]
    table = tmp_path / "known.jsonl"
    rows = [{"text": text, "label": int(label)} for text, label in zip(part.texts, part.labels, strict=True)]
    table.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"known\.jsonl: .* was trained or chosen on every text of it that was to be measured"):
        measure(run, "--data", table)
    (run / "known.hashes").unlink()  # a run of before there was such a list
    assert measure(run, "--data", table)["n"] == 128
    assert "has no known.hashes: whether it learnt from some of these texts is not looked at" in capsys.readouterr().out


def test_a_broken_list_of_known_texts_is_refused_and_gives_no_text_away(run, corpus, other):
    words = set(re.findall(r"\w{4,}", corpus.read_text())) - {"text", "label"}
    raw = (run / "known.hashes").read_bytes()
    assert len(raw) == 8 * 144 and not any(word.encode() in raw for word in words)
    (run / "known.hashes").write_bytes(raw[:-1])
    with pytest.raises(UserError, match=r"known\.hashes: is broken: it has 1151 bytes, expected 8 a text; remove it"):
        measure(run, "--data", other)


@pytest.mark.parametrize("what", ["parts", "labels"])
def test_texts_whose_parts_or_labels_have_changed_since_the_run_are_refused(run, corpus, tmp_path, monkeypatch, what):
    parts, _ = prepare(load(str(corpus)))
    rows = [
        {"text": text, "label": int(label), "split": name}
        for name in ("train", "validation", "test")
        for text, label in zip(parts[name].texts, parts[name].labels, strict=True)
    ]
    table = tmp_path / corpus.name
    monkeypatch.chdir(tmp_path)
    stored = run / "checkpoint" / "arguments.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"data": corpus.name}))
    table.write_text("\n".join(map(json.dumps, rows)))
    assert measure(run)["n"] == 16
    for row in rows[100:144] if what == "parts" else rows[-3:]:
        row |= {"split": "test"} if what == "parts" else {"label": 1 - row["label"]}
    table.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="its texts, or their parts or labels, are not those"):
        measure(run)


def test_of_a_runs_training_texts_no_more_are_measured_than_it_had(run, corpus):
    as_if_made_with(run, {"train_size": 24})
    assert measure(run, "--part", "train", "--eval_size", 40)["n"] == 24


@pytest.mark.parametrize("keep", [False, True])
def test_a_text_is_judged_with_its_breaks_as_in_training(run, judged, keep, capsys):
    as_if_made_with(run, {"keep_breaks": keep})
    for text in ("lovely<br /><br />dull dull", "lovely\n\ndull dull"):
        evaluate.main(["--model", str(run), "--precision", "fp32", "--text", text])
    assert np.array_equal(judged[0], judged[1]) != keep


def test_a_copy_of_the_file_that_the_run_was_trained_on_is_its_own_too(run, corpus, tmp_path):
    copy, known = shutil.copy(corpus, tmp_path / "copy.jsonl"), (run / "known.hashes").read_bytes()
    (run / "known.hashes").unlink()  # without it a stranger's table is measured whole
    assert measure(run, "--data", copy)["n"] == 16
    (run / "known.hashes").write_bytes(known)
    content = Path(copy).read_bytes()
    Path(copy).write_bytes(content.replace(b'"text": "', b'"text": "A', 1).replace(b" ", b"", 1))  # as many bytes, but others
    assert Path(copy).stat().st_size == corpus.stat().st_size
    assert measure(run, "--data", copy)["n"] == 17, "another table: the text that was changed is new, 143 others are known"


def test_length_and_truncation_are_the_runs_unless_given(run, judged, tmp_path):
    rows = [{"text": "dull " * 60 + "lovely " * 60, "label": i % 2} for i in range(4)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = json.loads((run / "run.json").read_text())["arguments"]["truncation"]
    for flags in ((), ("--truncation", own), ("--truncation", "head"), ("--truncation", "tail"), ("--max_length", 122)):
        measure(run, "--data", tmp_path / "long.jsonl", *flags)
    default, same, head, tail, whole = (float(logits[0, 1] - logits[0, 0]) for logits in judged)
    assert default == same and len({head, tail, whole}) == 3
    assert head < -1 and tail > 1  # dull 46 times, lovely 46 times


def test_a_model_that_transformers_wrote_is_measured_with_its_own_logits(finished, other, tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 200, "dim": 12, "hidden_dim": 20, "n_layers": 1, "n_heads": 3, "max_position_embeddings": 40}
    theirs = transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**sizes)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished.directory)
    tokenizer.save_pretrained(tmp_path / "theirs")
    rows = [json.loads(line) for line in other.read_text().splitlines()]
    rows[0]["text"] = " ".join(row["text"] for row in rows)  # longer than its positions
    other.write_text("\n".join(map(json.dumps, rows)))
    found = measure(tmp_path / "theirs", "--data", other)
    labels = [row["label"] for row in rows]
    with torch.inference_mode():
        batch = tokenizer([row["text"] for row in rows], padding=True, truncation=True, max_length=40, return_tensors="pt")
        scores = theirs(**batch).logits.softmax(dim=1).numpy()
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, scores.argmax(1)))
    assert found["f1"] == pytest.approx(f1_score(labels, scores.argmax(1)))
    assert found["roc_auc"] == pytest.approx(roc_auc_score(labels, scores[:, 1]))
    assert (found["max_length"], found["truncation"]) == (40, "head")  # its positions, and as transformers cuts


def test_a_text_is_judged_as_infer_reviews_does_and_nothing_is_written(run, capsys):
    before = sorted(run.rglob("*"))
    for text in ("a lovely warm film", "this dull and boring plot"):
        evaluate.main(["--model", str(run), "--precision", "fp32", "--text", text])
        _, label, confidence = infer_reviews(
            text, DistilBertForSequenceClassification.from_pretrained(run), Tokenizer.from_pretrained(run)
        )
        assert capsys.readouterr().out == f"{label} {confidence:.3f}  {text}\n"
    assert sorted(run.rglob("*")) == before


def test_a_long_text_is_cut_as_the_flag_says(run, capsys):
    verdicts = []
    for truncation in ("head", "tail"):
        evaluate.main(["--model", str(run), "--truncation", truncation, "--text", "dull " * 60 + "lovely " * 60])
        verdicts.append(capsys.readouterr().out.split()[0])
    assert verdicts == ["Negative", "Positive"]


def test_calibration_is_fitted_on_validation_and_leaves_the_accuracy(run, judged, tmp_path, capsys):
    rows = map(json.loads, write_toy_corpus(tmp_path / "noisy.jsonl", count=32, seed=3).read_text().splitlines())
    parts = [{"split": ("validation", "test")[i % 4 // 2]} for i in range(32)]
    wrong = {0, 5, 8, 2}  # three labels of validation and one of test: of all right ones no temperature is too small
    labelled = [
        row | part | {"label": row["label"] ^ (i in wrong)} for i, (row, part) in enumerate(zip(rows, parts, strict=True))
    ]
    corpus = tmp_path / "noisy.jsonl"
    corpus.write_text("\n".join(map(json.dumps, labelled)))
    as_if_made_with(run, {"data": str(corpus)})
    plain = measure(run)
    judged.clear()
    assert measure(run, "--calibrate") == plain
    test, held = judged
    found = json.loads((run / "calibration.json").read_text())
    parts = load(str(corpus))
    assert found["temperature"] == pytest.approx(fit_temperature(held, parts["validation"].labels), rel=1e-9)
    assert found["temperature"] != pytest.approx(fit_temperature(test, parts["test"].labels), rel=1e-6)
    assert (found["fitted_on"], found["n"]) == (16, 16)
    assert found["loss"]["before"] == plain["loss"] and found["ece"]["before"] == plain["ece"]
    assert f"temperature {found['temperature']:.3f}" in capsys.readouterr().out


def test_calibration_makes_an_overconfident_model_honest(run, monkeypatch, corpus):
    parts, order = load(str(corpus)), iter(["test", "validation"])

    def sure_of_all_and_right_in_three_of_four(*_):
        labels = parts[next(order)].labels
        said = np.where(np.arange(len(labels)) % 4 == 0, 1 - labels, labels)
        return 10 * np.eye(2, dtype=np.float32)[said]

    monkeypatch.setattr(evaluate, "predict_logits", sure_of_all_and_right_in_three_of_four)
    measure(run, "--calibrate")
    found = json.loads((run / "calibration.json").read_text())
    assert found["ece"]["before"] == pytest.approx(0.25, abs=1e-4) and found["ece"]["after"] < 1e-6
    assert found["loss"]["after"] < found["loss"]["before"] and found["brier"]["after"] < found["brier"]["before"]
    assert found["temperature"] == pytest.approx(10 / np.log(3), rel=1e-6)


@pytest.mark.parametrize("right", [True, False])
def test_where_no_temperature_fits_confidence_stays_as_it_is(run, monkeypatch, corpus, capsys, right):
    """All right: no T is too small. All wrong: none is too large."""
    parts, order = load(str(corpus)), iter(["test", "validation"])
    monkeypatch.setattr(
        evaluate, "predict_logits", lambda *_: np.eye(2, dtype=np.float32)[parts[next(order)].labels ^ (not right)]
    )
    assert measure(run, "--calibrate")["accuracy"] == right
    found = json.loads((run / "calibration.json").read_text())
    assert (found["temperature"], found["fitted_on"], found["n"]) == (1.0, 0, 16)
    assert all(found[figure]["before"] == found[figure]["after"] for figure in ("ece", "brier", "loss"))
    assert "temperature 1: the best one for these 16 validation texts lies outside 0.05 to 20" in capsys.readouterr().out


@pytest.mark.parametrize("count", [2, 20])
def test_errors_are_the_most_confident_mistakes_by_name(run, other, monkeypatch, capsys, count):
    judged = []
    surer = 1 / np.arange(11, 0, -1)[:, None]  # from text to text, lest the first mistakes be the surest anyway
    monkeypatch.setattr(evaluate, "predict_logits", lambda *args: judged.append(predict_logits(*args) * surer) or judged[-1])
    measure(run, "--data", other, "--errors", count)
    said = capsys.readouterr().out
    listed = re.findall(
        r"^  line (\d+): said (\w+) (0\.\d+): (.*)$", said.split("the most confident mistakes:")[1], re.MULTILINE
    )
    assert len(listed) == min(count, 3) and {number for number, *_ in listed} <= {"2", "5", "9"}
    confidences = [float(confidence) for *_, confidence, _ in listed]
    assert confidences == sorted(confidences, reverse=True)
    rows = [json.loads(line) for line in other.read_text().splitlines()]
    for number, verdict, _, text in listed:
        row = rows[int(number) - 1]
        assert verdict == ("Negative", "Positive")[1 - row["label"]] and row["text"].startswith(text)
    written = (run / "eval-other.films.json").read_text()
    kept = json.loads(written)["confident_mistakes"]
    sure = softmax(judged[0]).max(axis=1)
    assert [mistake["index"] for mistake in kept] == sorted((1, 4, 8), key=lambda i: -sure[i])[:count]
    assert [(mistake["name"], mistake["index"]) for mistake in kept] == [(f"line {i}", int(i) - 1) for i, *_ in listed]
    assert [(mistake["said"], f"{mistake['confidence']:.3f}") for mistake in kept] == [
        (("Negative", "Positive").index(verdict), confidence) for _, verdict, confidence, _ in listed
    ]
    assert not any(row["text"] in written for row in rows)


def test_errors_come_with_the_accuracy_of_each_kind_of_text(run, tmp_path, capsys):
    rows = [{"text": f"not a film, never {'this ' * i}dull and no scene", "label": i % 2} for i in range(12)]
    rows += [{"text": f"a lovely film {'this ' * i}", "label": 1} for i in range(3)]
    rows += [{"text": "not a film, never a lovely plot", "label": 1}]  # two negations are not three
    (tmp_path / "kinds.jsonl").write_text("\n".join(map(json.dumps, rows)))
    measure(run, "--data", tmp_path / "kinds.jsonl", "--errors", 1)
    said = capsys.readouterr().out
    sizes = [int(n) for n in re.findall(r"words, quarter \d .* n (\d+)$", said, re.MULTILINE)]
    assert sizes == [4, 4, 4, 4]
    assert re.search(r"three negations or more .* n 12$", said, re.MULTILINE) and re.search(
        r"fewer .* n 4$", said, re.MULTILINE
    )
    written = json.loads((run / "eval-kinds.json").read_text())
    kinds = written["kinds"]
    assert [figures["n"] for figures in kinds.values()] == [*sizes, 12, 4]
    quarters, negation = list(kinds.values())[:4], list(kinds.values())[4:]
    for figures in kinds.values():
        interval = wilson_interval(round(figures["accuracy"] * figures["n"]), figures["n"])
        assert tuple(figures["accuracy_interval"]) == pytest.approx(interval)
    for together in (quarters, negation):  # each text stands in one kind of either sort
        right = sum(figures["accuracy"] * figures["n"] for figures in together)
        assert right / 16 == pytest.approx(written["accuracy"])


def test_what_is_a_negation():
    text = "Not one didn't, NOBODY cannot, hardly without; nothing, none, never, no. Notable knots wont"
    found = "Not didn't NOBODY cannot hardly without nothing none never no"
    assert [match[0] for match in NEGATION.finditer(text)] == found.split()


def test_errors_of_imdb_are_told_apart_by_stars(run, tmp_path, capsys):
    for part in ("train", "test"):
        for i in range(30):
            folder = tmp_path / "aclImdb" / part / ("pos" if i % 2 else "neg")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}_{8 + i % 3 if i % 2 else 1 + i % 4}.txt").write_text(
                f"{'lovely' if i % 2 else 'dull'} film {i} {part}"
            )
    kinds = measure(run, "--data", tmp_path / "aclImdb", "--errors", 1)["kinds"]
    said = capsys.readouterr().out
    assert [int(stars) for stars in re.findall(r"(\d+) stars of 10", said)] == [1, 3, 8, 9, 10]
    assert [kinds[f"{stars} stars of 10"]["n"] for stars in (1, 3, 8, 9, 10)] == [8, 7, 5, 5, 5]


# ---- what is refused


def refused(match: str, *flags) -> None:
    with pytest.raises(UserError, match=match):
        evaluate.main(list(map(str, flags)))


def test_what_the_start_of_a_run_was_trained_on_is_known_to_the_run_too(finished, corpus, tmp_path, capsys):
    """A classifier goes on from another one, head and all: what that one has learnt is not held out from this one."""
    other, parts = write_toy_corpus(tmp_path / "other.jsonl", 80, seed=5), prepare(load(str(corpus)))[0]
    learnt = len(parts["train"]) + len(parts["validation"])
    for name, start in (("second", finished.directory), ("third", tmp_path / "second"), ("third", tmp_path / "third")):
        flags = ["--model", str(start), "--data", str(other), "--output_dir", str(tmp_path / name), "--overwrite"]
        train_cls.main([*flags, "--max_steps", "1", "--precision", "fp32", "--max_length", "48"])
        capsys.readouterr()
        measure(tmp_path / name, "--data", corpus)
        assert int(re.search(r"(\d+) of \d+ texts left out", capsys.readouterr().out)[1]) >= learnt


def test_a_run_that_tests_what_its_start_was_trained_on_says_so(finished, corpus, tmp_path, capsys):
    """A table without a column split is cut anew when it has grown."""
    grown, more = tmp_path / "grown.jsonl", write_toy_corpus(tmp_path / "more.jsonl", 40, seed=9)
    grown.write_text(corpus.read_text() + more.read_text())
    learnt = {text for name in ("train", "validation") for text in prepare(load(str(corpus)))[0][name].texts}
    expected = sum(text in learnt for text in prepare(load(str(grown)))[0]["test"].texts)
    assert expected
    for data, count in ((grown, expected), (corpus, 0)):
        flags = ["--model", str(finished.directory), "--data", str(data), "--output_dir", str(tmp_path / "run"), "--overwrite"]
        train_cls.main([*flags, "--max_steps", "1", "--precision", "fp32", "--max_length", "48"])
        found = re.search(r"(\d+) of \d+ test texts are ones that .* was trained or chosen on", capsys.readouterr().out)
        assert (int(found[1]) if found else 0) == count


def test_a_text_is_known_whatever_its_blanks_and_line_breaks(tmp_path):
    part = Part(["One\ntwo  three.", "Four<br /><br />five", "Six"], np.zeros(3), ["", "", ""])
    write_known({"train": part, "validation": part}, tmp_path)
    other = Part(["one\r\n two\u00a0three.", "four\n\nFive", "Seven"], np.zeros(3), ["", "", ""])
    assert leave_out_known(other, tmp_path, "other.csv").texts == ["Seven"]


def test_logits_that_are_no_numbers_are_not_counted(run):
    model = DistilBertForSequenceClassification.from_pretrained(run)
    with torch.no_grad():
        model.head.output.bias[1] = float("nan")
    with pytest.raises(UserError, match="for 3 of 3 texts the model's output is no number"):
        predict_logits(model, [np.array([2, 5, 3])] * 3, 0)


def test_figures_of_a_model_that_was_replaced_in_the_meantime_are_not_kept(run, monkeypatch):
    def replaced(*args):
        (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
        return predict_logits(*args)

    os.utime(run / "model.safetensors", (0, 0))
    monkeypatch.setattr(evaluate, "predict_logits", replaced)
    refused("model.safetensors was replaced in the meantime", "--model", run, "--precision", "fp32")
    assert not list(run.glob("eval-*"))


def test_an_untrained_head_is_refused_and_nothing_is_written(run, tmp_path):
    model = DistilBertForSequenceClassification.from_pretrained(run)
    bare = DistilBertModel(model.config)
    bare.save_pretrained(tmp_path / "bare")
    Tokenizer.from_pretrained(run).save_pretrained(tmp_path / "bare", 512)
    for flags in ((), ("--text", "lovely"), ("--calibrate",)):
        refused("no trained classifier.*train_cls.py --model", "--model", tmp_path / "bare", *flags)
    assert not [*(tmp_path / "bare").glob("eval-*"), *(tmp_path / "bare").glob("calibration.json")]


def test_a_model_of_three_classes_is_refused(run, tmp_path):
    config = DistilBertForSequenceClassification.from_pretrained(run).config
    labels = {0: "against", 1: "neutral", 2: "for"}
    three = DistilBertForSequenceClassification(config.replace(classifier_head="pre_classifier", id2label=labels))
    three.save_pretrained(tmp_path / "three")
    Tokenizer.from_pretrained(run).save_pretrained(tmp_path / "three", 512)
    refused("3 classes.*Negative and Positive", "--model", tmp_path / "three")


def test_a_model_that_calls_class_0_positive_judges_texts_and_is_not_measured(run, capsys):
    config = json.loads((run / "config.json").read_text()) | {"id2label": {"0": "POSITIVE", "1": "NEGATIVE"}}
    (run / "config.json").write_text(json.dumps(config))
    evaluate.main(["--model", str(run), "--text", "dull\ndull"])
    said = capsys.readouterr().out
    assert said.startswith("POSITIVE") and said.endswith("  dull dull\n")
    refused("calls class 0 POSITIVE and class 1 NEGATIVE; in every label here 0 is Negative", "--model", run)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["other", " negative"], None),
        ([" Pos", "x"], None),
        (["neg", "POS "], ""),
        (["bad", "good"], "calls its classes bad and good: taken for Negative and Positive"),
        ([None, "Positive"], "calls its classes None and Positive: taken for"),
        (["LABEL_0", "LABEL_1"], "its classes have no names; 0 is taken for Negative, 1 for Positive"),
        ([], "its classes have no names; 0 is taken for Negative, 1 for Positive"),
    ],
    ids=str,
)
def test_names_of_classes_that_do_not_say_which_is_which_are_told_and_reversed_ones_refused(run, capsys, names, said):
    content = json.loads((run / "config.json").read_text()) | {"id2label": dict(enumerate(names))}
    (run / "config.json").write_text(json.dumps(content if names else {k: v for k, v in content.items() if k != "id2label"}))
    if said is None:
        return refused("in every label here 0 is Negative, 1 is Positive", "--model", run)
    measure(run)
    told = "".join(capsys.readouterr())
    assert said in told and ("taken for" in told) == bool(said)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--max_length", 513], "--max_length 513 .*512 positions"),
        (["--max_length", 2], "--max_length.*out of range"),
        (["--part", "unlabelled"], "--part"),
        (["--errors", -1], "--errors"),
        (["--data", "nowhere.jsonl"], "--data nowhere.jsonl: no such file"),
        (["--model", "nowhere"], "--model nowhere: no such directory"),
        (["--learning_rate", 1], "--learning_rate"),
    ],
    ids=str,
)
def test_a_wrong_flag_is_refused_by_name(run, flags, match):
    refused(match, "--model", run, *flags)


def test_a_tokenizer_with_more_pieces_than_the_model_is_refused(run, other):
    Tokenizer.from_texts([other.read_text(), *map(str, range(1000, 1300))]).save_pretrained(run, 512)
    refused("not a pair", "--model", run, "--data", other)


def test_as_a_program_it_judges_a_text_and_answers_a_wrong_flag_in_two_lines(run):
    command = [sys.executable, "evaluate.py", "--model", str(run)]
    program = subprocess.run([*command, "--text", "a lovely film"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert program.returncode == 0 and re.fullmatch(r"Positive 0\.\d{3}  a lovely film\n", program.stdout)
    program = subprocess.run([*command, "--txet", "a"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert program.returncode == 2 and "--txet" in program.stderr and len(program.stderr.splitlines()) <= 2
