"""The lessons against the code: quoted lines stand in it, snippets print what is printed, exercises go from red to green."""

import ast
import codeop
import contextlib
import io
import re
import shlex
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from pathlib import Path

import pytest
import torch

from distilbert.cli import parse

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "lessons"
CONTENTS = (FOLDER / "README.md").read_text(encoding="utf-8")
LESSONS = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("[0-9][0-9]-*.md"))}
EXERCISES = sorted(path.stem for path in (FOLDER / "exercises").glob("*.py"))
QUOTED = r"`([\w/]+\.py)`,\s+`([\w.]+)`:\s+`([^`]+)`"  # `file.py`, `name`: `a line of it`
SNIPPET = r"```python( slow)?\n(.*?)```\n\n```text\n(.*?)```"
DECIMAL = r"-?\d+\.\d+"

every_lesson = pytest.mark.parametrize("name", LESSONS)
every_exercise = pytest.mark.parametrize("exercise", EXERCISES)


# ---- the text


def test_there_are_twelve_and_the_contents_list_them_in_order():
    assert [name[:2] for name in LESSONS] == [f"{number:02}" for number in range(1, 13)]
    assert re.findall(r"\]\((\d\d-[\w-]+\.md)\)", CONTENTS) == list(LESSONS)
    assert "CC BY 4.0" in CONTENTS


@every_lesson
def test_a_lesson_opens_with_a_question_and_has_all_its_sections(name):
    title, question, *_ = LESSONS[name].split("\n\n")
    assert title.startswith(f"# {int(name[:2])} · ")
    assert question.startswith("**") and question.endswith("?**")
    sections = re.findall(r"^## (.*)$", LESSONS[name], re.MULTILINE)
    assert sections[0] == "After this you can" and sections[-3:] == ["To talk about", "Exercises", "Sources"]


@every_lesson
def test_every_link_leads_somewhere(name):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", LESSONS[name]):
        assert (FOLDER / target).exists(), target


@every_lesson
def test_every_quoted_line_stands_in_the_code(name):
    quotes = re.findall(QUOTED, LESSONS[name])
    assert len(quotes) >= 3
    for file, where, line in quotes:
        lines = [text.strip() for text in definition(ROOT / file, where).splitlines()]
        assert line in lines or line in [re.sub(r"\s+# .*", "", text) for text in lines], f"{file}, {where}: {line}"


def definition(path: Path, name: str) -> str:
    """The source of a function, a class, a method ("Class.method") or a module's constant."""
    source = path.read_text(encoding="utf-8")
    node = ast.parse(source)
    for part in name.split("."):
        node = next((inner for inner in ast.walk(node) if part in names_of(inner)), None)
        assert node is not None, f"{path.name} has no {name}"
    return ast.get_source_segment(source, node)


def names_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []


@pytest.mark.parametrize("name", ["README.md", *LESSONS])
def test_every_command_names_a_script_and_flags_that_exist(name):
    text = CONTENTS if name == "README.md" else LESSONS[name]
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for words in filter(None, (shlex.split(line, comments=True) for line in block.splitlines())):
            if words[0] == "pytest":
                assert all((ROOT / word).exists() for word in words[1:] if "/" in word), words
            elif words[:2] == ["python", "-m"]:
                check_flags(words[2], words[3:])
            else:
                assert words[0] == "python" and (ROOT / words[1]).exists(), words
                check_flags(words[1].removesuffix(".py").replace("/", "."), words[2:])


def check_flags(name: str, flags: list[str]) -> None:
    module = import_module(name)
    own = [value for key, value in vars(module).items() if key.endswith("Arguments") and value.__module__ == name]
    if own:
        parse(own[0], flags, getattr(module, "PRESETS", None))
    else:
        assert name == "distilbert.checkpoint" and len(flags) == 1, "the one that takes a name and no flags"


# ---- the snippets


def snippets(name: str, slow: bool = False) -> list[tuple[str, str]]:
    found = re.findall(SNIPPET, LESSONS[name], re.DOTALL)
    assert len(found) == LESSONS[name].count("```python"), f"{name}: a snippet without its output"
    return [(code, printed) for mark, code, printed in found if slow or not mark]


@every_lesson
def test_every_snippet_prints_what_the_lesson_shows(name):
    check_snippets(snippets(name))


@every_lesson
def test_every_snippet_can_be_pasted_into_a_prompt_that_reads_line_by_line(name):
    for code, _ in snippets(name, slow=True):
        pending: list[str] = []
        for line in [*code.splitlines(), ""]:
            pending.append(line)
            if codeop.compile_command("\n".join(pending), symbol="single"):  # whole; a block is, once a line is blank
                pending = []
        assert not any(pending)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, text in LESSONS.items() if "```python slow" in text])
def test_the_experiments_of_a_minute_print_what_the_lesson_shows(name):
    check_snippets(snippets(name, slow=True))


