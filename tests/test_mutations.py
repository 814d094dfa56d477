"""Every mutation still applies to the source, and names a test that exists."""

import ast
import subprocess
import sys

import mutations
import pytest
from mutations import MUTATIONS, ROOT, Mutation

BY_NAME = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)


@BY_NAME
def test_a_mutation_stands_in_one_place_and_makes_another_program_that_is_python(mutation):
    before = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(mutation.apply(ROOT))) != ast.dump(ast.parse(before))


@BY_NAME
def test_a_mutation_names_a_test_that_exists(mutation):
    file, function = mutation.node.split("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_there_are_as_many_mutations_as_is_said_each_with_its_own_name():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert f"each of {len(MUTATIONS)} plausible mistakes" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("old", "count"), [("nowhere to be found", 0), ("self", 84)])
def test_a_mutation_that_does_not_stand_in_exactly_one_place_says_so(tmp_path, old, count):
    (tmp_path / "some.py").write_text("self\n" * 84)
    with pytest.raises(ValueError, match=f"stands {count} times in some.py"):
        Mutation("m", "some.py", old, "new", "a::b").apply(tmp_path)


def test_an_unknown_name_is_refused(capsys):
    assert mutations.main(["wald", "walt"]) == 2
    assert "no mutation is called walt" in capsys.readouterr().err


@pytest.mark.slow
def test_a_mutant_is_found_and_a_harmless_one_survives():
    code = "import sys; sys.path.insert(0, 'tests'); import mutations as m; harmless = m.Mutation('harmless', m.METRICS, "
    code += "'n, right = int', 'n, right =  int', 'metrics::the_interval_of_nothing_is_nan'); "
    code += "m.MUTATIONS = [w for w in m.MUTATIONS if w.name == 'wald'] + {}; sys.exit(m.main([]))"
    for more, status in (("[]", 0), ("[harmless]", 1)):
        done = subprocess.run([sys.executable, "-c", code.format(more)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert ("SURVIVED" in done.stdout) == bool(status) and "found" in done.stdout
