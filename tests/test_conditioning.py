"""Reference tokens: where they stand, and what they may not reach."""

import miniature
import pytest
import torch

from dubmill.codec import Latents, encode, shape_of
from dubmill.conditioning import append, encode_captions, isolated, isolation_mask, layout, predict

CAPTION = 'A person is speaking Spanish, saying: "uno dos"'


@pytest.fixture(scope="module")
def scene(mini):
    clip = miniature.clip()
    shape = shape_of(clip, mini)
    generator = torch.Generator().manual_seed(1)
    noise = Latents(
        torch.randn(1, shape.video_tokens, 128, generator=generator),
        torch.randn(1, shape.audio, 128, generator=generator),
    )
    return shape, noise, encode([miniature.clip(seed=5)], mini), encode_captions([CAPTION], mini)


def _velocity(mini, scene, *, reference_positions="shared", isolate=True, reference=None):
    shape, noise, default, text = scene
    tokens = append(noise, reference or default)
    where = layout(shape, 25.0, mini, reference=reference_positions, isolate=isolate)
    sigma_video = torch.cat([torch.full((1, shape.video_tokens), 0.8), torch.zeros(1, shape.video_tokens)], dim=1)
    sigma_audio = torch.cat([torch.full((1, shape.audio), 0.8), torch.zeros(1, shape.audio)], dim=1)
    with isolated(mini.transformer, where), torch.no_grad():
        return predict(mini.transformer, tokens, sigma_video, sigma_audio, text, where)


def test_shared_positions_repeat_and_negative_audio_positions_end_before_zero(mini, scene):
    shape = scene[0]
    shared = layout(shape, 25.0, mini, reference="shared")
    assert torch.equal(shared.audio_coords[:, :, : shape.audio], shared.audio_coords[:, :, shape.audio :])
    assert torch.equal(shared.video_coords[:, :, : shape.video_tokens], shared.video_coords[:, :, shape.video_tokens :])
    negative = layout(shape, 25.0, mini, reference="negative")
    assert negative.audio_coords[:, :, shape.audio :].max() == pytest.approx(-0.04)
    assert torch.equal(negative.audio_coords[:, :, : shape.audio], shared.audio_coords[:, :, : shape.audio])


@pytest.mark.parametrize(("isolate", "is_deaf"), [(True, True), (False, False)])
def test_only_under_isolation_is_the_new_picture_deaf_to_the_sources_sound(mini, scene, isolate, is_deaf):
    """Trap: the source's speech steering the new lips. References act through self-attention alone."""
    shape = scene[0]
    attention = mini.transformer.transformer_blocks[0].audio_to_video_attn
    video, audio = torch.randn(1, 2 * shape.video_tokens, 32), torch.randn(1, 2 * shape.audio, 16)
    other = audio.clone()
    other[:, shape.audio :] += 1
    with isolated(mini.transformer, layout(shape, 25.0, mini, reference="shared", isolate=isolate)), torch.no_grad():
        heard, changed = (attention(video, encoder_hidden_states=one, attention_mask=None) for one in (audio, other))
    target = slice(0, shape.video_tokens)
    assert torch.equal(heard[:, target], changed[:, target]) == is_deaf


def test_the_rows_of_reference_queries_are_zero_and_nothing_is_nan(mini, scene):
    """Trap: a fully masked row is NaN in some kernels, and uniform attention under a -10000 mask."""
    shape = scene[0]
    outputs = []
    where = layout(shape, 25.0, mini, reference="shared", isolate=True)
    with isolated(mini.transformer, where):
        attention = mini.transformer.transformer_blocks[1].video_to_audio_attn
        hook = attention.register_forward_hook(lambda module, args, output: outputs.append(output))
        velocity = _velocity(mini, scene)
        hook.remove()
    assert torch.count_nonzero(outputs[0][:, shape.audio :]) == 0
    assert torch.isfinite(velocity.video_BSD).all()
    assert torch.isfinite(velocity.audio_BLD).all()


def test_the_mask_hides_reference_keys_from_target_queries_only():
    mask = isolation_mask(2, 3, 4, 6)
    assert torch.isinf(mask[0, :2, 3:]).all()
    assert torch.count_nonzero(mask[0, :2, :3]) == 0
    assert torch.count_nonzero(mask[0, 2:]) == 0


def test_no_hook_is_left_behind(mini, scene):
    before = _velocity(mini, scene, isolate=False)
    _velocity(mini, scene, isolate=True)
    after = _velocity(mini, scene, isolate=False)
    assert torch.equal(before.video_BSD, after.video_BSD)


def test_the_reference_changes_what_is_made(mini, scene):
    other = encode([miniature.clip(seed=9)], mini)
    assert not torch.equal(_velocity(mini, scene).video_BSD, _velocity(mini, scene, reference=other).video_BSD)


def test_text_features_join_and_pick_rows(mini):
    both = encode_captions([CAPTION, ""], mini)
    one, none = encode_captions([CAPTION], mini), encode_captions([""], mini)
    assert torch.allclose(both.video_BTD, one.join(none).video_BTD, atol=1e-5)
    assert torch.equal(both.pick([1, 0, 1]).audio_BTD[0], both.audio_BTD[1])
