"""README and results page against the tree and the records: commands parse, files exist, figures are the records'."""

import importlib
import json
import math
import re
import shlex
import statistics
import sys
from pathlib import Path

import pytest

import evaluate
import train_cls
import train_mlm
from distilbert.cli import parse
from distilbert.config import DistilBertConfig
from distilbert.model import DistilBertModel
from distilbert.optim import learning_rate_factor

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
SAID, RESULTS_SAID = (" ".join(text.split()) for text in (TEXT, RESULTS))  # sentences, wherever their lines end
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", TEXT + RESULTS, re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("python ", "torchrun "))
]
sys.path[:0] = [str(ROOT / "results"), str(ROOT / "benchmarks")]

import ablations
import adaptation
import table

SCRIPTS = {"train_cls.py": train_cls, "train_mlm.py": train_mlm, "evaluate.py": evaluate}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_names_what_exists_and_its_flags_parse(command):
    if command[0] == "torchrun":
        assert command[1] == "--nproc-per-node"
        command = command[2:]
    if command[1] == "-m":
        module = importlib.import_module(command[2])
        own = [kind for name, kind in vars(module).items() if name.endswith("Arguments") and kind.__module__ == command[2]]
        assert len(own) == 1 or (command[2], len(command)) == ("distilbert.checkpoint", 4)  # which takes a name and no flag
        for kind in own:
            parse(kind, command[3:])
    elif command[1] == "results/table.py":
        assert all(run.startswith("runs/") for run in command[2:])
    elif command[1].startswith("benchmarks/"):
        script = (ROOT / command[1]).read_text(encoding="utf-8")
        assert all(f'add_argument("{word}"' in script for word in command[2:] if word.startswith("--"))
    else:
        script = SCRIPTS[command[1]]
        parse(script.Arguments, command[2:], getattr(script, "PRESETS", None))


