"""The house's rules that are not style: arrows between modules, thin components, names and sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dubmill.config.params import STEPS

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "src/dubmill").rglob("*.py"))
EDGES = sorted([*(ROOT / "components").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])
TESTS = sorted((ROOT / "tests").glob("*.py"))
WORDS = list(STEPS)
VAGUE = {"utils", "util", "helpers", "common", "base", "misc"}
COMPONENT_LINES = 12


def functions(path: Path):
    """Every function of a file."""
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def relative(path: Path) -> str:
    """How a message names a file."""
    return path.relative_to(ROOT).as_posix()


def test_the_arrows_between_modules_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_module_has_a_name_without_meaning():
    assert not [relative(path) for path in (*LIBRARY, *EDGES) if path.stem in VAGUE or path.parent.name in VAGUE]


IN_DIFFUSERS_IDIOM = (
    "src/dubmill/model/pipeline.py",
    "__call__",
)  # its signature and its docstring tell every argument


def lines(path: Path, one: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The length of a function."""
    first = one.body[1] if (relative(path), one.name) == IN_DIFFUSERS_IDIOM else one
    return one.end_lineno - first.lineno + 1


def test_functions_and_files_are_within_the_limits_of_length():
    long = [
        f"{relative(path)}:{one.lineno} {one.name}: {lines(path, one)} lines"
        for path in (*LIBRARY, *EDGES)
        for one in functions(path)
        if lines(path, one) > 60
    ]
    files = {relative(path): len(path.read_text().splitlines()) for path in (*LIBRARY, *EDGES)}
    assert not long
    assert not {name: lines for name, lines in files.items() if lines > 350}


def test_functions_are_short_as_a_rule():
    lengths = sorted(one.end_lineno - one.lineno + 1 for path in LIBRARY for one in functions(path))
    assert lengths[len(lengths) // 2] <= 8
    assert lengths[len(lengths) * 9 // 10] <= 20


@pytest.mark.parametrize("word", WORDS)
def test_a_word_names_its_section_step_component_and_readme(word):
    assert (ROOT / f"src/dubmill/steps/{word}.py").is_file()
    component = ROOT / f"components/{word}/component.py"
    assert [one.name for one in functions(component)] == [word]
    assert f"# {word}" in (component.parent / "README.md").read_text()


@pytest.mark.parametrize("word", WORDS)
def test_a_component_only_opens_validates_calls_and_logs(word):
    (function,) = functions(ROOT / f"components/{word}/component.py")
    statements = [node for node in function.body[1:] if not isinstance(node, ast.Import | ast.ImportFrom)]
    lines = statements[-1].end_lineno - statements[0].lineno + 1
    assert lines <= COMPONENT_LINES
    assert not [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.For | ast.While | ast.Try | ast.FunctionDef) and node is not function
    ]


@pytest.mark.parametrize("word", WORDS)
def test_a_components_readme_names_all_it_takes_and_gives(word):
    (function,) = functions(ROOT / f"components/{word}/component.py")
    readme = (ROOT / f"components/{word}/README.md").read_text()
    assert not [argument.arg for argument in function.args.args if f"`{argument.arg}`" not in readme]


def test_the_dvc_stages_are_the_words_up_to_evaluate():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == WORDS[: WORDS.index("evaluate") + 1]


def test_slow_packages_are_not_imported_before_a_command_is_chosen():
    code = "import sys, dubmill.cli.main; print([m for m in ('torch', 'diffusers', 'mlflow', 'kfp', 'pyarrow', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_test_file_is_collected():
    """A test is a flat function named as a sentence; a class would hide its state."""
    assert not [
        relative(path)
        for path in TESTS
        if any(isinstance(n, ast.ClassDef) and n.name.startswith("Test") for n in ast.parse(path.read_text()).body)
    ]
