"""The GPU smoke test's own command, on the CPU: nano's architecture with random weights."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "benchmarks" / "gpu_smoke.py"


@pytest.fixture(scope="module")
def smoke():
    spec = importlib.util.spec_from_file_location("gpu_smoke", PATH)
    module = sys.modules["gpu_smoke"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_smoke"]


def test_each_part_is_measured_once_and_a_killed_run_continues(smoke, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setitem(smoke.PARTS, "denoise", lambda setup: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            smoke.main(["--out", str(tmp_path), "--parts", "decode", "denoise"])
    assert [path.name for path in tmp_path.iterdir()] == ["part-decode.json"]
    monkeypatch.setitem(smoke.PARTS, "decode", lambda setup: 1 / 0)
    smoke.main(["--out", str(tmp_path), "--parts", "decode", "denoise", "train"])
    results = json.loads((tmp_path / "gpu_smoke.json").read_bytes())
    assert list(results["parts"]) == ["decode", "denoise", "train"]
    rows = [row for part in results["parts"].values() for row in part.values()]
    assert len(rows) == 7
    assert all(row["is_finite"] and row["seconds"] > 0 for row in rows)
    assert all(
        row["plan_bytes"] > 0 for name, part in results["parts"].items() for row in part.values() if "flops" in row
    )
    assert (tmp_path / "gpu_smoke.md").read_text() in capsys.readouterr().out


def test_what_is_not_finite_stands_out_in_the_table(smoke):
    row = {"seconds": 1.0, "peak_bytes": 2**31, "memory_ratio": 1.25, "time_ratio": 0.5, "is_finite": False}
    page = smoke.table({"device": "a GPU", "torch": "2", "parts": {"denoise": {"in full": row}}})
    assert "| denoise | in full | 1.000 | 2.0 | 1.25 | 0.50 | NO |" in page
