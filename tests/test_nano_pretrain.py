"""Pretraining: a killed run ends at the same weights as one that was not."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from dubmill.nano.pretrain import loop
from dubmill.nano.pretrain.audio_vae import AudioVaeTraining
from dubmill.nano.pretrain.loop import Schedule
from dubmill.nano.weights import unpack_weights


def _quiet(_: str) -> None:
    pass


class Unjudged(AudioVaeTraining):
    """Without held-out figures and sheets, which cost more than the few steps of these tests."""

    def evaluate(self) -> dict[str, float]:
        return {"none": 0.0}

    def save(self, out: Path) -> None:
        pass


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[AudioVaeTraining, Path]:
    """Four steps without a stop, and where their weights are."""
    part, out = AudioVaeTraining(batch_size=1), tmp_path_factory.mktemp("unbroken")
    loop.train_part(part, out, total_steps=4, say=_quiet)
    return part, out


def _same_weights(one: AudioVaeTraining, other: AudioVaeTraining) -> bool:
    there = other.model.state_dict()
    return all(torch.equal(value, there[name]) for name, value in one.model.state_dict().items())


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(unbroken, tmp_path: Path):
    killed = Unjudged(batch_size=1)
    steps = loop.train_part(killed, tmp_path / "killed", total_steps=4, stop_at=2, say=_quiet)
    assert steps == 2
    assert not _same_weights(unbroken[0], killed)
    resumed = Unjudged(batch_size=1)
    loop.train_part(resumed, tmp_path / "killed", total_steps=4, say=_quiet)
    assert _same_weights(unbroken[0], resumed)


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any, cast
from dubmill.nano.pretrain import loop
from dubmill.nano.pretrain.audio_vae import AudioVaeTraining

class Killed(AudioVaeTraining):
    def loss(self, step, progress, rng):
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(step, progress, rng)

loop.train_part(Killed(batch_size=1), Path(sys.argv[1]), total_steps=4, checkpoint_seconds=0)
"""


def test_a_run_that_was_killed_outright_goes_on_from_its_last_checkpoint_to_the_same_weights(unbroken, tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "killed"], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    resumed, lines = Unjudged(batch_size=1), []
    loop.train_part(resumed, tmp_path / "killed", total_steps=4, say=lines.append)
    assert any(" train 4" in line for line in lines)
    assert _same_weights(unbroken[0], resumed)


def test_the_average_that_ships_resumes_too(unbroken, tmp_path: Path):
    for stop, part in ((1, Unjudged), (3, Unjudged), (4, AudioVaeTraining)):
        loop.train_part(part(batch_size=1), tmp_path / "killed", total_steps=4, stop_at=stop, say=_quiet)
    weights = Path("audio_vae") / "diffusion_pytorch_model.safetensors"
    assert (unbroken[1] / weights).read_bytes() == (tmp_path / "killed" / weights).read_bytes()


def test_the_rate_rises_holds_and_falls():
    schedule = Schedule(peak_rate=1.0, warmup_steps=10, decay_share=0.5, floor_share=0.01)
    assert schedule.rate(0, 100) == pytest.approx(0.1)
    assert schedule.rate(40, 100) == 1.0
    assert schedule.rate(75, 100) == pytest.approx(0.5)
    assert schedule.rate(100, 100) == pytest.approx(0.01)


def test_only_noised_tokens_enter_the_loss_of_the_base():
    import numpy as np

    from dubmill.nano.pretrain.denoiser import noised_tokens

    clean = [torch.zeros(64, 144, 48), torch.zeros(64, 66, 32)]
    video_BS, audio_BS = noised_tokens(clean, np.random.default_rng(0))
    assert video_BS.shape == (64, 144)
    assert audio_BS.shape == (64, 66)
    assert ((video_BS.sum(1) + audio_BS.sum(1)) > 0).all(), "every clip has something to learn"


def test_few_steps_learn_the_velocity_that_ends_on_the_teachers_next_state(tmp_path: Path):
    """With states that the base itself reaches in four steps there is nothing to learn, and then the LoRA moves nothing."""
    import numpy as np

    from dubmill.model.conditioning import predict, sequence_layout
    from dubmill.model.latents import Latents
    from dubmill.model.text import encode_captions
    from dubmill.nano.pretrain import few_steps

    nano = tmp_path / "nano"
    unpack_weights(nano)
    kind = few_steps._Kind("half", 8, 17, 0.0, 1.0, 1)
    modules, draw = few_steps.load_folder(nano), torch.Generator().manual_seed(0)
    shape, sigmas_K = few_steps._shape(modules, kind), few_steps._sigmas(modules, few_steps.NUM_STEPS)
    text = encode_captions(["A person is speaking English"] * 8, modules)
    masks = torch.ones(8, shape.video_tokens), torch.ones(8, shape.audio)
    masks[0][:, :16] = 0
    states = [Latents(torch.randn(8, 80, 48, generator=draw), torch.randn(8, shape.audio, 32, generator=draw))]
    layout = sequence_layout(shape, 12.5, modules.transformer)
    for now, after in itertools.pairwise(sigmas_K):
        with torch.no_grad():
            velocity = predict(modules.transformer, states[-1], None, now * masks[0], now * masks[1], text, layout)
        video, audio = states[-1].video_BSD, states[-1].audio_BLD
        states.append(Latents(video + (after - now) * velocity.video_BSD, audio + (after - now) * velocity.audio_BLD))
    rows = {
        "video": torch.stack([state.video_BSD for state in states], 1),
        "audio": torch.stack([state.audio_BLD for state in states], 1),
        "video_text": text.video_BTD, "audio_text": text.audio_BTD, "text_mask": text.mask_BT,
        "video_mask": masks[0], "audio_mask": masks[1], "speakers": ["A person"] * 8,
    }  # fmt: skip
    torch.save(rows, tmp_path / "trajectories_half.pt")
    part = few_steps.FewStepsTraining(nano, tmp_path, scorers=nano, kinds=(kind,))
    loss, _ = part.loss(0, 0.0, np.random.default_rng(0))
    assert loss.item() < 1e-8
    part.save(tmp_path)
    tensors = load_file(tmp_path / "distilled_lora.safetensors")
    assert any("audio_attn1.to_q.lora_A" in name for name in tensors)
    assert not any(value.any() for name, value in tensors.items() if "lora_B" in name)


