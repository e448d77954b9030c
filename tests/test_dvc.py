"""dvc.yaml against the code: a changed module, parameter or input can never be "up to date"."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dubmill.cli.step import STEPS

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STATE = {"DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def module_file(name: str) -> Path | None:
    """The file of module `name`, if it is one of the library's."""
    place = SOURCES / name.replace(".", "/")
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def imported(path: Path) -> set[str]:
    """The library's modules that `path` imports when it runs, also inside functions."""
    tree, names = ast.parse(path.read_text()), set()
    idle = {inner for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if node in idle:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("dubmill.") and module_file(name)}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def closure(word: str) -> set[Path]:
    """Every source file that step `word` can run; packages on the way count, since importing runs them."""
    files, todo = set(), [f"dubmill.steps.{word}"]
    while todo:
        name = todo.pop()
        parts = name.split(".")
        for path in filter(None, (module_file(".".join(parts[:end])) for end in range(2, len(parts) + 1))):
            if path not in files and path.stat().st_size:
                files.add(path)
                todo += imported(path)
    return {path for path in files if path != SOURCES / "dubmill/steps/__init__.py"}


def sources_of(word: str) -> list[str]:
    """What stage `word` must list: a file for a module, a folder for a package."""
    heads = {path.relative_to(SOURCES).parts[1] for path in closure(word)} - {"steps"}
    return sorted({f"src/dubmill/{head}" for head in heads} | {f"src/dubmill/steps/{word}.py"})


@pytest.mark.parametrize("word", STAGES)
def test_a_stage_depends_on_exactly_the_sources_its_step_can_run(word):
    listed = sorted(dep for dep in STAGES[word]["deps"] if dep.startswith("src/"))
    wanted = "\n".join(f"      - {source}" for source in sources_of(word))
    assert listed == sources_of(word), f"dvc.yaml, stage {word}, should list\n{wanted}"


@pytest.mark.parametrize("word", STAGES)
def test_a_stage_reads_what_its_command_reads_and_its_own_sections(word):
    stage = STAGES[word]
    options = stage["cmd"].split()
    given = {
        options[place + 1]
        for place, option in enumerate(options)
        if option.startswith("--") and option not in ("--out", "--again", "--metrics")
    }
    assert options[:3] == ["dubmill", "step", word]
    assert given == {dep for dep in stage["deps"] if dep.startswith("data/")}
    (step,) = (one for one in STEPS if one.word == word)
    assert stage["params"] == [word, *step.more_sections]
    assert options[options.index("--out") + 1] == f"data/{word}"


def test_every_folder_that_a_stage_reads_is_written_by_the_stage_of_that_word():
    read = {dep for stage in STAGES.values() for dep in stage["deps"] if dep.startswith("data/")}
    assert read <= {f"data/{word}" for word in STAGES}


def toy(folder: Path) -> Path:
    """A repository with the real dvc.yaml, reduced to its cheap first stage."""
    stage = STAGES["prompts"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"prompts": stage}}))
    for name in ("params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    for source in stage["deps"]:
        place = folder / source
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(ROOT / source)
    run(folder, "git", "init", "-q")
    for key in ("user.name", "user.email"):
        run(folder, "git", "config", key, "toy@localhost")
    return folder


def run(folder: Path, *command: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, cwd=folder, env=os.environ | STATE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_repro_runs_once_then_does_nothing_and_the_default_remote_gives_everything_back(tmp_path):
    toy(tmp_path)
    run(tmp_path, "dvc", "repro", "-q")
    before = (tmp_path / "data/prompts/manifest.json").read_bytes()
    assert "up to date" in run(tmp_path, "dvc", "repro")
    run(tmp_path, "dvc", "push", "-q")
    shutil.rmtree(tmp_path / "data")
    shutil.rmtree(tmp_path / ".dvc/cache")
    run(tmp_path, "dvc", "pull", "-q")
    assert (tmp_path / "data/prompts/manifest.json").read_bytes() == before


def test_an_experiment_with_another_value_reruns_the_stage_that_reads_it(tmp_path):
    toy(tmp_path)
    run(tmp_path, "git", "add", "dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", ".dvc")
    run(tmp_path, "git", "commit", "-qm", "toy")
    run(tmp_path, "dvc", "repro", "-q")
    before = (tmp_path / "data/prompts/manifest.json").read_bytes()
    run(tmp_path, "git", "add", "dvc.lock")
    run(tmp_path, "git", "commit", "-qm", "lock")
    run(tmp_path, "dvc", "exp", "run", "-q", "-S", "prompts.num_train=4")
    assert (tmp_path / "data/prompts/manifest.json").read_bytes() != before
