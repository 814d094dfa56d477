"""benchmarks/adaptation.py: arms that differ in the encoder alone, and a table that is counted from their judgements."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import imdb_members, write_tar
from matplotlib.axes import Axes

from distilbert.errors import UserError
from distilbert.files import bare_name

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import adaptation


def record(arm: str, labels: int, seed: int, right: int, n: int = 2000) -> dict:
    curve = [[7, 0.6, 0.7], [14, 0.5, 0.75]]
    return {"arm": arm, "labels": labels, "seed": seed, "n": n, "right": right, "validation": curve}


def test_a_record_counts_what_evaluate_judged_right_and_follows_validation(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"arguments": {"data": "toy.jsonl"}}))
    (tmp_path / "eval-toy.json").write_text(json.dumps({"n": 20, "confusion_matrix": [[7, 3], [1, 9]]}))
    lines = [{"step": 2, "loss": 0.7}, {"step": 4, "eval_loss": 0.6, "eval_accuracy": 0.5}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    expected = {"arm": "plain", "labels": 100, "seed": 2, "n": 20, "right": 16, "validation": [[4, 0.6, 0.5]]}
    assert adaptation.record_of(tmp_path, "plain", 100, 2) == expected


def test_the_arms_differ_in_the_encoder_and_the_directory_alone():
    given = Namespace(model="minilm", data="imdb", runs=Path("runs"), test_size=7)
    _, plain = adaptation.commands(given, "plain", 100, 2)
    for arm in adaptation.ADAPTATIONS:
        run, adapted = adaptation.commands(given, arm, 100, 2)
        assert run == Path(f"runs/{arm}-100-2")
        swapped = [[word.replace("runs/plain-100-2", str(run)) for word in command] for command in plain]
        swapped[0][swapped[0].index("--model") + 1] = f"runs/mlm-{arm}"
        assert swapped == adapted


def test_an_adaptation_goes_on_from_the_one_before_it_and_obeys_the_flags_given():
    given = Namespace(model="minilm", data="imdb", runs=Path("runs"), adapt=["--seed", "7"])
    first, second = (adaptation.adapt(given, arm) for arm in ("adapted", "longer"))
    assert first[first.index("--model") + 1] == "minilm"
    assert second[second.index("--model") + 1] == first[first.index("--output_dir") + 1] == "runs/mlm-adapted"
    assert first[-2:] == second[-2:] == ["--seed", "7"]


def test_the_table_counts_judgements_and_pairs_seeds():
    records = [record("plain", 500, seed, right) for seed, right in ((0, 1600), (1, 1700), (2, 1))]
    records += [record("adapted", 500, seed, right) for seed, right in ((0, 1660), (1, 1720))]
    plain, adapted = adaptation.table(records).splitlines()[2:]
    # 3301 of 6000 without; 3380 of 4000 with it; gains .03 and .01, mean .02, standard error .01; 80 of 700 mistakes avoided
    assert plain == "| 500 | plain | 3 | 0.5502 (0.5376 to 0.5627) | | |"
    assert adapted == "| 500 | adapted | 2 | 0.8450 (0.8335 to 0.8559) | +0.0200 ± 0.0100 | 11.4% |"


def test_other_data_that_a_cell_was_measured_on_is_not_its_test(tmp_path):
    (tmp_path / "run.json").write_text('{"arguments": {"data": "aclImdb_v1.tar.gz"}}')
    (tmp_path / "eval-sst2.json").write_text("{}")
    assert not adaptation.measured(tmp_path)
    (tmp_path / "eval-aclImdb_v1.json").write_text("{}")
    assert adaptation.measured(tmp_path) and adaptation.evaluation_of(tmp_path).name == "eval-aclImdb_v1.json"


@pytest.mark.parametrize("name", ["aclImdb.v1.tar.gz", "imdb.2024", "films.jsonl"])
def test_a_cells_figures_are_looked_for_where_evaluate_writes_them(tmp_path, name):
    (tmp_path / "run.json").write_text(json.dumps({"arguments": {"data": name}}))
    assert adaptation.evaluation_of(tmp_path).name == f"eval-{bare_name(f'/data/{name}')}.json"


def test_control_c_lets_the_running_command_save_what_it_has(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "def stop(*_):\n    time.sleep(1)\n    (here / 'saved').touch()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGINT, stop)\n(here / 'ready').touch()\ntime.sleep(60)\n"
    )
    code = f"import sys; sys.path.insert(0, 'benchmarks'); import adaptation; adaptation.call([{str(script)!r}])"
    running = subprocess.Popen([sys.executable, "-c", code], cwd=adaptation.ROOT, start_new_session=True)
    while not (tmp_path / "ready").exists():
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all of the group
    assert running.wait(30) == 130 and (tmp_path / "saved").exists()


def test_a_number_of_labels_without_a_plain_run_has_no_row():
    assert len(adaptation.table([record("adapted", 100, 0, 1500)]).splitlines()) == 2


def test_the_picture_has_each_arms_accuracy_by_labels_and_a_curve_for_each_run(tmp_path, monkeypatch):
    drawn, plot = [], Axes.plot

    def see(axes, x, y, *style, **more):
        drawn.append((tuple(x), tuple(y)))
        return plot(axes, x, y, *style, **more)

    monkeypatch.setattr(Axes, "plot", see)
    right = {arm: 1500 + 100 * i for i, arm in enumerate(adaptation.ARMS)}
    records = [record(arm, labels, 0, right[arm]) for arm in adaptation.ARMS for labels in (100, 500)]
    adaptation.draw(records, tmp_path / "a.svg")
    curve = ((7, 14), (0.6, 0.5))
    assert drawn == [one for arm in adaptation.ARMS for one in (((100, 500), (right[arm] / 2000,) * 2), curve, curve)]
    assert all(f"<!-- {arm} -->" in (tmp_path / "a.svg").read_text() for arm in adaptation.ARMS)


def test_without_what_draws_the_picture_nothing_is_begun(monkeypatch):
    monkeypatch.setattr(adaptation.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(adaptation, "call", None)
    with pytest.raises(UserError, match="matplotlib is not installed: pip install -r requirements-dev"):
        adaptation.main(["--data", "imdb"])


@pytest.mark.slow
def test_the_whole_experiment_runs_and_a_second_start_has_nothing_to_do(tmp_path, capfd):
    data = write_tar(tmp_path / "imdb.tar.gz", imdb_members(per_class=20, unlabelled=30))
    flags = ["--data", str(data), "--model", "scratch-tiny", "--labels", "8", "--seeds", "0", "--test_size", "10"]
    flags += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--adapt", "--max_steps", "3"]
    adaptation.main(flags)
    figures = json.loads((tmp_path / "out" / "runs.json").read_text())
    assert [(run["arm"], run["n"]) for run in figures["runs"]] == [(arm, 10) for arm in adaptation.ARMS]
    assert list(figures["adaptations"]) == ["adapted", "longer"]
    assert capfd.readouterr().out.count("--train_size 8") == 3
    adaptation.main(flags)
    assert "--train_size" not in capfd.readouterr().out