def test_every_file_it_names_is_there():
    names = re.findall(r"`((?:distilbert|data|tests|benchmarks|results)/[\w./]*|[\w-]+\.(?:py|cff|json))`", TEXT + RESULTS)
    names = [name for name in names if name != "run.json"]  # of a run directory
    assert len(names) > 15
    for name in names:
        assert any((ROOT / folder / name).exists() for folder in ("", "distilbert", "benchmarks", "results")), name


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_every_link_to_a_file_leads_there(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
    assert len(links) > 4
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link


def test_the_map_names_every_module():
    rows = TEXT.partition("| file | what is in it |")[2].partition("\n\n")[0]
    named = {name.rpartition("/")[2] for name in re.findall(r"`([\w/]+\.py)`", rows)}
    for path in [*ROOT.glob("*.py"), *(ROOT / "distilbert").glob("[a-z]*.py"), *(ROOT / "data").glob("[a-z]*.py")]:
        assert path.name in named, path.name


def test_the_lessons_of_a_file_in_the_map_quote_it():
    rows = re.findall(r"^\| `([\w/]+\.py)`.*\| (\[.*) \|$", TEXT, re.MULTILINE)
    assert len(rows) > 5
    for path, links in rows:
        for lesson in re.findall(r"\((lessons/[\w-]+\.md)\)", links):
            assert f"`{path}`" in (ROOT / lesson).read_text(encoding="utf-8"), (path, lesson)


@pytest.mark.parametrize("page", table.PAGES)
def test_the_result_tables_are_made_of_the_records(page):
    text = (table.HERE / page).read_text(encoding="utf-8")
    assert table.filled(text, table.PAGES[page]) == text and text.count("<!-- table:") == len(table.PAGES[page])


def test_a_page_without_a_tables_place_is_refused():
    with pytest.raises(ValueError, match="records"):
        table.filled("no place", (table.records,))


def test_the_means_it_speaks_of_are_those_of_the_records():
    said = re.search(r"mean of the three seeds on 2,000 reviews of IMDb is (\.\d+) in fp32 and (\.\d+) in bf16", RESULTS_SAID)
    for number, kind in enumerate(("fp32", "bf16"), 1):
        records = [json.loads(path.read_text()) for path in (ROOT / "results").glob("imdb-2000-*seed*.json")]
        records = [record for record in records if "system" not in record and record["arguments"]["precision"] == kind]
        assert len(records) == 3
        mean = sum(record["metrics"]["test"]["accuracy"] for record in records) / 3
        assert mean == pytest.approx(float(said[number]), abs=5e-4)


def test_the_floor_is_that_of_its_record():
    record = json.loads((ROOT / "results" / "tfidf-imdb.json").read_text())
    assert f"stands at {record['metrics']['test']['accuracy']:.3f}".replace("0.", ".") in RESULTS_SAID
    record = json.loads((ROOT / "results" / "tfidf-sample.json").read_text())
    assert f"word counts reaches {record['metrics']['test']['accuracy']:.3f}".replace("0.", ".") in SAID


def test_the_quickstarts_output_is_that_of_its_record():
    record = json.loads((ROOT / "results" / "quickstart.json").read_text())
    test, best = record["metrics"]["test"], record["metrics"]["validation"]
    low, high = test["accuracy_interval"]
    interval = f"test accuracy {test['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}) on {test['n']} texts"
    assert f"{interval}, F1 {test['f1']:.4f}, ROC-AUC {test['roc_auc']:.4f}\n" in TEXT
    figures = "  ".join(f"{name} {best[name]:.4f}" for name in ("loss", "accuracy", "f1"))
    epoch = record["best_step"] * record["epochs"] // record["steps"]
    assert f"step {record['best_step']}, epoch {epoch}: validation {figures}  (best so far)\n" in TEXT
    assert f"best validation: step {record['best_step']}\n" in TEXT
    assert f"{record['seconds']:.0f} of them training" in SAID
    sizes = ", ".join(f"{part} {record['data'][part]}" for part in ("train", "validation", "test"))
    assert f"sample: {sizes}; {record['data']['dropped_duplicates']} dropped" in TEXT


def test_the_trainers_accuracy_is_told_beside_ours():
    three = r"(\.\d+), (\.\d+) and (\.\d+)"
    said = re.search(rf"head of two layers, gets {three} to our {three}\.", RESULTS_SAID).groups()
    names = [f"{kind}imdb-2000-seed{seed}" for kind in ("trainer-", "") for seed in range(3)]
    for accuracy, name in zip(said, names, strict=True):
        record = json.loads((ROOT / "results" / f"{name}.json").read_text())
        assert f"{record['metrics']['test']['accuracy']:.3f}" == f"0{accuracy}"


def test_the_trainers_minutes_and_accuracy_by_a_published_recipe_are_told_beside_ours():
    said = (
        r"ours judges (\.\d+) of 2,000 test reviews right after (\d+) minutes of training, the Trainer (\.\d+) after (\d+), val"
    )
    accuracy, minutes, their_accuracy, their_minutes = re.search(said, RESULTS_SAID).groups()
    ours, theirs = (json.loads((ROOT / f"results/{name}imdb-384-5000.json").read_text()) for name in ("", "trainer-"))
    tests = [record["metrics"]["test"] for record in (ours, theirs)]
    assert [f"{test['accuracy']:.4f}"[1:] for test in tests] == [accuracy, their_accuracy] and tests[0]["n"] == tests[1][
        "n"
    ] == 2_000
    assert round(ours["seconds"] / 60) == int(minutes) and ours["arguments"]["preset"] == "imdb-384"
    training = theirs["seconds_with_evaluation"] - sum(epoch["eval_runtime"] for epoch in theirs["epochs"])
    assert round(training / 60) == int(their_minutes) and len(theirs["epochs"]) == ours["epochs"] == 2
    same = ("train_size", "eval_size", "max_length", "truncation", "seed")
    assert all(ours["arguments"][name] == theirs["arguments"][name] for name in same)


def test_what_it_says_of_one_change_is_in_the_records():
    runs = json.loads((ROOT / "results" / "ablations" / "runs.json").read_text())["runs"]
    more, n = re.search(r"384 look better \((\d+) more of ([\d,]+) right\)", RESULTS_SAID).groups()
    assert runs["384"]["right"] - runs["base"]["right"] == int(more) and runs["384"]["n"] == int(n.replace(",", ""))
    apart = {name: abs(run["right"] - runs["base"]["right"]) for name, run in runs.items()}
    assert sorted(apart, key=apart.get)[-2:] == ["384", "128"]
    assert f"the other {('three', 'four', 'five', 'six', 'seven')[len(runs) - 6]} are too small a change" in RESULTS_SAID
    assert runs["decay_all"]["right"] == runs["base"]["right"] and runs.keys() == ablations.CHANGES.keys()
    steps = -(-runs["decay_all"]["arguments"]["train_size"] // runs["decay_all"]["arguments"]["batch_size"])
    rates = [1e-4 * learning_rate_factor(step, steps, math.ceil(0.1 * steps)) for step in range(steps)]
    assert (
        f"in {steps} steps it shrinks biases and norms by less than 0.02%" in RESULTS_SAID and 1e-4 < 0.01 * sum(rates) < 2e-4
    )


GUESSED = {
    "adapted": r"(\d+)% of the tokens hidden, (\d+)% of these guessed on validation",
    "longer": r"(\d+)% hidden, of which it guessed (\d+)% before and (\d+)% after",
}


@pytest.mark.parametrize("arm", GUESSED)
def test_what_it_says_of_an_adaptation_is_in_its_record(arm):
    record = json.loads((ROOT / "results" / "adaptation" / "runs.json").read_text())["adaptations"][arm]
    said = rf"- \*{arm}\*: ([\d,]+) steps(?: more)?, ([\d.]+) M tokens, (\d+) minutes(?: on two cores)?; {GUESSED[arm]}"
    steps, tokens, minutes, hidden, *shares = re.search(said, RESULTS_SAID).groups()
    assert record["arguments"]["max_steps"] == int(steps.replace(",", ""))
    assert f"{record['tokens'] / 1e6:.1f}" == tokens and round(record["seconds"] / 60) == int(minutes)
    assert round(100 * record["arguments"]["mlm_probability"]) == int(hidden)
    curve = [record["validation"][0], record["validation"][-1]][-len(shares) :]
    assert [round(100 * accuracy) for _, _, accuracy in curve] == [int(share) for share in shares]


def test_its_commands_for_an_adapted_encoder_are_the_benchmarks_and_its_records():
    adapt, classify = (command for command in COMMANDS if "imdb" in command and "runs/mlm-adapted" in command)
    own = [*adaptation.ADAPT, *adaptation.ADAPTATIONS["adapted"]]
    assert parse(train_mlm.Arguments, adapt[2:]) == parse(train_mlm.Arguments, [*own, *adapt[-2:], "--data", "imdb"])
    record = with_384_tokens("adapted-")[0]["arguments"]
    assert table.departures(vars(parse(train_cls.Arguments, classify[2:])), train_cls) == table.departures(record, train_cls)


@pytest.mark.parametrize("arm", GUESSED)
def test_adapted_encoders_learn_as_much_faster_as_it_says(arm):
    runs = json.loads((ROOT / "results" / "adaptation" / "runs.json").read_text())["runs"]
    curves = {(run["arm"], run["labels"], run["seed"]): run["validation"] for run in runs}
    pairs = [(curves["plain", *pair], curves[arm, *pair]) for which, *pair in curves if which == arm]
    lower = sum(min(loss for _, loss, _ in adapted) < min(loss for _, loss, _ in plain) for plain, adapted in pairs)
    reached, sooner = 0, 0
    for plain, adapted in pairs:
        when, _, best = max(plain, key=lambda point: point[2])
        there = [step for step, _, accuracy in adapted if accuracy >= best]
        reached, sooner = reached + bool(there), sooner + bool(there and there[0] < when)
    said = {
        "adapted": r"of (\d+) pairs .* loss in (\d+), reaches the other's best accuracy in (\d+), .* epoch in (\d+);",
        "longer": r"earlier epoch in \d+; \*longer\*, of (\d), in (\d), (\d)\sand (\d)\.",
    }[arm]
    assert [int(number) for number in re.search(said, RESULTS_SAID).groups()] == [len(pairs), lower, reached, sooner]


def test_what_it_says_of_the_whole_of_imdb_is_in_its_record():
    records = with_384_tokens()
    mean = f"{mean_accuracy(records):.3f}"[1:]
    assert f"an hour of fine-tuning on two CPU cores brings it to {mean} accuracy on IMDb's official test" in SAID
    adapted = f"{mean_accuracy(with_384_tokens('adapted-')):.3f}"[1:]
    assert (
        f"{mean} accuracy on IMDb's official test, and {adapted} if it reads IMDb's unlabelled and training reviews first"
        in SAID
    )
    said = f"--max_length 384 --output_dir runs/imdb` reaches {mean} on its test, in the mean of three seeds "
    minutes = [round(record["seconds"] / 60) for record in records]
    assert f"{said}(in fp32, {min(minutes)} to {max(minutes)} minutes each on two cores;" in SAID
    assert {(record["arguments"]["precision"], record["machine"]["threads"]) for record in records} == {("fp32", 2)}
    told = {"plain": r"in fp32 on \*plain\*", "longer": r"in bf16 on \*longer\*"}
    for kind, how in told.items():
        record = json.loads((ROOT / "results" / f"imdb-{kind}-seed0.json").read_text())
        minutes, accuracy = re.search(rf"one epoch of (\d+) minutes {how} reaches (\.\d+)", RESULTS_SAID).groups()
        assert round(record["seconds"] / 60) == int(minutes) and record["arguments"]["num_train_epochs"] == 1
        assert f"{record['metrics']['test']['accuracy']:.3f}" == f"0{accuracy}" and record["metrics"]["test"]["n"] == 25_000


def with_384_tokens(encoder: str = "") -> list[dict]:
    """The record of each seed; `encoder`: "adapted-", or "" for the plain one."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob(f"imdb-{encoder}384tok-seed*.json"))]


def mean_accuracy(records: list[dict]) -> float:
    return statistics.mean(record["metrics"]["test"]["accuracy"] for record in records)


@pytest.mark.parametrize(("encoder", "precision"), [("plain", "fp32"), ("adapted", "bf16")])
def test_the_seeds_it_tells_of_384_tokens_are_all_that_have_a_record(encoder, precision):
    records = with_384_tokens({"plain": "", "adapted": "adapted-"}[encoder])
    said = rf"\*{encoder}\* with 384 tokens three seeds reach (.+?) and (.+?), in the mean (.+?), and ROC-AUCs of "
    said += rf"(.+?) and (.+?), in one epoch of (\d+) to (\d+) minutes in {precision}"
    first, last, mean, *aucs, least, most = re.search(said, RESULTS_SAID).groups()
    tests = [record["metrics"]["test"] for record in records]
    figures = [f"{test['accuracy']:.4f}"[1:] for test in tests], [f"{test['roc_auc']:.4f}"[1:] for test in tests]
    assert ([*first.split(", "), last], [*aucs[0].split(", "), aucs[1]]) == figures
    assert {record["arguments"]["precision"] for record in records} == {precision}
    assert mean == f"{mean_accuracy(records):.4f}"[1:]
    minutes = [round(record["seconds"] / 60) for record in records]
    assert [int(least), int(most)] == [min(minutes), max(minutes)]
    said = r"hoped for (\.\d+), which \*plain\* misses by (\.\d+) and"
    hoped, missed = map(float, re.search(said, RESULTS_SAID).groups())
    if encoder == "plain":
        assert hoped - mean_accuracy(records) == pytest.approx(missed, abs=5e-5)
    else:
        assert mean_accuracy(records) > hoped and min(test["roc_auc"] for test in tests) > 0.976


def test_what_it_says_of_the_longer_adapted_with_384_tokens_is_in_its_only_record():
    (record,) = with_384_tokens("longer-")
    said = r"on \*longer\* with 384 tokens seed 0, the only one so far, reaches (\.\d+) and a ROC-AUC of (\.\d+), "
    said += r"in one epoch of (\d+) minutes in (\w+)\."
    test = record["metrics"]["test"]
    accuracy, auc, minutes, precision = re.search(said, RESULTS_SAID).groups()
    assert (f"{test['accuracy']:.4f}"[1:], f"{test['roc_auc']:.4f}"[1:], test["n"]) == (accuracy, auc, 25_000)
    assert (record["arguments"]["seed"], record["arguments"]["precision"]) == (0, precision)
    assert round(record["seconds"] / 60) == int(minutes) and record["encoder"]["mlm_probability"] == 0.3


def test_the_mistakes_it_counts_with_384_and_with_256_tokens_are_those_of_the_records():
    said = r"make ([\d,]+), ([\d,]+) and ([\d,]+) mistakes on the official test with 384 tokens, one makes ([\d,]+) with 256"
    names = (*(f"imdb-384tok-seed{seed}" for seed in range(3)), "imdb-plain-seed0")
    for count, name in zip(re.search(said, RESULTS_SAID).groups(), names, strict=True):
        record = json.loads((ROOT / "results" / f"{name}.json").read_text())
        (_, one), (other, _) = record["metrics"]["test"]["confusion_matrix"]
        assert int(count.replace(",", "")) == one + other


def test_what_it_says_of_the_published_recipe_on_minilm_is_in_its_record():
    record = json.loads((ROOT / "results" / "imdb-384-minilm.json").read_text())
    said = r"recipe on \*plain\* reaches (\.\d+) after two epochs at a fifth of our rate, .* stood at (\.\d+)\. It had"
    test, validation = re.search(said, RESULTS_SAID).groups()
    assert f"{record['metrics']['test']['accuracy']:.3f}" == f"0{test}" and record["epochs"] == 2
    assert f"{record['metrics']['validation']['accuracy']:.3f}" == f"0{validation}"
    assert table.flags(record["arguments"]) == ["--preset", "imdb-384", "--batching", "length"]
    assert record["arguments"]["learning_rate"] * 5 == pytest.approx(train_cls.Arguments().learning_rate)


def test_what_it_says_of_the_published_classifier_on_minilm_unadapted_is_in_its_record():
    record = json.loads((ROOT / "results" / "dapt-imdb-minilm.json").read_text())
    said = r"adaptation, reaches (\.\d+) of 20,000 \(validation, the other 5,000: (\.\d+)\) after three epochs in bf16"
    for part, figure in zip(("test", "validation"), re.search(said, RESULTS_SAID).groups(), strict=True):
        assert f"{record['metrics'][part]['accuracy']:.3f}" == f"0{figure}"
    assert (record["data"]["test"], record["data"]["validation"], record["data"]["train"]) == (20_000, 5_000, 25_000)
    assert record["epochs"] == 3 and record["arguments"]["precision"] == "bf16" and "encoder" not in record
    assert table.flags(record["arguments"]) == ["--preset", "dapt-imdb", "--batching", "length"]
    usual = train_cls.Arguments()
    assert record["arguments"]["learning_rate"] * 10 == pytest.approx(usual.learning_rate)
    assert record["arguments"]["batch_size"] == 4 * usual.batch_size


def test_what_it_says_of_the_published_classifier_on_an_adapted_encoder_is_in_both_records():
    plain, record = (json.loads((ROOT / f"results/dapt-imdb-{name}.json").read_text()) for name in ("minilm", "adapted"))
    said = r"on \*adapted\* reaches (\.\d+) of 20,000 \(validation: (\.\d+)\) and a ROC-AUC of (\.\d+): "
    said += r"([\d,]+) mistakes where \*plain\* made ([\d,]+), (\d+)% fewer, of one seed each \(and the intervals overlap\)\. "
    said += r"The adaptation is ours of (\d+) minutes"
    *figures, mistakes, of_plain, fewer, minutes = re.search(said, RESULTS_SAID).groups()
    test, validation = record["metrics"]["test"], record["metrics"]["validation"]
    expected = (f"{test['accuracy']:.3f}", f"{validation['accuracy']:.3f}", f"{test['roc_auc']:.4f}")
    assert [f"0{figure}" for figure in figures] == [*expected]
    wrong = [one["metrics"]["test"]["confusion_matrix"] for one in (record, plain)]
    wrong = [matrix[0][1] + matrix[1][0] for matrix in wrong]
    assert [int(count.replace(",", "")) for count in (mistakes, of_plain)] == wrong
    assert round(100 * (1 - wrong[0] / wrong[1])) == int(fewer)
    same = ("preset", "batching", "precision", "seed", "num_train_epochs", "learning_rate")
    assert all(record["arguments"][name] == plain["arguments"][name] for name in same)
    assert (record["encoder"]["max_steps"], minutes) == (2_400, "47")


def test_how_far_the_calibrated_are_from_what_we_aimed_at_is_in_the_records():
    said = r"an ECE of (\.\d+) at most: grojeda's recipe on `minilm` misses it by (\.\d+), the other eight calibrated reach"
    aim, missed = map(float, re.search(said, RESULTS_SAID).groups())
    records = {path.stem: json.loads(path.read_text()) for path in (ROOT / "results").glob("*.json")}
    found = {name: record["calibration"]["ece"]["after"] for name, record in records.items() if "calibration" in record}
    assert found.pop("imdb-384-minilm") - aim == pytest.approx(missed, abs=5e-5)
    assert len(found) == 8 and max(found.values()) <= aim
    assert {f"imdb-adapted-384tok-seed{seed}" for seed in range(3)} < found.keys()


def test_how_far_sst2_is_from_what_we_aimed_at_is_in_the_records():
    aim, missed = map(
        float, re.search(r"aimed at (\.\d+) there, and the best of them misses it by (\.\d+):", RESULTS_SAID).groups()
    )
    found = (table.sst2_dev(json.loads(path.read_text())) for path in (ROOT / "results").glob("*.json"))
    assert aim - max(one["accuracy"] for one in found if one) == pytest.approx(missed, abs=5e-4)


def test_what_it_says_of_its_errors_on_other_data_is_in_the_record():
    record = json.loads((ROOT / "results" / "imdb-384tok-seed2.json").read_text())["evaluations"]["sst2"]
    said = r"of (\d+) to (\d+) words, where .* reaches (\.\d+) on the shortest .* and (\.\d+) on the longest; "
    said += r"of its (\d+) mistakes (\d+) call a negative"
    least, most, *accuracies, mistakes, raised = re.search(said, RESULTS_SAID).groups()
    quarters = [(kind, figures) for kind, figures in record["kinds"].items() if "quarter" in kind]
    assert f"({least}-" in quarters[0][0] and f"-{most})" in quarters[3][0]
    assert accuracies == [f"{quarters[i][1]['accuracy']:.3f}"[1:] for i in (0, 3)]
    (_, one), (other, _) = record["confusion_matrix"]
    assert (one + other, one) == (int(mistakes), int(raised)) and len(record["confident_mistakes"]) == 20
    reviews = json.loads((ROOT / "results" / "imdb-plain-seed0.json").read_text())["evaluations"]["aclImdb_v1"]["kinds"]
    assert any("quarter 2" in kind and kind.endswith("-170)") for kind in reviews)


def test_what_it_says_of_its_errors_is_in_the_record():
    evaluation = json.loads((ROOT / "results" / "imdb-plain-seed0.json").read_text())["evaluations"]["aclImdb_v1"]
    kinds, mistakes = evaluation["kinds"], evaluation["confident_mistakes"]
    worst = sorted(kinds, key=lambda kind: kinds[kind]["accuracy"])[:4]
    longest = next(kind for kind in kinds if "quarter 4" in kind)
    assert worst == [*(f"{rating} stars of 10" for rating in (4, 7, 3)), longest]
    assert len(mistakes) == 20 and evaluation["n"] == 25_000
    stars = [int(re.search(r"_(\d+)\.txt$", mistake["name"])[1]) for mistake in mistakes]
    assert all((rating <= 4) == (mistake["said"] == 1) for rating, mistake in zip(stars, mistakes, strict=True))
    more = json.loads((ROOT / "results" / "imdb-384tok-seed0.json").read_text())["evaluations"]["aclImdb_v1"]["kinds"]
    gains = {kind: more[kind]["accuracy"] - kinds[kind]["accuracy"] for kind in kinds if "quarter" in kind}
    (before, after), lukewarm = (
        [f"{figures[kind]['accuracy']:.3f}"[1:] for figures in (kinds, more)] for kind in (longest, worst[0])
    )
    said = f"gain most of the four quarters, {before} → {after}; four-star reviews even more, {' → '.join(lukewarm)}.)"
    assert said in RESULTS_SAID and max(gains, key=gains.get) == longest
    assert "errs most on lukewarm reviews, of four, seven and three stars, and then on the longest" in RESULTS_SAID
    assert "We read its twenty most confident mistakes" in RESULTS_SAID


def test_what_adaptation_does_with_all_labels_is_counted_from_both_records():
    records = [json.loads((ROOT / "results" / f"imdb-{kind}-seed0.json").read_text()) for kind in ("plain", "longer")]
    matrices = [record["metrics"]["test"]["confusion_matrix"] for record in records]
    plain, adapted = (matrix[0][1] + matrix[1][0] for matrix in matrices)
    counts = rf"are {plain:,} and, on \*longer\*, {adapted:,}:\s{1 - adapted / plain:.1%} fewer"
    newer = json.loads((ROOT / "results" / "imdb-384tok-seed0.json").read_text())["data"]["dropped_duplicates"]
    dropped = r"and (\d+) that stand in validation or test as well \(older records count (\d+) unlabelled ones, too\)"
    leaks, unlabelled = map(int, re.search(dropped, RESULTS_SAID).groups())
    assert [record["data"]["dropped_duplicates"] for record in records] == [leaks + unlabelled] * 2 and newer == leaks
    assert re.search(rf"all {records[0]['data']['train']:,} labels, [^.]* {counts}", RESULTS_SAID)
    assert [record["arguments"]["precision"] for record in records] == ["fp32", "bf16"]


def test_what_it_says_of_its_speed_is_in_the_record_of_the_comparison():
    record = json.loads((ROOT / "benchmarks" / "compare.json").read_text())
    rates = {name: one["tokens_per_second"] for name, one in record["results"][0]["contestants"].items()}
    shares, compiled = ({size: [] for size in ("base", "minilm")} for _ in range(2))
    for result in record["results"]:
        for name, limit in result["limits"].items():
            found = [round(100 * limit[key]) for key in ("share", "least", "most")]
            if name == "ours compiled":
                slower_by = result["contestants"][name]["ours_is_faster_by"]["median"]
                compiled[result["size"]] += [f"{1 / slower_by:.2f}", *found]
            else:
                shares[result["size"]] += found
    steps = {name: one["ratio"] for name, one in record["optimizer"].items()}
    for said in (
        f"at {rates['ours fp32']:.0f} tokens a second, {rates['ours fp32'] / rates['trainer default']:.1f} times as fast",
        "a classifier reaches {}% ({} to {}%), a masked LM {}% ({} to {}%) and judging {}% ({} to {}%)".format(*shares["base"]),
        "at the size of `minilm` {}% ({} to {}%), {}% ({} to {}%) and {}% ({} to {}%)".format(*shares["minilm"]),
        f"AdamW by hand takes {steps['ours']:.1f} times as long as torch's fused one ({steps['ours_bf16']:.1f} with bf16",
        f"and with `--compile` {steps['compiled']:.2f} times ({steps['compiled_bf16']:.2f})",
        "a classifier trains {} times as fast and reaches {}% ({} to {}%), a masked LM {} times and {}% ({} to {}%); "
        "at the size of `minilm` {} times and {}% ({} to {}%), and {} times and {}% ({} to {}%)".format(
            *compiled["base"], *compiled["minilm"]
        ),
        "two cores of an Intel Xeon with AMX",
    ):
        assert said in RESULTS_SAID, said
    assert "Intel(R) Xeon(R)" in record["machine"]["processor"]
    flags = " ".join(f"--{name} {record[name]}" for name in ("steps", "rounds"))
    assert f"compare.py --data imdb {flags}`" in RESULTS_SAID


def test_what_it_says_of_its_speed_on_the_epyc_is_in_that_machines_record():
    record = json.loads((ROOT / "benchmarks" / "compare-avx512.json").read_text())
    results = {(one["size"], one["task"]): one for one in record["results"]}
    tasks = ("classification", "mlm", "inference")
    limits = {key: next(iter(one["limits"].values())) for key, one in results.items()}
    shares = {size: [round(100 * limits[size, task][key]) for task in tasks for key in ("share", "least", "most")]
              for size in ("base", "minilm")}  # fmt: skip
    gflops = [10 * round(limits["base", task]["limit_gflops"] / 10) for task in tasks]
    contestants = results["base", "classification"]["contestants"]
    rates = [contestants[name]["tokens_per_second"] for name in ("ours fp32", "trainer default")]
    steps = {name: one["ratio"] for name, one in record["optimizer"].items()}
    compiled = [1 / results[size, task]["contestants"]["ours compiled"]["ours_is_faster_by"]["median"]
                for size in ("base", "minilm") for task in tasks[:2]]  # fmt: skip
    for said in (
        f"the products alone reached {min(gflops)} to {max(gflops)} GFLOP/s",
        "a classifier reaches {}% ({} to {}%) of that, a masked LM {}% ({} to {}%) and judging {}% ({} to {}%); at the size of "
        "`minilm` {}% ({} to {}%), {}% ({} to {}%) and {}% ({} to {}%).".format(*shares["base"], *shares["minilm"]),
        f"at {rates[0]:.0f} tokens a second, {rates[0] / rates[1]:.1f} times as fast as theirs. AdamW takes "
        f"{steps['ours']:.1f} times as long as the fused one ({steps['ours_bf16']:.1f} with bf16 gradients), compiled "
        f"{steps['compiled']:.2f} times ({steps['compiled_bf16']:.2f}); so compiled, a classifier trains "
        "{:.2f} times as fast and a masked LM {:.2f} times, at the size of `minilm` {:.2f} and {:.2f} times.".format(*compiled),
        f"AVX512-BF16 and no AMX (Zen 5): `--steps {record['steps']} --rounds {record['rounds']}`",
    ):
        assert said in RESULTS_SAID, said
    assert record["machine"]["processor"] == "AMD EPYC" and record["bf16"]
    notes = " ".join((ROOT / "benchmarks" / "NOTES.md").read_text(encoding="utf-8").split())
    plain, fast = re.search(r"with `--compile`: (\d+) and (\d+) s, .* test reviews right by both", notes).groups()
    assert f"then took {fast} instead of {plain} seconds on the EPYC, with as many test reviews right" in SAID
    default, bf16, tuned = (contestants[f"trainer {how}"]["ours_is_faster_by"] for how in ("default", "bf16", "tuned"))
    said = "first two are {median:.1f} ({least:.1f} to {most:.1f}) and ".format(**default)
    said += f"{bf16['median']:.1f} times, and on our batches its bf16 Trainer takes {tuned['median']:.2f} times as long."
    assert said in SAID


def test_what_it_says_of_a_trainer_on_our_batches_is_in_the_record():
    record = json.loads((ROOT / "benchmarks" / "compare-fp32.json").read_text())
    faster = {result["size"]: {name: f"{one['ours_is_faster_by']['median']:.1f}" for name, one in result["contestants"].items()}
              for result in record["results"]}  # fmt: skip
    said = r"ours at the size of distilbert-base trains ([\d.]+) times as fast .*?, and ([\d.]+) times .*? minilm ([\d.]+) and "
    said += r"([\d.]+)\. "
    said += r"As it comes, with batches at random, the Trainer takes ([\d.]+) and ([\d.]+) times as long"
    tuned = [faster[size][f"trainer {how}"] for size in ("base", "minilm") for how in ("tuned", "tuned-no-attention-dropout")]
    default = [faster[size]["trainer default"] for size in ("base", "minilm")]
    assert list(re.search(said, RESULTS_SAID).groups()) == tuned + default
    assert (record["bf16"], record["max_length"], record["batch_size"], record["rounds"]) == (False, 512, 16, 2)


def test_the_readme_sums_up_the_results_page():
    said = r"in bf16 ([\d.]+) times .*\(fp32; ([\d.]+) to ([\d.]+) in three rounds\), and ([\d.]+) times as fast as with "
    said += r"its bf16; with both in fp32, ([\d.]+) times by the medians"
    ((default, *rounds, bf16, fp32),) = re.findall(said, SAID)
    base = [row for row in table.side_by_side().splitlines() if "| base | classification |" in row]
    rows = {row.split("|")[3].strip(): row for row in base}
    both_fp32 = re.search(r"In fp32 ours .*? a second, ([\d.]+) times as fast", RESULTS_SAID)[1]
    assert f"| {default} ({rounds[0]} to {rounds[1]}) |" in rows["Trainer as it comes (fp32)"]
    assert f"| {bf16} (" in rows["Trainer, bf16"] and fp32 == both_fp32
    said = r"on our batches the bf16 Trainer takes ([\d.]+) times as long\. .*? and on our batches, the bf16 Trainer takes "
    said += r"([\d.]+) times"
    tuned = ("Trainer, bf16, our batches by length", "the same, without attention dropout")
    assert list(re.search(said, SAID).groups()) == [rows[name].split("|")[6].split()[0] for name in tuned]
    low, high = re.search(r"keeps it \(([\d.]+) to ([\d.]+) in the rounds\)", SAID).groups()
    assert f"({low} to {high})" in rows[tuned[1]]
    avoided = {row.split("|")[1].strip(): row.split("|")[-2] for row in RESULTS.splitlines() if "| longer |" in row}
    hundred, five_hundred = re.search(r"they remove (\d+)% of the errors at 100 labels and (\d+)% at 500", SAID).groups()
    assert [round(float(avoided[labels].strip(" %"))) for labels in ("100", "500")] == [int(hundred), int(five_hundred)]
    minutes = sum(map(int, re.findall(r"M tokens, (\d+) minutes", RESULTS)))
    assert f"after {minutes} minutes of masked language" in SAID
    first = json.loads((ROOT / "results" / "adaptation" / "runs.json").read_text())["adaptations"]["adapted"]
    took = f"after the first {first['seconds'] / 60:.0f}, which took {first['peak_memory_bytes'] / 2**30:.1f} GiB"
    assert took in SAID


def test_what_the_second_adaptation_adds_is_in_the_table():
    gains = {
        tuple(cell.strip() for cell in row.split("|")[1:3]): float(row.split("|")[-3].split()[0])
        for row in table.with_and_without_adaptation().splitlines()
        if "±" in row and "gain" not in row
    }
    said = re.search(r"added (\d+)% of the first one's gain at 100 labels and (\d+)% at 500", RESULTS_SAID).groups()
    for labels, share in zip(("100", "500"), said, strict=True):
        assert round(100 * (gains[labels, "longer"] / gains[labels, "adapted"] - 1)) == int(share)


def test_what_adaptation_does_at_5000_labels_is_in_the_table():
    (row,) = [row for row in table.with_and_without_adaptation().splitlines() if row.startswith("| 5,000 | adapted | 3 |")]
    said = r"\*adapted\* alone takes away (\d+)% at 5,000, of which a part may be the number format"
    share = re.search(said, RESULTS_SAID)[1]
    assert round(float(row.split("|")[-2].strip(" %"))) == int(share)


def test_minilm_has_as_many_parameters_as_it_says():
    config = DistilBertConfig(dim=384, hidden_dim=1_536)
    count = sum(p.numel() for p in DistilBertModel(config).parameters())
    assert f"{count / 1e6:.1f} M parameters" in TEXT


def test_records_can_be_published():
    for path in (ROOT / "results").glob("*.json"):
        record = json.loads(path.read_text())
        flags = [*record["arguments"].values(), *record.get("encoder", {}).values()]
        assert not [value for value in flags if isinstance(value, str) and "/" in value]


def test_the_way_from_a_text_to_a_classifier_is_as_short_as_it_says():
    table = TEXT[TEXT.index("| `distilbert/config.py` |") : TEXT.index("| `train_cls.py` |") + len("| `train_cls.py` |")]
    files = re.findall(r"`([\w/]+\.py)`", table)
    assert files[:2] == ["distilbert/config.py", "distilbert/model.py"] and files[-1] == "train_cls.py" and len(files) == 10
    lines = sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files)
    assert "in under 1,450 lines" in TEXT and lines < 1_450
    model = len((ROOT / "distilbert" / "model.py").read_text(encoding="utf-8").splitlines())
    assert "the model is one file of 300 lines" in TEXT and 290 < model <= 300