def check_snippets(blocks: list[tuple[str, str]]) -> None:
    assert blocks
    session: dict = {}  # one Python session a lesson: a later snippet may use an earlier one's names
    with torch.random.fork_rng():
        for code, expected in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "<snippet>", "exec"), session)
            assert same(printed.getvalue(), expected), f"printed\n{printed.getvalue()}\nexpected\n{expected}"


def same(printed: str, expected: str) -> bool:
    """Equal but for spaces, and for one in the last place of a decimal number: another processor sums in another order."""
    if re.sub(DECIMAL, "#", printed).split() != re.sub(DECIMAL, "#", expected).split():
        return False
    pairs = zip(re.findall(DECIMAL, printed), re.findall(DECIMAL, expected), strict=True)
    return all(abs(float(a) - float(b)) <= 1.01 * 10.0 ** -len(b.partition(".")[2]) for a, b in pairs)


def test_same_forgives_the_last_digit_and_nothing_else():
    assert same("loss  1.235\n", "loss 1.234") and same("0.00 x", "-0.00 x") and same("2 a", "2 a\n")
    assert not same("loss 1.236", "loss 1.234") and not same("loss 1.234", "lass 1.234")
    assert not same("2", "3") and not same("1.5 2.5", "1.5")


@every_lesson
def test_every_long_number_of_the_prose_is_printed_by_a_snippet_or_cited(name):
    text = LESSONS[name]
    printed = numbers("\n".join(output for _, _, output in re.findall(SNIPPET, text, re.DOTALL)))
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    for paragraph in prose.split("\n\n"):
        if "http" not in paragraph:
            assert numbers(paragraph) <= printed, numbers(paragraph) - printed


def numbers(text: str) -> set[float]:
    """Numbers with two or more decimals, or with four or more digits before the point (years aside)."""
    found = set(re.findall(r"\d+\.\d{2,}|\b\d{4,}\b|\b\d{1,3}(?:,\d{3})+\b", text))
    return {float(number.replace(",", "")) for number in found if not re.fullmatch(r"(19|20)\d\d", number)}


@every_lesson
def test_every_picture_is_whole_and_its_numbers_are_the_lesson_s(name):
    for picture in re.findall(r"!\[[^\]]+\]\((pictures/[\w-]+\.svg)\)", LESSONS[name]):
        root = ElementTree.parse(FOLDER / picture).getroot()
        assert root.find("{http://www.w3.org/2000/svg}title").text
        words = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
        assert numbers(words) <= numbers(LESSONS[name]), picture


def test_every_picture_is_shown():
    shown = set(re.findall(r"pictures/([\w-]+\.svg)", "".join(LESSONS.values())))
    assert shown == {path.name for path in (FOLDER / "pictures").iterdir()}


# ---- the exercises


def test_every_lesson_has_exercises_and_every_exercise_a_lesson_and_a_solution():
    assert sorted(path.stem for path in (FOLDER / "solutions").glob("*.py")) == EXERCISES
    for name, text in LESSONS.items():
        asked = re.findall(rf"exercises/(e{name[:2]}_\w+)\.py", text.partition("## Exercises")[2])
        assert sorted(set(asked)) == [exercise for exercise in EXERCISES if exercise.startswith(f"e{name[:2]}_")]
        assert len(set(asked)) >= 2, name
    assert sum("_repair_" in exercise for exercise in EXERCISES) >= 2


def run(folder: str, exercise: str) -> dict:
    space = {"__name__": f"{folder}.{exercise}"}
    exec(compile((FOLDER / folder / f"{exercise}.py").read_text(encoding="utf-8"), f"{folder}/{exercise}.py", "exec"), space)
    return space


def claims_of(space: dict) -> dict:
    return {name: value for name, value in space.items() if name.startswith("test_")}


@every_exercise
def test_an_exercise_is_red_until_it_is_solved(exercise):
    tests = claims_of(run("exercises", exercise))
    assert tests
    with torch.random.fork_rng():
        for test in tests.values():
            with pytest.raises((AssertionError, NotImplementedError)):
                test()


@every_exercise
def test_a_solution_turns_its_exercise_green(exercise):
    space, solution = run("exercises", exercise), run("solutions", exercise)
    own = {name: value for name, value in solution.items() if getattr(value, "__module__", "") == solution["__name__"]}
    assert own and own.keys() <= space.keys() and not claims_of(solution), "a solution fills in the stubs and nothing else"
    space.update(own)  # the exercise's tests look their subject up here
    with torch.random.fork_rng():
        for test in claims_of(space).values():
            test()


def test_the_ordinary_suite_does_not_collect_the_exercises():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["testpaths"] == ["tests"]


@pytest.mark.slow
def test_pytest_shows_every_exercise_red_to_a_student():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=no", "lessons/exercises"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    red = set(re.findall(r"FAILED lessons/exercises/(\w+)\.py", answer.stdout))
    assert answer.returncode == 1 and sorted(red) == EXERCISES and "passed" not in answer.stdout
