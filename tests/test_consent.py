"""Consent records and the ledger's chain of hashes."""

import dataclasses
import json
from datetime import date

import pytest

from dubmill.cli import main as cli
from dubmill.dubbing.consent import Consent, ConsentLedger, DubRecord, verify_ledger
from dubmill.errors import ChangedArtifactError, MissingConsentError


def _ledger_of(path, num_entries):
    ledger = ConsentLedger(path)
    for index in range(num_entries):
        dub = DubRecord(source_sha256="a" * 64, dub_sha256="b" * 64, language="es", release="r", job=f"job-{index}")
        ledger.record(Consent(f"Ana Ruiz agrees to dub {index}", scope="one film"), dub)
    return ledger


def run():
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


@pytest.mark.parametrize("change", ["edit", "drop", "swap", "add", "first"])
def test_a_changed_entry_of_the_ledger_is_found(tmp_path, capsys, monkeypatch, change):
    path = tmp_path / "consent.jsonl"
    _ledger_of(path, 4)
    monkeypatch.setattr("sys.argv", ["dubmill", "consent", "verify", str(path)])
    assert run() == 0
    assert "4 entries are in order" in capsys.readouterr().out
    lines = path.read_text().splitlines(keepends=True)
    changed = {
        "edit": [lines[0], lines[1].replace("Ana", "Eva"), *lines[2:]],
        "drop": [lines[0], *lines[2:]],
        "swap": [lines[0], lines[2], lines[1], lines[3]],
        "add": [*lines[:2], lines[1], *lines[2:]],
        "first": lines[1:],
    }[change]
    path.write_text("".join(changed))
    assert run() == 2
    assert f"line {1 if change == 'first' else 3 if change == 'add' else 2}" in capsys.readouterr().err


def test_entries_cut_from_the_end_are_found_by_a_hash_noted_elsewhere(tmp_path):
    path = tmp_path / "consent.jsonl"
    _ledger_of(path, 3)
    _, head = verify_ledger(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert verify_ledger(path)[0] == 2
    with pytest.raises(ChangedArtifactError, match="is missing"):
        verify_ledger(path, head=head)


def test_a_job_is_entered_once_and_a_torn_line_is_cut(tmp_path):
    path = tmp_path / "consent.jsonl"
    ledger = _ledger_of(path, 2)
    with path.open("ab") as stream:
        stream.write(b'{"time": "2026')  # a writer was killed
    again = DubRecord(source_sha256="a" * 64, dub_sha256="c" * 64, language="es", release="r", job="job-1")
    first = json.loads(path.read_text().splitlines()[1])["hash"]
    assert ledger.record("Ana Ruiz agrees", again) == first
    ledger.record("Ana Ruiz agrees", dataclasses.replace(again, job="job-2"))
    assert verify_ledger(path)[0] == 3


def test_entries_from_before_the_chain_are_kept_and_covered(tmp_path):
    path = tmp_path / "consent.jsonl"
    path.write_text('{"statement": "Ana Ruiz agrees"}\n')
    _ledger_of(path, 2)
    assert verify_ledger(path)[0] == 3
    path.write_text(path.read_text().replace('"Ana Ruiz agrees"', '"Eva Ruiz agrees"', 1))
    with pytest.raises(ChangedArtifactError, match="line 2"):
        verify_ledger(path)


@pytest.mark.parametrize(
    ("consent", "trouble"),
    [
        ("\x00\x01 \x02", "control characters"),
        ("Ana Ruiz\nagrees", "control characters"),
        ("\u200b \u200b", "names nobody"),
        ("... ---", "names nobody"),
        (Consent("Ana Ruiz agrees", until=date(2020, 1, 1)), "ended on 2020-01-01"),
        ("Ana " * 400, "more than 1000 characters"),
    ],
)
def test_a_consent_that_agrees_to_nothing_is_refused(consent, trouble):
    with pytest.raises(MissingConsentError, match=trouble):
        Consent.of(consent).check()
