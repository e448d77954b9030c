"""Flow matching on numbers that can be worked out by hand, and sampling on the miniature."""

import miniature
import pytest
import torch

from dubmill.codec import encode, shape_of
from dubmill.conditioning import encode_captions, layout
from dubmill.diffusion import Job, add_noise, sample, sample_sigmas, sigma_schedule, weighted_loss
from dubmill.params import SamplingParams

SAMPLING = SamplingParams(num_steps=3, video_guidance=2.0, audio_guidance=3.0)


def test_noise_at_sigma_zero_is_the_clip_and_at_one_the_noise():
    clean, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.equal(add_noise(clean, noise, torch.zeros(2, 3)), clean)
    assert torch.equal(add_noise(clean, noise, torch.ones(2, 3)), noise)


def test_a_token_of_weight_zero_does_not_count_and_weights_are_relative():
    target = torch.zeros(1, 2, 4)
    velocity = torch.tensor([[[1.0] * 4, [100.0] * 4]])
    assert weighted_loss(velocity, target, torch.tensor([[1.0, 0.0]])) == 1
    assert weighted_loss(velocity, target, torch.tensor([[3.0, 3.0]])) == pytest.approx((1 + 10000) / 2)


def test_the_released_sampler_shifts_with_the_number_of_tokens():
    """Median of sigmoid(N(shift, 1)) is sigmoid(shift): .95 at 1,024 tokens, 2.05 at 4,096."""
    for tokens, shift in ((1024, 0.95), (4096, 2.05), (8160, 3.5)):
        sigmas = sample_sigmas("shifted-logit-normal", 20000, tokens, torch.Generator().manual_seed(0))
        assert torch.logit(sigmas).median() == pytest.approx(shift, abs=0.05)


def test_the_stretched_sampler_covers_all_noise_levels_where_the_released_one_collapses():
    """At 8,160 tokens half of the released sampler's draws lie above .97."""
    draws = {
        sampler: sample_sigmas(sampler, 20000, 8160, torch.Generator().manual_seed(0))
        for sampler in ("shifted-logit-normal", "stretched-logit-normal")
    }
    assert draws["shifted-logit-normal"].median() > 0.97
    stretched = draws["stretched-logit-normal"]
    assert stretched.min() >= 1e-3
    assert stretched.max() <= 1
    assert (stretched < 0.5).float().mean() > 0.08
    assert (draws["shifted-logit-normal"] < 0.5).float().mean() < 0.001
    wide = sample_sigmas("stretched-logit-normal", 20000, 32640, torch.Generator().manual_seed(0))  # 1920x1088x121
    assert wide.median().item() == pytest.approx(stretched.median().item(), abs=0.05)


def test_two_logit_normals_draw_often_above_sigma_095():
    sigmas = sample_sigmas("two-logit-normals", 20000, 64, torch.Generator().manual_seed(0))
    assert 0.2 < (sigmas > 0.95).float().mean() < 0.4
    assert ((sigmas > 0) & (sigmas <= 1)).all()


def test_the_schedule_falls_from_one_to_zero(mini):
    sigmas = sigma_schedule(8, 64, mini)
    assert len(sigmas) == 9
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def _job(mini, batch=2, **more):
    shape = shape_of(miniature.clip(), mini)
    text, empty = encode_captions(["one"] * batch, mini), encode_captions([""] * batch, mini)
    return Job(text, empty, layout(shape, 25.0, mini), **more)


def test_a_clips_noise_comes_from_its_own_seed_whatever_else_is_in_the_batch(mini):
    both = sample(_job(mini), SAMPLING, [7, 8], mini)
    alone = sample(_job(mini, batch=1), SAMPLING, [8], mini)
    assert torch.allclose(both.video_BSD[1], alone.video_BSD[0], atol=1e-4)
    assert not torch.allclose(both.video_BSD[0], both.video_BSD[1], atol=0.1)


def test_kept_tokens_come_out_untouched_and_the_rest_is_made_new(mini):
    context = encode([miniature.clip(seed=3)], mini)
    keep_video = torch.zeros(context.video_BSD.shape[:2], dtype=torch.bool)
    keep_video[:, ::2] = True
    keep_audio = torch.ones(context.audio_BLD.shape[:2], dtype=torch.bool)
    job = _job(mini, batch=1, context=context, keep_video_BS=keep_video, keep_audio_BL=keep_audio, num_resamplings=2)
    made = sample(job, SAMPLING, [1], mini)
    assert torch.equal(made.video_BSD[keep_video], context.video_BSD[keep_video])
    assert torch.equal(made.audio_BLD, context.audio_BLD)
    assert not torch.allclose(made.video_BSD[~keep_video], context.video_BSD[~keep_video], atol=0.1)


def test_progress_is_told_at_every_step(mini):
    told = []
    sample(_job(mini, batch=1), SAMPLING, [1], mini, told.append)
    assert told == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
