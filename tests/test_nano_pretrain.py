"""Pretraining: a killed run ends at the same weights as one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dubmill.nano.pretrain import loop
from dubmill.nano.pretrain.audio_vae import AudioVaeTraining
from dubmill.nano.pretrain.loop import Schedule


def _quiet(_: str) -> None:
    pass


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path):
    whole = AudioVaeTraining(batch_size=1)
    loop.train_part(whole, tmp_path / "whole", total_steps=4, say=_quiet)
    killed = AudioVaeTraining(batch_size=1)
    steps = loop.train_part(killed, tmp_path / "killed", total_steps=4, stop_at=2, say=_quiet)
    assert steps == 2
    resumed = AudioVaeTraining(batch_size=1)
    loop.train_part(resumed, tmp_path / "killed", total_steps=4, say=_quiet)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


KILLED = """
import os, signal, sys
from pathlib import Path
from dubmill.nano.pretrain import loop
from dubmill.nano.pretrain.audio_vae import AudioVaeTraining

class Killed(AudioVaeTraining):
    def loss(self, step, progress, rng):
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(step, progress, rng)

loop.train_part(Killed(batch_size=1), Path(sys.argv[1]), total_steps=4, checkpoint_seconds=0)
"""


def test_a_run_that_was_killed_outright_goes_on_from_its_last_checkpoint_to_the_same_weights(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "killed"], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    whole, resumed = AudioVaeTraining(batch_size=1), AudioVaeTraining(batch_size=1)
    loop.train_part(whole, tmp_path / "whole", total_steps=4, say=_quiet)
    told = []
    loop.train_part(resumed, tmp_path / "killed", total_steps=4, say=told.append)
    assert any(" train 4" in line for line in told)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_average_that_ships_resumes_too(tmp_path: Path):
    for name, stops in (("whole", [4]), ("killed", [1, 3, 4])):
        for stop in stops:
            loop.train_part(AudioVaeTraining(batch_size=1), tmp_path / name, total_steps=4, stop_at=stop, say=_quiet)
    shipped = [
        (tmp_path / name / "audio_vae" / "diffusion_pytorch_model.safetensors").read_bytes()
        for name in ("whole", "killed")
    ]
    assert shipped[0] == shipped[1]


def test_the_rate_rises_holds_and_falls():
    schedule = Schedule(peak_rate=1.0, warmup_steps=10, decay_share=0.5, floor_share=0.01)
    assert schedule.rate(0, 100) == pytest.approx(0.1)
    assert schedule.rate(40, 100) == 1.0
    assert schedule.rate(75, 100) == pytest.approx(0.5)
    assert schedule.rate(100, 100) == pytest.approx(0.01)


def test_only_noised_tokens_enter_the_loss_of_the_base():
    import numpy as np

    from dubmill.nano.pretrain.denoiser import _noised_tokens

    clean = [torch.zeros(64, 144, 48), torch.zeros(64, 66, 32)]
    video_BS, audio_BS = _noised_tokens(clean, np.random.default_rng(0))
    assert video_BS.shape == (64, 144)
    assert audio_BS.shape == (64, 66)
    assert ((video_BS.sum(1) + audio_BS.sum(1)) > 0).all(), "every clip has something to learn"
