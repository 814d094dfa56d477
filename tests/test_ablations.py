"""benchmarks/ablations.py and tfidf.py: runs that differ in what their names say, and a floor chosen on validation."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from conftest import imdb_members, write_tar

import train_cls
from data.sources import Part
from distilbert.cli import parse

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import ablations
import adaptation
import tfidf


@pytest.mark.parametrize("name", [name for name in ablations.CHANGES if name != "base"])
def test_an_ablation_differs_from_the_base_in_one_argument_and_its_directory(name):
    given = Namespace(model="minilm", data="imdb", runs=Path("runs"), flags=[])
    base, changed = (vars(parse(train_cls.Arguments, ablations.command(given, run)[1:])) for run in ("base", name))
    assert len({key for key in base if base[key] != changed[key]} - {"output_dir"}) == 1


def test_the_table_sets_each_change_beside_the_base():
    runs = {"base": (1800, 600.0), "tail": (1825, 606.0)}
    common = {"n": 2000, "loss": 0.25, "arguments": {"precision": "fp32"}}
    figures = {name: common | {"right": right, "seconds": seconds} for name, (right, seconds) in runs.items()}
    base, tail = ablations.table({"runs": figures}).splitlines()[2:]
    assert base == "| base | 0.9000 (0.8861 to 0.9124) |  | 0.2500 | fp32, 10.0 |"
    assert tail == "| `--truncation tail` | 0.9125 (0.8993 to 0.9241) | +0.0125 | 0.2500 | fp32, 10.1 |"


def test_a_record_counts_validation_and_nothing_of_the_test(tmp_path):
    metrics = {
        "validation": {"n": 20, "loss": 0.5, "confusion_matrix": [[7, 3], [2, 8]]},
        "test": {"n": 30, "loss": 0.1, "confusion_matrix": [[15, 0], [0, 15]]},
    }
    (tmp_path / "run.json").write_text(json.dumps({"metrics": metrics, "seconds": 60.0, "arguments": {}, "machine": {}}))
    expected = {"n": 20, "right": 15, "loss": 0.5, "seconds": 60.0, "arguments": {}, "machine": {}}
    assert ablations.record_of(tmp_path) == expected


@pytest.mark.parametrize("benchmark", [ablations, adaptation])
def test_figures_are_written_beside_the_runs_unless_told_otherwise(tmp_path, monkeypatch, benchmark):
    """The committed records are replaced by whoever names their place, and by nobody else."""

    def finish(*_) -> dict:
        raise SystemExit

    monkeypatch.setattr(benchmark, "call", lambda _: None)
    monkeypatch.setattr(benchmark, "collect", lambda given: seen.append(given.output) or finish())
    seen = []
    for flags in ([], ["--output", "elsewhere"]):
        with pytest.raises(SystemExit):
            benchmark.main(["--data", "imdb", "--runs", str(tmp_path), *flags])
    assert seen == [tmp_path, Path("elsewhere")]


@pytest.mark.slow
def test_ablations_run_and_a_second_start_has_nothing_to_do(tmp_path, capfd):
    data = write_tar(tmp_path / "imdb.tar.gz", imdb_members(per_class=20))
    flags = [
        "--data",
        str(data),
        "--model",
        "scratch-tiny",
        "--runs",
        str(tmp_path / "runs"),
        "--output",
        str(tmp_path / "out"),
    ]
    flags += ["--only", "base", "tail", "--flags", "--train_size", "16", "--eval_size", "4", "--max_steps", "2"]
    ablations.main(flags)
    figures = json.loads((tmp_path / "out" / "runs.json").read_text())
    assert list(figures["runs"]) == ["base", "tail"] and figures["runs"]["base"]["n"] == 4
    assert [run["arguments"]["truncation"] for run in figures["runs"].values()] == ["head-tail", "tail"]
    assert capfd.readouterr().out.count("python train_cls.py") == 2
    ablations.main(flags)
    assert "python train_cls.py" not in capfd.readouterr().out


def words(seed: int, count: int) -> Part:
    chance = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    texts = [" ".join([*chance.choice(["film", "plot", "scene", "actor"], 4), ("dull", "lovely")[y]]) for y in labels]
    return Part(texts, labels, [str(i) for i in range(count)])


def test_the_floor_learns_words_and_is_measured_on_test():
    parts = {"train": words(0, 60), "validation": words(1, 20), "test": words(2, 20)}
    metrics, strength, features = tfidf.fit(parts)
    assert metrics["accuracy"] == metrics["roc_auc"] == 1.0 and strength == tfidf.STRENGTHS[0]
    assert features >= 6  # six words, and pairs of them
    parts["test"].labels[:5] = 1 - parts["test"].labels[:5]
    assert tfidf.fit(parts)[0]["accuracy"] == 0.75


def test_the_floor_learns_no_word_of_the_test():
    parts = {"train": words(0, 60), "validation": words(1, 20), "test": words(2, 20)}
    features = tfidf.fit(parts)[2]
    for part in (parts["validation"], parts["test"]):
        part.texts[:2] = ["zebra zebra", "zebra"]  # twice would be enough
    assert tfidf.fit(parts)[2] == features


def test_the_floor_is_not_trained_on_what_it_is_tested_on(tmp_path, capsys):
    parts = {"train": words(0, 60), "validation": words(1, 20), "test": words(2, 20)}
    rows = [
        {"text": f"{text} {name} {i}", "label": int(label), "split": name}
        for name, part in parts.items()
        for i, (text, label) in enumerate(zip(part.texts, part.labels, strict=True))
    ]
    rows[0]["text"] = rows[-1]["text"]
    (tmp_path / "leaky.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tfidf.main(["--data", str(tmp_path / "leaky.jsonl"), "--output", str(tmp_path / "out.json")])
    data = json.loads((tmp_path / "out.json").read_text())["data"]
    assert (data["dropped_duplicates"], data["train"], data["test"]) == (1, 59, 20)


def test_the_floors_strength_is_chosen_on_validation(monkeypatch):
    parts, judged = {"train": words(0, 60), "validation": words(1, 24), "test": words(2, 20)}, []

    def score(model, features, labels):
        judged.append((features.shape[0], labels.tolist()))
        return float(model.C == 16.0)

    monkeypatch.setattr(tfidf.LogisticRegression, "score", score)
    assert tfidf.fit(parts)[1] == 16.0
    assert judged == [(24, parts["validation"].labels.tolist())] * len(tfidf.STRENGTHS)


def test_the_softmax_of_the_floors_logits_is_the_regressions_own_probabilities():
    from sklearn.linear_model import LogisticRegression

    features = np.random.default_rng(0).normal(size=(40, 3))
    model = LogisticRegression().fit(features, np.arange(40) % 2)
    logits = tfidf.logits_of(model, features)
    odds = np.exp(logits)
    assert np.allclose(odds / odds.sum(axis=1, keepdims=True), model.predict_proba(features))
