"""The command `dubmill`: every word a sub-command, every fault one sentence and exit code 2."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Adapter, PromptSet, Release
from dubmill.cli import main as cli
from dubmill.cli import step
from dubmill.config.params import STEPS

ROOT = Path(__file__).parent.parent
FEW = "prompts: {num_train: 2, num_heldout: 1}"
CONSENT = ("--consent", "Ana Ruiz, the speaker, agrees")


def dubmill(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The real command."""
    command = [sys.executable, "-m", "dubmill.cli.main", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def call(monkeypatch, *arguments: str | Path) -> int:
    """The command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["dubmill", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


@pytest.fixture
def few(tmp_path):
    """An overlay that asks for three prompts."""
    path = tmp_path / "few.yaml"
    path.write_text(FEW)
    return path


def is_one_sentence(text: str) -> bool:
    """Whether a person got one line and no traceback."""
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text


def test_help_names_every_word_and_comes_at_once():
    started = time.process_time()
    done = dubmill("--help")
    assert time.process_time() - started < 1
    commands = ("dub", "step", "adapter", "serve", "rollback", "look", "params", "plan", "presets")
    assert not [command for command in commands if f" {command} " not in done.stdout]


def test_the_table_of_steps_has_every_section_of_the_params_in_order():
    assert [one.word for one in step.STEPS] == list(STEPS)


def test_each_step_function_takes_what_the_table_says_it_takes():
    for one in step.STEPS:
        function = getattr(importlib.import_module(f"dubmill.steps.{one.word}"), one.word)
        names = list(inspect.signature(function).parameters)
        assert names[: len(one.inputs)] == list(one.inputs)
        assert names[len(one.inputs) :][: len(one.more_sections)] == [f"{word}_params" for word in one.more_sections]
        assert ("shard_slice" in names) == one.has_shards


def test_a_persons_dub_has_no_option_of_the_step(monkeypatch, capsys):
    assert call(monkeypatch, "dub", "--help") == 0
    options = capsys.readouterr().out
    assert "--script" in options
    assert not [name for name in ("--pairs", "--shard", "--again") if name in options]


@pytest.mark.parametrize("word", list(STEPS))
def test_every_step_explains_its_options(word, monkeypatch, capsys):
    assert call(monkeypatch, "step", word, "--help") == 0
    said = capsys.readouterr().out
    assert "--out" in said
    assert "--overlay" in said


def test_a_step_seals_its_artifact_and_looking_shows_it(tmp_path, few, monkeypatch, capsys):
    assert call(monkeypatch, "step", "prompts", "--out", tmp_path / "prompts", "--overlay", few) == 0
    sealed = PromptSet.open(tmp_path / "prompts")
    assert len(sealed.rows) == 3
    assert sealed.digest[:12] in capsys.readouterr().out
    assert call(monkeypatch, "look", tmp_path / "prompts") == 0
    shown = capsys.readouterr().out
    assert sealed.digest in shown
    assert "| rows of heldout | 1 |" in shown


def test_a_finished_artifact_is_made_again_only_on_request(tmp_path, few, monkeypatch):
    out = tmp_path / "prompts"
    call(monkeypatch, "step", "prompts", "--out", out, "--overlay", few)
    born = (out / "manifest.json").stat().st_ino, (out / "rows.parquet").stat().st_mtime_ns
    call(monkeypatch, "step", "prompts", "--out", out, "--overlay", few)
    assert born == ((out / "manifest.json").stat().st_ino, (out / "rows.parquet").stat().st_mtime_ns)
    call(monkeypatch, "step", "prompts", "--out", out, "--overlay", few, "--again")
    assert born[1] != (out / "rows.parquet").stat().st_mtime_ns


def test_starting_over_keeps_a_draft_of_this_code_and_drops_one_of_other_code(tmp_path):
    out = tmp_path / "adapter"
    step.start_over(out)
    draft = Adapter.draft(out, Lineage(step="train", params={}))
    draft.write("checkpoint", b"half-way")
    step.start_over(out)
    assert (out / "checkpoint").is_file()
    (tmp_path / ".adapter.code").write_text("the code of last week")
    step.start_over(out)
    assert not out.exists()


def test_starting_over_never_touches_a_folder_of_others(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    step.start_over(tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").is_file()


def test_a_fault_is_one_sentence_on_stderr_and_exit_code_2(tmp_path):
    done = dubmill("step", "gate", "--backbone", tmp_path, "--pairs", tmp_path, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert is_one_sentence(done.stderr)
    assert str(tmp_path) in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("look", "nowhere"),
        ("params", "--params", "nowhere.yaml"),
        ("dub", "nowhere.mp4", "--out", "x.mp4", "--to", "es", "--text", "uno", *CONSENT),
        ("dub", "README.md", "--out", "x.mp4"),
        ("dub", "README.md", "--out", "x.mp4", "--to", "es", "--text", "uno"),
        ("dub", "README.md", "--out", "x.mp4", "--to", "es", "--text", "uno", *CONSENT, "--release", "nowhere"),
    ],
)
def test_arguments_that_make_no_sense_give_one_sentence(arguments, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert call(monkeypatch, *arguments) == 2
    assert is_one_sentence(capsys.readouterr().err)
    assert not Path("x.mp4").exists()


def test_consent_is_required_before_anything_is_opened(tmp_path, monkeypatch, capsys):
    (tmp_path / "in.mp4").write_bytes(b"no video at all")
    assert (
        call(monkeypatch, "dub", tmp_path / "in.mp4", "--to", "es", "--text", "uno", "--out", tmp_path / "o.mp4") == 2
    )
    assert "consent" in capsys.readouterr().err


def test_a_release_of_another_backbone_dubs_nothing(tmp_path, mini_backbone, monkeypatch, capsys):
    release = Release.draft(tmp_path / "release", Lineage(step="promote", params={}, backbone="0" * 64)).seal({})
    (tmp_path / "in.mp4").write_bytes(b"no video at all")
    asked = ("--to", "es", "--text", "uno", "--out", tmp_path / "o.mp4", *CONSENT)
    places = ("--release", release.path, "--backbone", mini_backbone.path)
    assert call(monkeypatch, "dub", tmp_path / "in.mp4", *asked, *places) == 2
    assert "another" in capsys.readouterr().err or not (tmp_path / "o.mp4").exists()


def test_a_full_disk_is_a_sentence_wherever_it_happens(tmp_path, monkeypatch, capsys):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "big"))

    monkeypatch.setattr(step, "run_step", full)
    assert call(monkeypatch, "step", "prompts", "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert is_one_sentence(said)
    assert "disk is full" in said
    assert "big" in said


def test_another_trouble_of_the_system_is_not_hidden(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(step, "run_step", broken)
    monkeypatch.setattr(sys, "argv", ["dubmill", "step", "prompts", "--out", str(tmp_path / "out")])
    with pytest.raises(OSError, match="Input/output"):
        cli.main()


def test_evaluates_figures_are_copied_out_of_the_sealed_folder_for_dvc(tmp_path, monkeypatch):
    report = tmp_path / "report"
    (report / "plots").mkdir(parents=True)
    (report / "metrics.json").write_text(json.dumps({"summary": {"words_right": 0.9}, "adapter": {}}))
    (report / "plots/losses.json").write_text("[]")
    monkeypatch.setattr(step, "_open", lambda name, folder: folder)
    monkeypatch.setattr(
        "dubmill.steps.evaluate.evaluate", lambda *_: types.SimpleNamespace(path=report, digest="0" * 64)
    )
    folders = [part for name in ("backbone", "dubs", "pairs", "adapter") for part in (f"--{name}", tmp_path)]
    assert call(monkeypatch, "step", "evaluate", *folders, "--out", report, "--metrics", tmp_path / "metrics") == 0
    assert json.loads((tmp_path / "metrics/metrics.json").read_text()) == {"words_right": 0.9}
    assert (tmp_path / "metrics/plots/losses.json").is_file()


def test_the_server_explains_its_own_options(monkeypatch, capsys):
    assert call(monkeypatch, "serve", "--help") == 0
    assert "--release" in capsys.readouterr().out
