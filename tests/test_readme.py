"""The README against the tree and the records: commands parse, files exist, figures are those of results/."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import evaluate
import train_cls
import train_mlm
from distilbert.cli import parse
from distilbert.config import DistilBertConfig
from distilbert.model import DistilBertModel

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python ")
]
sys.path.insert(0, str(ROOT / "results"))

import table

SCRIPTS = {"train_cls.py": train_cls, "train_mlm.py": train_mlm, "evaluate.py": evaluate}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_names_what_exists_and_its_flags_parse(command):
    if command[1] == "-m":
        assert (ROOT / (command[2].replace(".", "/") + ".py")).exists()
    else:
        script = SCRIPTS[command[1]]
        parse(script.Arguments, command[2:], getattr(script, "PRESETS", None))


def test_every_file_it_names_is_there():
    names = re.findall(r"`((?:distilbert|data|tests|benchmarks|results)/[\w./]*|\w+\.(?:py|cff))`", TEXT)
    assert len(names) > 15
    for name in names:
        assert any((ROOT / folder / name).exists() for folder in ("", "distilbert", "benchmarks")), name


def test_the_map_names_every_module():
    for path in [*ROOT.glob("*.py"), *(ROOT / "distilbert").glob("[a-z]*.py"), *(ROOT / "data").glob("[a-z]*.py")]:
        assert path.name in TEXT, path.name


def test_the_result_table_is_made_of_the_records():
    assert f"<!-- results/table.py -->\n{table.table()}<!-- end -->" in TEXT


def test_the_means_it_speaks_of_are_those_of_the_records():
    records = [json.loads(path.read_text()) for path in (ROOT / "results").glob("imdb-2000-seed*.json")]
    (said,) = re.findall(r"mean of the three seeds on 2,000 reviews of IMDb is (\.\d+)", TEXT)
    assert len(records) == 3 and sum(r["metrics"]["test"]["accuracy"] for r in records) / 3 == pytest.approx(
        float(said), abs=5e-4
    )


def test_minilm_has_as_many_parameters_as_it_says():
    config = DistilBertConfig(dim=384, hidden_dim=1_536)
    count = sum(p.numel() for p in DistilBertModel(config).parameters())
    assert f"{count / 1e6:.1f} M parameters" in TEXT


def test_records_can_be_published():
    for path in (ROOT / "results").glob("*.json"):
        record = json.loads(path.read_text())
        assert not [value for value in record["arguments"].values() if isinstance(value, str) and "/" in value]


def test_the_way_from_a_text_to_a_classifier_is_as_short_as_it_says():
    table = TEXT[TEXT.index("| `distilbert/config.py` |") : TEXT.index("| `train_cls.py` |") + len("| `train_cls.py` |")]
    files = re.findall(r"`([\w/]+\.py)`", table)
    assert files[:2] == ["distilbert/config.py", "distilbert/model.py"] and files[-1] == "train_cls.py" and len(files) == 10
    lines = sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in files)
    assert "in under 1,400 lines" in TEXT and lines < 1_400
