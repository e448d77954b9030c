"""The whole line on nano with few clips: Kubeflow's runner and the steps called from here agree to the last digest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dubmill import media
from dubmill.artifacts.store import Adapter, Backbone, DubSet, PairSet, Release, Report
from dubmill.config import overlays
from dubmill.config import params as parameters
from dubmill.steps.backbone import backbone
from dubmill.steps.dub import dub
from dubmill.steps.encode import encode
from dubmill.steps.evaluate import evaluate
from dubmill.steps.gate import gate
from dubmill.steps.inpaint import inpaint
from dubmill.steps.prompts import prompts
from dubmill.steps.synthesize import synthesize
from dubmill.steps.train import train

ROOT = Path(__file__).parents[1]
FEW_STEPS = {"num_steps": 2, "video_guidance": 1.0, "audio_guidance": 1.0}
FEW = {
    "prompts": {"num_train": 2, "num_heldout": 2},
    "synthesize": {"sampling": FEW_STEPS},
    "inpaint": {"source": "world"},
    "gate": {"min_accepted_share": 0.0},
    "train": {"num_steps": 4, "num_warmup_steps": 1, "checkpoint_every": 2},
    "dub": {"sampling": FEW_STEPS},
    "evaluate": {"num_bootstrap": 100, "num_showcase": 1},
    "promote": {"min_shares": {}},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What `python -m pipelines run` leaves, what it said, and what it said when it was run again."""
    work = tmp_path_factory.mktemp("line")
    overlay = work / "few.yaml"
    overlay.write_text(yaml.safe_dump(FEW))
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "pipelines", "run", "--overlay", overlay, "--out", work / "kfp", "--work", work]

    def run() -> str:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return work, run(), run()


def _made(work: Path, task: str, name: str) -> Path:
    return next((work / "kfp").glob(f"*/{task}/{name}"))


def test_the_line_ends_with_a_report_and_a_release_that_opens(ran):
    work, said, _ = ran
    release = Release.open(work / "release")
    assert Adapter.open(work / "release" / "adapter").digest == release.info["adapter_digest"]
    assert (work / "report.html").read_text().startswith("<!")
    assert re.search(r"took \d+ s", said)
    assert media.probe(work / "sample.mp4").num_frames == 17


def test_run_again_it_does_nothing_twice_but_what_the_registry_decides(ran):
    done = [line.split()[0] for line in ran[2].splitlines() if " done " in line]
    assert done == ["register", "promote"]


def test_the_steps_called_from_here_give_the_same_digests(ran, tmp_path):
    work, _, _ = ran
    data = overlays.merge(overlays.read_yaml(ROOT / "params.yaml"), FEW)
    values = parameters.validate(parameters.Params, data, "few")
    base = backbone(values.backbone, tmp_path / "backbone")
    clips = synthesize(base, prompts(values.prompts, tmp_path / "prompts"), values.synthesize, tmp_path / "clips")
    pairs = gate(
        base, inpaint(base, clips, values.inpaint, tmp_path / "pairs"), values.scorers, values.gate, tmp_path / "gated"
    )
    adapter = train(base, encode(base, pairs, values.encode, tmp_path / "latents"), values.train, tmp_path / "adapter")
    dubs = dub(base, adapter, pairs, values.dub, tmp_path / "dubs")
    report = evaluate(base, dubs, pairs, adapter, values.scorers, values.evaluate, tmp_path / "report")
    there = {
        "backbone": Backbone.open(work / "backbone").digest,
        "accepted": PairSet.open(_made(work, "gate", "accepted")).digest,
        "adapter": Adapter.open(_made(work, "train", "adapter")).digest,
        "dubs": DubSet.open(_made(work, "dub", "dubs")).digest,
        "report": Report.open(_made(work, "evaluate", "report")).digest,
    }
    here = {"backbone": base, "accepted": pairs, "adapter": adapter, "dubs": dubs, "report": report}
    assert there == {name: artifact.digest for name, artifact in here.items()}
    assert report.info["summary"]["outside_trip_psnr_db"] > 0  # evaluate found the round trips that dub kept


def test_the_release_dubs_a_file_from_the_command_line(ran, tmp_path):
    work, _, _ = ran
    command = [
        sys.executable,
        "-m",
        "dubmill.cli.main",
        "dub",
        work / "sample.mp4",
        "--to",
        "es",
        "--text",
        "uno dos tres",
    ]
    places = ["--release", work / "release", "--backbone", work / "backbone", "--out", tmp_path / "out.mp4"]
    done = subprocess.run(
        [*command, *places, "--consent", "a puppet agreed to it"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert media.probe(tmp_path / "out.mp4").num_frames == 17
    assert any("machine-generated" in value for value in media.metadata(tmp_path / "out.mp4").values())
