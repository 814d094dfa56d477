"""results/table.py: a finished run's record is taken in without weights or text, and fills the published systems' column."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import evaluate
import train_cls
import train_mlm
from distilbert.cli import parse
from distilbert.errors import UserError
from distilbert.files import checksum

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "results"))

import table


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A results folder and a page of this test's own."""
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(table, "HERE", tmp_path / "results")
    monkeypatch.setattr(table, "PAGES", {"../README.md": (table.published,)})
    (tmp_path / "README.md").write_text("before\n<!-- table: published -->\n<!-- end -->\nafter\n")
    return tmp_path / "results"


def test_a_run_is_taken_in_with_what_was_measured_later_and_without_text(finished, corpus, tmp_path, here, capsys):
    run = tmp_path / "films"
    run.symlink_to(shutil.copytree(finished.directory, tmp_path / "judge"))
    flags = ["--model", str(run), "--data", str(corpus), "--eval_size", "10"]
    evaluate.main([*flags, "--errors", "5"])
    evaluate.main([*flags, "--part", "validation"])
    (run / "calibration.json").write_text('{"temperature": 1.25}')
    table.main([str(run)])
    record = json.loads((here / "judge.json").read_text())
    own = json.loads((finished.directory / "run.json").read_text())
    assert {key: record[key] for key in own} == own
    assert set(record["evaluations"]) >= {"toy", "toy-validation"} and "kinds" in record["evaluations"]["toy"]
    assert "film" not in json.dumps(record["evaluations"]) and str(tmp_path) not in json.dumps(record)
    assert record["calibration"] == {"temperature": 1.25}
    assert "encoder" not in record  # no run made it
    table.main([str(run)])  # again, perhaps with one more measurement
    finished = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(finished | {"arguments": finished["arguments"] | {"seed": 8}}))
    with pytest.raises(UserError, match=r"judge\.json has other figures than .*films; rename the run, or remove that"):
        table.main([str(run)])
    assert json.loads((here / "judge.json").read_text()) == record


def test_a_lengthened_run_says_so_in_its_row(finished, here):
    record = json.loads((finished.directory / "run.json").read_text())
    assert record["lengthened_at"] == []
    (here / "more.json").write_text(json.dumps(record | {"lengthened_at": [8, 16]}))
    assert "| `train_cls.py`, fp32, on `scratch-tiny`, lengthened at step 8, lengthened at step 16 |" in table.records()


def test_the_published_systems_column_is_empty_until_a_record_of_the_recipe_is_there(here):
    table.main([])
    rows = (here.parent / "README.md").read_text().splitlines()
    assert (rows[0], rows[-1]) == ("before", "after")
    assert all(row.split("|")[-2] == " " for row in rows if "`imdb-384`" in row or "`dapt-imdb`" in row)
    test = {"n": 25000, "accuracy": 0.91236, "f1": 0.9124, "roc_auc": 0.975, "loss": 0.25}
    arguments = vars(parse(train_cls.Arguments, ["--preset", "imdb-384", "--data", "imdb"], train_cls.PRESETS))
    record = {"metrics": {"test": test}, "evaluations": {"sst2": {"n": 872, "accuracy": 0.8888}}, "arguments": arguments}
    (here / "imdb-384.json").write_text(json.dumps(record | {"lengthened_at": [20]}))
    table.main([])
    assert "0.9124" not in (here.parent / "README.md").read_text()
    for changed in (
        {"eval_size": 100},
        {"learning_rate": 1e-4},
        {"model": "minilm"},
        {"preset": ""},
        {"layer_decay": 0.5},
        {"data": "sample"},
        {"data": "aclImdb_v1.tar.gz"},  # in what order?
        {"head_learning_rate": 1e-3},
    ):  # none is the recipe
        (here / "imdb-384.json").write_text(json.dumps(record | {"arguments": arguments | changed}))
        table.main([])
        assert "0.9124" not in (here.parent / "README.md").read_text()
    (here / "imdb-384.json").write_text(json.dumps(record))
    table.main([])
    cells = {
        row.split("|")[2].strip(): row.split("|")[-2].strip()
        for row in (here.parent / "README.md").read_text().splitlines()
        if "|" in row
    }
    figures = "25,000 test reviews: accuracy 0.9124, F1 0.9124, ROC-AUC 0.9750, loss 0.2500, SST-2 dev 0.8888"
    assert (cells["`imdb-384`"], cells["`dapt-imdb`"]) == (figures, "")