def test_a_state_between_two_of_the_teachers_steps_lies_on_the_line_between_them():
    from dubmill.nano.pretrain.few_steps import _at_levels

    states = [torch.full((1, 2, 3), value) for value in (1.0, 2.0, 6.0)]
    chosen = _at_levels(states, [1.0, 0.5, 0.0], [1.0, 0.75, 0.5, 0.125, 0.0])
    assert chosen.shape == (1, 5, 2, 3)
    assert chosen[0, :, 0, 0].tolist() == [1.0, 1.5, 2.0, 5.0, 6.0]


def test_the_video_vae_begins_as_the_sketches_with_pixels_of_twice_the_side():
    from dubmill.nano import modules
    from dubmill.nano.pretrain.video_vae import _take_over

    torch.manual_seed(0)
    sketch_vae, video_vae = modules.sketch_vae().eval(), modules.video_vae().eval()
    _take_over(video_vae, sketch_vae)
    sketch_BCFHW = torch.rand(1, 3, 5, 64, 64)
    frames_BCFHW = sketch_BCFHW.repeat_interleave(2, 3).repeat_interleave(2, 4)
    with torch.no_grad():
        latents = sketch_vae.encode(sketch_BCFHW).latent_dist.mode()
        assert torch.allclose(video_vae.encode(frames_BCFHW).latent_dist.mode(), latents, atol=1e-4)
        drawn = sketch_vae.decode(latents, return_dict=False)[0]
        decoded = video_vae.decode(latents, return_dict=False)[0]
    assert torch.allclose(decoded, drawn.repeat_interleave(2, 3).repeat_interleave(2, 4), atol=1e-4)


def test_the_figures_of_a_picture_fall_with_what_is_lost():
    from dubmill.nano.pretrain import data
    from dubmill.nano.pretrain.video_vae import picture_figures

    take = data.take(1)
    truth = data.video([take])
    noisy = truth + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    grey = truth.mean(1, keepdim=True).expand_as(truth)
    still = truth[:, :, :1].expand_as(truth)
    near, colourless, frozen = (picture_figures(one, truth, [take]) for one in (noisy, grey, still))
    assert near["psnr_db"] == pytest.approx(40, abs=0.1)  # noise of .01 of the range of pixels
    assert near["iris_chroma"] == pytest.approx(1, abs=0.02)
    assert near["blink_r"] > 0.99
    assert abs(colourless["iris_chroma"]) < 0.1
    assert frozen["mouth_psnr_db"] < near["mouth_psnr_db"] - 10
    assert abs(frozen["blink_r"]) < 0.5


def test_what_a_killed_writer_leaves_is_neither_the_base_nor_its_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from dubmill.nano.pretrain import few_steps, parts

    class Killed(Exception):
        """Ends a writer after its first bytes."""

    class Pipeline:
        files = 1

        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir()
            for index in range(2):
                if index == self.files:
                    raise Killed
                (folder / str(index)).write_text("part")

    def half_written(rows: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise Killed

    pipeline, kind = Pipeline(), few_steps._Kind("whole", 8, 33, 0.0, 1.0, 1)
    (tmp_path / "base" / "transformer").mkdir(parents=True)
    (tmp_path / "few_steps").mkdir()
    monkeypatch.setattr(parts, "pipeline_of", lambda out: pipeline)
    monkeypatch.setattr(few_steps, "_sampled", lambda *given: {"video": torch.ones(8, 2), "speakers": ["A person"] * 8})
    with pytest.raises(Killed):
        parts.base_folder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half_written)
        with pytest.raises(Killed):
            few_steps._trajectories(cast(Any, None), tmp_path, (kind,))
    pipeline.files = 2
    assert sorted(path.name for path in parts.base_folder(tmp_path).iterdir()) == ["0", "1"]
    assert few_steps._trajectories(cast(Any, None), tmp_path, (kind,))["whole"]["video"].shape == (8, 2)
