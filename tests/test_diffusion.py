"""Flow matching on numbers that can be worked out by hand: noise, loss, schedules, guidance."""

import pytest
import torch

from dubmill.model.diffusion import (
    GuidanceScales,
    Predictions,
    add_noise,
    guide,
    renoise,
    schedule,
    weighted_loss,
)

CPU = torch.device("cpu")
DISTILLED = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875]


def test_noise_at_sigma_zero_is_the_clip_and_at_one_the_noise():
    clean, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.equal(add_noise(clean, noise, torch.zeros(2, 3)), clean)
    assert torch.equal(add_noise(clean, noise, torch.ones(2, 3)), noise)


def test_a_token_of_weight_zero_does_not_count_and_weights_are_relative():
    target = torch.zeros(1, 2, 4)
    velocity = torch.tensor([[[1.0] * 4, [100.0] * 4]])
    assert weighted_loss(velocity, target, torch.tensor([[1.0, 0.0]])) == 1
    assert weighted_loss(velocity, target, torch.tensor([[3.0, 3.0]])) == pytest.approx((1 + 10000) / 2)


def test_the_schedule_falls_from_one_to_zero(mini):
    sigmas = schedule(mini.scheduler, 8, None, 64, CPU).sigmas
    assert len(sigmas) == 9
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_given_sigmas_are_used_as_given_and_the_scheduler_stays_as_it_was(mini):
    """Trap: a distilled schedule sent through the shift that the scheduler is configured with (here 2)."""
    made = schedule(mini.scheduler, 30, DISTILLED, 64, CPU)
    assert made.sigmas.tolist() == pytest.approx([*DISTILLED, 0.0])
    assert made.timesteps.tolist() == pytest.approx([1000 * sigma for sigma in DISTILLED])
    assert mini.scheduler.config.shift == 2.0
    own = schedule(mini.scheduler, 8, None, 64, CPU)
    assert own.sigmas[1] != pytest.approx(7 / 8)


def _velocities(count=4):
    return torch.randn(count, 2, 6, 8, generator=torch.Generator().manual_seed(0)).unbind()


def test_guidance_is_the_published_sum():
    """cond + (cfg - 1)(cond - uncond) + stg (cond - perturbed) + (mod - 1)(cond - unimodal)."""
    conditional, unconditional, perturbed, unimodal = _velocities()
    made = Predictions(conditional, unconditional, perturbed, unimodal)
    guided = guide(made, GuidanceScales(3.0, 1.5, 4.0, 0.0), torch.zeros(2, 6, 8), torch.ones(2, 6))
    expected = (
        conditional + 2 * (conditional - unconditional) + 1.5 * (conditional - perturbed) + 3 * (conditional - unimodal)
    )
    assert torch.allclose(guided, expected, atol=1e-5)


def test_classifier_free_guidance_moves_from_the_uncaptioned_to_the_captioned():
    conditional, unconditional, _, _ = _velocities()
    made = Predictions(conditional, unconditional, None, None)
    guided = guide(made, GuidanceScales(2.5, 0.0, 1.0, 0.0), torch.zeros(2, 6, 8), torch.ones(2, 6))
    assert torch.allclose(guided, unconditional + 2.5 * (conditional - unconditional), atol=1e-5)


def test_rescaled_guidance_points_at_a_clean_clip_of_the_unguided_spread():
    conditional, unconditional, noisy, _ = _velocities()
    made, sigma = Predictions(conditional, unconditional, None, None), torch.full((2, 6), 0.7)
    plain = noisy - 0.7 * conditional
    spread = [
        (noisy - 0.7 * guide(made, GuidanceScales(5.0, 0.0, 1.0, rescale), noisy, sigma)).std(dim=(1, 2))
        for rescale in (0.0, 0.5, 1.0)
    ]
    assert torch.allclose(spread[2], plain.std(dim=(1, 2)), atol=1e-4)
    assert (spread[0] > spread[1]).all()
    assert (spread[1] > spread[2]).all()


def test_rescaling_leaves_a_given_token_where_it_is():
    conditional, unconditional, noisy, _ = _velocities()
    sigma = torch.full((2, 6), 0.7)
    sigma[:, 0] = 0
    guided = guide(
        Predictions(conditional, unconditional, None, None), GuidanceScales(5.0, 0.0, 1.0, 0.7), noisy, sigma
    )
    assert torch.count_nonzero(guided[:, 0]) == 0
    assert torch.isfinite(guided).all()


def test_renoised_tokens_have_the_spread_of_their_level():
    """Unit clean and unit noise at sigma .2, taken to .8: (1 - s)^2 + s^2 in variance."""
    clean, old, new = torch.randn(3, 1, 4000, 8, generator=torch.Generator().manual_seed(0)).unbind()
    tokens = 0.8 * clean + 0.2 * old
    back = renoise(tokens, torch.tensor(0.2), torch.tensor(0.8), new)
    assert back.var() == pytest.approx(0.2**2 + 0.8**2, abs=0.02)