def test_a_run_on_an_adapted_encoder_fills_its_cell_only_when_the_adaptation_was_the_recipe_too(here, tmp_path, capsys):
    """The record takes the adaptation's flags from the run that --model named."""
    encoder, run = tmp_path / "runs" / "mlm", tmp_path / "dapt-imdb"
    flags = ["--preset", "dapt-imdb", "--data", "imdb"]
    parsed, adapted = (vars(parse(script.Arguments, flags, script.PRESETS)) for script in (train_cls, train_mlm))
    test = {"n": 20_000, "accuracy": 0.93, "f1": 0.93, "roc_auc": 0.98, "loss": 0.2}
    for folder in (encoder, run / "checkpoint"):
        folder.mkdir(parents=True)
    (encoder / "model.safetensors").write_bytes(b"the weights that the run started from")
    record = {"arguments": parsed | {"model": "mlm"}, "data": {}, "metrics": {"test": test}}
    record["revision"] = f"sha256:{checksum(encoder / 'model.safetensors')}"
    (run / "run.json").write_text(json.dumps(record))
    (run / "checkpoint" / "arguments.json").write_text(json.dumps({"model": str(encoder)}))
    for changed in (
        {"model": "minilm"},
        {"num_train_epochs": 1},
        {"max_steps": 2},
        {"whole_word_masking": True},
        {"preset": ""},
        None,
        {},
    ):
        (encoder / "run.json").unlink(missing_ok=True)
        if changed is not None:
            (encoder / "run.json").write_text(json.dumps({"arguments": adapted | changed}))
        table.main([str(run)])
        assert ("accuracy 0.9300" in (here.parent / "README.md").read_text()) == (changed == {})
    (encoder / "model.safetensors").write_bytes(b"another adaptation, of the same recipe")
    table.main([str(run)])
    assert (
        "accuracy 0.9300" not in (here.parent / "README.md").read_text()
        and "does not hold the weights" in capsys.readouterr().out
    )


