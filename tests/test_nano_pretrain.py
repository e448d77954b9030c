"""Pretraining: a killed run ends at the same weights as one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dubmill.nano.pretrain import loop
from dubmill.nano.pretrain.audio_vae import AudioVae
from dubmill.nano.pretrain.loop import Schedule


def _quiet(_: str) -> None:
    pass


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path):
    whole = AudioVae(batch_size=1)
    loop.fit(whole, tmp_path / "whole", total_steps=4, say=_quiet)
    killed = AudioVae(batch_size=1)
    steps = loop.fit(killed, tmp_path / "killed", total_steps=4, stop_at=2, say=_quiet)
    assert steps == 2
    resumed = AudioVae(batch_size=1)
    loop.fit(resumed, tmp_path / "killed", total_steps=4, say=_quiet)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


KILLED = """
import os, signal, sys
from pathlib import Path
from dubmill.nano.pretrain import loop
from dubmill.nano.pretrain.audio_vae import AudioVae

class Killed(AudioVae):
    def loss(self, step, progress, batch, rng):
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(step, progress, batch, rng)

loop.fit(Killed(batch_size=1), Path(sys.argv[1]), total_steps=4, checkpoint_seconds=0)
"""


def test_a_run_that_was_killed_outright_goes_on_from_its_last_checkpoint_to_the_same_weights(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "killed"], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    whole, resumed = AudioVae(batch_size=1), AudioVae(batch_size=1)
    loop.fit(whole, tmp_path / "whole", total_steps=4, say=_quiet)
    told = []
    loop.fit(resumed, tmp_path / "killed", total_steps=4, say=told.append)
    assert any(" train 4" in line for line in told)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_average_that_ships_resumes_too(tmp_path: Path):
    for name, stops in (("whole", [4]), ("killed", [1, 3, 4])):
        for stop in stops:
            loop.fit(AudioVae(batch_size=1), tmp_path / name, total_steps=4, stop_at=stop, say=_quiet)
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


def test_only_noised_tokens_are_asked_of_the_base():
    import numpy as np

    from dubmill.nano.pretrain.denoiser import _noised_tokens

    clean = [torch.zeros(64, 144, 64), torch.zeros(64, 65, 48)]
    video_BS, audio_BS = _noised_tokens(clean, np.random.default_rng(0))
    assert video_BS.shape == (64, 144)
    assert audio_BS.shape == (64, 65)
    assert ((video_BS.sum(1) + audio_BS.sum(1)) > 0).all(), "every clip has something to learn"


def test_batches_drawn_ahead_by_other_processes_are_the_same(tmp_path: Path):
    import numpy as np

    part = AudioVae(batch_size=1)
    alone, ahead = (list(loop._drawn(part.name, part.batches(), range(5), workers)) for workers in (0, 2))
    assert len(alone) == len(ahead) == 5
    for one, other in zip(alone, ahead, strict=True):
        assert np.array_equal(one, other)


def test_a_video_batch_is_clips_halves_or_short_windows_of_training_puppets():
    import numpy as np

    from dubmill.nano.pretrain.batches import video_batch

    shapes = [video_batch(step, np.random.default_rng(step), num_halves=2)[0].shape for step in range(4)]
    assert shapes == [(1, 65, 128, 128, 3), (4, 17, 128, 128, 3), (2, 33, 128, 128, 3), (4, 17, 128, 128, 3)]


def test_picture_figures_see_a_grey_iris_a_missed_blink_and_a_blurred_mouth():
    from torch.nn import functional

    from dubmill.nano.pretrain import data
    from dubmill.nano.pretrain.video_vae import picture_figures

    take = data.silent_take(3)
    truth = data.video([take])
    grain = truth + 0.01 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    good = picture_figures(grain, truth, [take])
    assert good["psnr_db"] > 40
    assert good["iris_chroma"] == pytest.approx(1, abs=0.02)
    assert good["blink_r"] > 0.99
    grey = truth.mean(1, keepdim=True).expand_as(truth)
    assert picture_figures(grey, truth, [take])["iris_chroma"] < 0.2
    frozen = truth[:, :, :1].expand_as(truth)
    assert picture_figures(frozen, truth, [take])["blink_r"] < 0.5
    soft = functional.avg_pool3d(truth, (1, 5, 5), 1, (0, 2, 2))
    blurred = picture_figures(soft, truth, [take])
    assert blurred["mouth_psnr_db"] < blurred["psnr_db"] < 40


def test_judges_and_vocoder_learn_from_losses_that_are_blind_to_the_other():
    from dubmill.nano.pretrain.vocoder import Judges, adversarial_losses

    judges = Judges()
    made_BN = (0.1 * torch.randn(2, 6000)).requires_grad_()
    truth_BN = 0.1 * torch.randn(2, 6000)
    fooled, seen_through = adversarial_losses(judges, made_BN, truth_BN)
    (to_maker,) = torch.autograd.grad(fooled, made_BN, retain_graph=True)
    assert to_maker.abs().sum() > 0
    assert not any(
        grad is not None and grad.any()
        for grad in torch.autograd.grad(fooled, list(judges.parameters()), allow_unused=True, retain_graph=True)
    )
    assert torch.autograd.grad(seen_through, made_BN, allow_unused=True, retain_graph=True)[0] is None
    assert all(grad.any() for grad in torch.autograd.grad(seen_through, list(judges.parameters())))


def test_a_video_vae_has_the_ratios_of_the_real_model_and_stays_small():
    from dubmill.nano import modules

    vae = modules.video_vae()
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 33, 128, 128)).latent_dist.mode()
        assert latents.shape == (1, modules.VIDEO_LATENT_CHANNELS, 5, 4, 4)
        assert vae.decode(latents).sample.shape == (1, 3, 33, 128, 128)
    assert sum(parameter.numel() for parameter in vae.parameters()) < 7.2e6


def _one_step(part) -> dict[str, float]:
    import numpy as np

    batch = part.batches()(1, np.random.default_rng(1))
    loss, told = part.loss(1, 0.5, batch, np.random.default_rng(2))
    loss.backward()
    assert torch.isfinite(loss)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.model.parameters())
    return told


def test_the_vocoder_and_its_judges_take_a_step_on_the_audio_vaes_own_mel(tmp_path: Path):
    from dubmill.nano import modules
    from dubmill.nano.pretrain.vocoder import Vocoder

    modules.audio_vae().save_pretrained(tmp_path / "audio_vae")
    assert set(_one_step(Vocoder(tmp_path / "audio_vae", batch_size=1))) == {"spectral", "fooled", "judges"}


def test_the_scorers_take_a_step():
    from dubmill.nano.pretrain.scorers import ScorerTraining

    told = _one_step(ScorerTraining(pool_size=3, num_sounds=2, num_faces=2, num_films=1))
    assert set(told) == {"words", "voice", "opening", "face", "mouth", "sync"}


def test_the_base_takes_a_step_on_latents_that_the_vaes_encoded(tmp_path: Path):
    from dubmill.nano import modules
    from dubmill.nano.pretrain import latents
    from dubmill.nano.pretrain.denoiser import Denoiser, Sources

    modules.video_vae().save_pretrained(tmp_path / "vae")
    modules.audio_vae().save_pretrained(tmp_path / "ears")
    latents.encode_shard(tmp_path / "vae", tmp_path / "ears", tmp_path / "0.pt", range(2))
    latents.write_statistics([tmp_path / "0.pt"], tmp_path / "statistics.safetensors")
    stored = torch.load(tmp_path / "0.pt")
    assert [tuple(column.shape) for column in stored["full"][:2]] == [(2, 144, 64), (2, 65, 48)]
    assert [tuple(column.shape) for column in stored["half"][:2]] == [(2, 80, 64), (2, 33, 48)]
    unused = tmp_path / "unused"
    places = Sources([tmp_path / "0.pt"], tmp_path / "statistics.safetensors", unused, unused, unused, unused)
    _one_step(Denoiser(places, batch_size=2))
