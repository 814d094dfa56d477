"""Who may import whom, read off the source without running it."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = {"torch", "numpy", "tokenizers", "safetensors", "tqdm", "huggingface_hub"}  # what requirements.txt holds
OPTIONAL = {"matplotlib"}  # curves.svg is drawn where it is installed
LOADERS_OF_PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def sources():
    """Module name → syntax tree of every file of the project, tests aside."""
    paths = [
        *ROOT.glob("*.py"),
        *(path for folder in ("distilbert", "data", "benchmarks", "results") for path in (ROOT / folder).rglob("*.py")),
    ]
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name, tree):
    """Full names of all that a module imports, anywhere in it: modules, and what is taken from them."""
    package = name if (ROOT / name.replace(".", "/")).is_dir() else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            names = {f"{origin}.{alias.name}" for alias in node.names}
            found |= names if all(map(is_module, names)) else names | {origin}  # a package's module, not its front door
    return found


def is_module(name):
    return (ROOT / f"{name.replace('.', '/')}.py").exists()


TREES = sources()
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
IMPORTS = {name: imports(name, tree) for name, tree in TREES.items()}
OURS = {name: found & TREES.keys() for name, found in IMPORTS.items()}  # of these, the project's own modules
PACKAGES = [name for name in TREES if name.split(".")[0] in ("distilbert", "data")]


def test_the_reader_of_imports_sees_all_their_forms():
    source = "import a.b, c\nfrom .x import y\nfrom . import z\nfrom . import hub\ndef f():\n    from d import e as g\n"
    assert imports("distilbert.some", ast.parse(source)) == {
        *("a.b", "c", "distilbert.x", "distilbert.x.y", "distilbert", "distilbert.z", "distilbert.hub", "d", "d.e"),
    }
    assert imports("distilbert.some", ast.parse("from . import hub")) == {"distilbert.hub"}
    assert {"distilbert.config", "distilbert.optim", "data.batches", "train_cls"} <= TREES.keys()
    assert "distilbert.checkpoint" in OURS["distilbert.model"] and "data.batches" in OURS["data.cls"]


@pytest.mark.parametrize("name", ["optim", "precision", "metrics", "cli", "config", "hub"])
def test_the_parts_know_nothing_of_each_other(name):
    assert OURS[f"distilbert.{name}"] <= {"distilbert.errors", "distilbert.files", "distilbert.fast"}


def test_the_lowest_files_import_nothing_of_the_project_but_errors():
    assert OURS["distilbert.errors"] == set()
    assert OURS["distilbert.files"] == {"distilbert.errors"}


def test_the_model_knows_checkpoint_config_errors_and_fast_only():
    assert OURS["distilbert.model"] <= {f"distilbert.{name}" for name in ("checkpoint", "config", "errors", "fast")}
    assert OURS["distilbert.fast"] == set()


def test_data_imports_nothing_of_distilbert_but_errors_and_files():
    for name in PACKAGES:
        if name.startswith("data."):
            others = {found for found in OURS[name] if not found.startswith("data")}
            assert others <= {"distilbert.errors", "distilbert.files"}, name


def test_no_module_goes_through_the_front_door_of_its_own_package():
    assert {name for name in PACKAGES if "distilbert" in IMPORTS[name] and name != "distilbert"} == set()


def test_no_package_and_no_script_imports_a_script():
    assert {name for name in (*PACKAGES, *SCRIPTS) if IMPORTS[name] & SCRIPTS} == set()


def test_no_benchmark_imports_a_script():
    assert {name for name in IMPORTS if IMPORTS[name] & SCRIPTS and name.startswith("benchmarks")} == set()


def test_no_module_imports_itself_by_a_detour():
    try:
        TopologicalSorter(OURS).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_transformers_appears_in_tests_and_benchmarks_only():
    found = {name for name, modules in IMPORTS.items() if any(module.split(".")[0] == "transformers" for module in modules)}
    assert {name for name in found if not name.startswith("benchmarks")} == set()


def test_the_requirements_are_all_that_is_needed():
    ours = {name.split(".")[0] for name in TREES}
    for name, modules in IMPORTS.items():
        if not name.startswith(("benchmarks", "results")):
            foreign = {module.split(".")[0] for module in modules} - ours - set(sys.stdlib_module_names)
            assert foreign <= RUNTIME | OPTIONAL, name
    lines = (ROOT / "requirements.txt").read_text().split()
    assert all("==" in line for line in lines) and {line.partition("==")[0] for line in lines} == RUNTIME


def test_no_file_loads_or_writes_a_pickle():
    for name, tree in TREES.items():
        roots = {module.split(".")[0] for module in IMPORTS[name]}
        assert not roots & LOADERS_OF_PICKLES, name
        assert not IMPORTS[name] & {"torch.load", "torch.save"}, name
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("load", "save"):
                assert not (isinstance(node.value, ast.Name) and node.value.id == "torch"), f"{name}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{name}:{node.value.lineno}"


def test_importing_the_package_does_not_import_torch():
    code = "import sys, distilbert; assert 'torch' not in sys.modules; distilbert.DistilBertConfig; distilbert.Tokenizer"
    code += "; assert 'torch' not in sys.modules; distilbert.DistilBertModel; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_public_name_is_there_and_others_are_attribute_errors():
    import distilbert

    for name in distilbert.__all__:
        assert getattr(distilbert, name).__name__ == name
    with pytest.raises(AttributeError, match="'DistilBert'"):
        distilbert.DistilBert  # noqa: B018
