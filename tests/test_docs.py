"""What the documents say is what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dubmill import __version__
from dubmill.cli.main import app
from dubmill.config.params import STEPS, load
from dubmill.report.look import params_markdown

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("components/**/*.md"), *ROOT.glob("k8s/**/*.md")]
)
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
GROUPS = [group.name for group in app.registered_groups]


def test_the_readme_names_the_two_commands():
    assert "make demo" in README
    assert "make test" in README


@pytest.mark.parametrize("name", [*STEPS, *COMMANDS])
def test_the_readme_names_every_word_and_every_command(name):
    assert re.search(rf"`[^`]*\b{name}\b[^`]*`|^\s*dubmill {name}\b|\b{name} ", README, re.MULTILINE)


def test_the_table_of_parameters_is_the_programs_own():
    """Made by `dubmill params --markdown > docs/params.md`."""
    assert (ROOT / "docs/params.md").read_text() == params_markdown(load(ROOT / "params.yaml"))


def test_the_readme_says_where_the_parameters_are_described():
    assert "docs/params.md" in README or "dubmill params" in README


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_and_every_command_that_a_document_names_exists(document):
    text = document.read_text()
    targets = set(re.findall(r"(?:`|^\s*|&& )make ([a-z]+)\b", text, re.MULTILINE))
    known = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    assert targets <= known
    said = set(re.findall(r"(?:`|^\s*)dubmill ([a-z]+)\b", text, re.MULTILINE))
    assert said <= {*COMMANDS, *GROUPS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(document):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text())
    assert not [link for link in links if not (document.parent / link).exists()]


def test_the_changelog_begins_with_what_this_version_is():
    first = re.search(r"^## \[(.+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first
    assert first[1] == __version__


def test_the_picture_of_the_layers_is_drawn_from_the_import_contract():
    """Drawn by `python docs/draw_architecture.py`."""
    command = "import draw_architecture as d; print(d.picture(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT / "docs", capture_output=True, text=True, check=True
    )
    assert done.stdout == (ROOT / "docs/images/architecture.svg").read_text()


def test_the_architecture_page_describes_every_room_and_names_only_files_that_exist():
    page = (ROOT / "docs/architecture.md").read_text()
    rooms = {
        path.name for path in (ROOT / "src/dubmill").iterdir() if path.is_dir() and (path / "__init__.py").exists()
    }
    assert not [room for room in rooms if f"`{room}/`" not in page]
    named = re.findall(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.py)`", page)
    assert not [name for name in named if not any((ROOT / base / name).exists() for base in ("src/dubmill", "."))]


def test_the_lock_holds_every_package_that_development_needs_at_the_version_of_the_constraints():
    """A changed dependency needs `make lock`, or a fresh clone would lack it: the lock is installed without resolving."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, wanted, queue = project["optional-dependencies"], [*project["dependencies"]], ["dev"]
    while queue:
        for text in extras[queue.pop()]:
            requirement = Requirement(text)
            if requirement.name == project["name"]:
                queue += requirement.extras
            else:
                wanted.append(text)
    locked, constrained = (pinned(ROOT / name) for name in ("requirements.lock", "constraints.txt"))
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        version = constrained[name]
        assert requirement.specifier.contains(version), name
        assert name == "torch" or locked[name] == version, f"{name}: run `make lock`"


def pinned(path):
    """The version of each package in a file of `name==version` lines."""
    pairs = re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pairs}