def test_a_run_that_is_not_finished_or_no_classifier_is_refused_in_words(here, tmp_path):
    for broken in ({}, {"metrics": {"test": {"accuracy": 0.9}}}, {"arguments": {}, "data": {}, "metrics": None}):
        (tmp_path / "run.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match="no record of a run"):
            table.main([str(tmp_path)])
    for test in ({"perplexity": 8.0}, None):
        (tmp_path / "run.json").write_text(json.dumps({"arguments": {}, "data": {}, "metrics": {"test": test}}))
        with pytest.raises(UserError, match="holds no classifier"):
            table.main([str(tmp_path)])
    (tmp_path / "run.json").unlink()
    with pytest.raises(UserError, match="not a finished run"):
        table.main([str(tmp_path)])
    assert list(here.iterdir()) == []


def test_a_run_on_data_of_ones_own_has_a_row(finished, here, monkeypatch):
    monkeypatch.setattr(table, "PAGES", {"../README.md": (table.records,)})
    (here.parent / "README.md").write_text("<!-- table: records -->\n<!-- end -->\n")
    table.main([str(finished.directory)])
    lines = [json.loads(line) for line in (finished.directory / "log.jsonl").read_text().splitlines()]
    speed = sum(line.get("tokens", 0) for line in lines) / sum(line.get("seconds", 0) for line in lines)
    assert f"| 128 of toy.jsonl, 48 tokens | {speed:,.0f} | 16 |" in (here.parent / "README.md").read_text()


def test_the_front_page_names_each_flag_that_a_recipe_departs_by():
    usual = vars(parse(train_cls.Arguments, []))
    free = {"data": "imdb", "seed": 7, "output_dir": "x", "precision": "fp32", "compile": True}
    assert table.flags(usual | free) == []
    changed = {"num_train_epochs": 1, "keep_breaks": True, "dropout": 0.1}
    assert table.flags(usual | {"train_size": 500}) == ["--train_size", "500"]
    assert table.flags(usual | changed) == ["--keep_breaks", "--num_train_epochs", "1", "--dropout", "0.1"]
    preset = vars(parse(train_cls.Arguments, ["--preset", "imdb-384", "--batching", "length"], train_cls.PRESETS))
    assert table.flags(preset) == ["--preset", "imdb-384", "--batching", "length"]
    assert table.flags(preset | {"keep_breaks": False}) == ["--preset", "imdb-384", "--no_keep_breaks", "--batching", "length"]
    del preset["layer_decay"]  # a record that is older than the flag
    assert table.flags(preset) == ["--preset", "imdb-384", "--batching", "length"]


@pytest.mark.parametrize("name", ["sst2", "SST-2", "dev"])
def test_the_dev_set_is_found_under_whatever_it_was_given_as_if_it_is_whole(name):
    whole = {"n": 872, "accuracy": 0.8}
    assert table.sst2_dev({"evaluations": {"aclImdb": {"n": 25_000}, name: whole}}) == whole
    assert table.sst2_dev({"evaluations": {name: {"n": 100}}}) is None and table.sst2_dev({}) is None
    cut = {"max_length": 384, "truncation": "head-tail"}
    for how in (cut, cut | {"max_length": 8}, cut | {"truncation": "head"}):
        record = {"arguments": cut | {"seed": 0}, "evaluations": {name: whole | how}}
        assert table.sst2_dev(record) == (whole | how if how == cut else None)


def test_a_temperature_has_its_row_even_where_sst2_was_read_in_another_way_than_the_run_was_trained(here):
    figures = {key: {"before": 0.0256, "after": 0.0125} for key in ("ece", "brier")}
    record = {"arguments": {"max_length": 384}, "calibration": {"temperature": 1.25} | figures}
    record["evaluations"] = {"sst2": {"n": 872, "accuracy": 0.8, "accuracy_interval": [0.7, 0.9], "max_length": 8}}
    (here / "run.json").write_text(json.dumps(record))
    assert table.confidence_and_transfer().endswith("| `run.json` | 1.25 | 0.0256 → 0.0125 | 0.0256 → 0.0125 |  |\n")


@pytest.mark.parametrize(("bf16", "kind"), [(True, "bf16"), (False, "fp32")])
def test_a_tuned_trainer_is_named_by_its_number_format(here, bf16, kind):
    write_comparison(here, bf16, [("classification", 1, 2)])
    assert f"| Trainer, {kind}, our batches by length |" in table.side_by_side()


def write_comparison(here, bf16: bool, peaks: list[tuple]) -> None:
    """Records of two machines, ours and a tuned Trainer, with (task, peak memory of ours, of theirs)."""
    (here.parent / "benchmarks").mkdir()
    for name, median in (("compare.json", 2.0), ("compare-avx512.json", 4.0)):
        faster_by = {"median": median, "least": median - 1.03, "most": median + 1}
        one = {"tokens_per_second": 7.0, "ours_is_faster_by": faster_by}
        results = [
            {"size": "base", "task": task, "contestants": {"ours auto": one | {"peak_memory_bytes": ours},
                                                           "trainer tuned": one | {"peak_memory_bytes": theirs}}}
            for task, ours, theirs in peaks
        ]  # fmt: skip
        (here.parent / "benchmarks" / name).write_text(json.dumps({"bf16": bf16, "results": results}))


def test_a_lost_round_is_no_draw_and_the_second_machine_has_its_own_ratio(here):
    write_comparison(here, True, [("classification", 1, 2)])
    assert "| 7 | 7 | 2.00 (0.97 to 3.00) | 4.0 (3.0 to 5.0) |" in table.side_by_side()


def test_the_kinds_of_review_are_those_of_the_whole_test(here):
    """A later measurement of another part stands in the same record, and before it by its name."""
    kinds = [{"4 stars": {"n": n, "accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}} for n in (7, 70)]
    found = {"aclImdb-validation": {"n": 2_500, "kinds": kinds[0]}, "aclImdb_v1": {"n": 25_000, "kinds": kinds[1]}}
    (here / "imdb-plain-seed0.json").write_text(json.dumps({"data": {"test": 25_000}, "evaluations": found}))
    assert "| 4 stars | 70 |" in table.kinds_of_review()
    cut, other = {"arguments": {"max_length": 256}, "data": {"test": 25_000}}, {"max_length": 8}
    short = {"aclImdb_v1": found["aclImdb_v1"] | other}
    for evaluations in ({}, short):
        (here / "imdb-plain-seed0.json").write_text(json.dumps(cut | {"evaluations": evaluations}))
        with pytest.raises(UserError, match="no kinds of review"):
            table.kinds_of_review()
    (here / "imdb-plain-seed0.json").write_text(json.dumps({"data": {"test": 25_000}, "evaluations": {}}))
    with pytest.raises(UserError, match=r"no kinds of review.*--errors"):
        table.kinds_of_review()


@pytest.mark.parametrize("make", [table.records, table.whole_imdb])
def test_a_stranger_among_the_records_is_named(here, make):
    (here / "notes.json").write_text(json.dumps({"todo": "nothing"}))
    with pytest.raises(UserError, match=r"notes\.json: no record of a run"):
        make()


def test_memory_that_was_not_measured_is_left_out(here):
    write_comparison(here, True, [("classification", 2**30, 2**31), ("inference", None, None)])
    assert [row.split("|")[-2].strip() for row in table.side_by_side().splitlines()[2:]] == ["2.0 GiB → 1.0 GiB", ""]
