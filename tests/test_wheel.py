"""The wheel holds all that the library needs: it runs from an empty folder, without the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dubmill import __version__
from dubmill.config.params import load
from dubmill.report.look import params_markdown

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "params.yaml", "src")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from a copy of the sources and installed into a folder of its own."""
    copy, wheels, target = (tmp_path_factory.mktemp(name) for name in ("copy", "wheels", "installed"))
    for name in SOURCES:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copyfile(source, copy / name)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, copy])
    (wheel,) = wheels.glob("dubmill-*.whl")
    assert wheel.name.startswith(f"dubmill-{__version__}-")
    run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel])
    return target


def run(command: list[str | Path], **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dubmill(installed: Path, folder: Path, *arguments: str | Path) -> str:
    """The command of the installed wheel, run in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return run([sys.executable, "-m", "dubmill.cli.main", *arguments], cwd=folder, env=environment)


def test_the_installed_library_is_the_wheels(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    code = "import dubmill; print(dubmill.__file__, dubmill.__version__)"
    place, version = run([sys.executable, "-c", code], cwd=tmp_path, env=environment).split()
    assert Path(place).is_relative_to(installed)
    assert version == __version__


def test_the_default_params_ship_and_are_the_repositorys(installed, tmp_path):
    shipped = dubmill(installed, tmp_path, "params", "--markdown")
    assert shipped == params_markdown(load(ROOT / "params.yaml"))
    assert (installed / "dubmill/config/params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_presets_plans_and_steps_work_from_an_empty_folder(installed, tmp_path):
    assert "jdi-19b" in dubmill(installed, tmp_path, "presets")
    assert "transformer" in dubmill(installed, tmp_path, "plan", "--overlay", "jdi-19b")
    dubmill(installed, tmp_path, "step", "prompts", "--out", tmp_path / "prompts")
    assert (tmp_path / "prompts" / "manifest.json").is_file()


def test_weights_pages_and_licence_ship(installed):
    for name in (
        "nano/weights/transformer/config.json",
        "report/templates/report.html.j2",
        "serving/pages/studio.html",
        "serving/pages/films.js",
        "serving/pages/studio.css",
    ):
        assert (installed / "dubmill" / name).is_file(), name
    (info,) = installed.glob("dubmill-*.dist-info")
    assert {path.name for path in (info / "licenses").iterdir()} == {"LICENSE", "NOTICE"}
