"""Reference tokens: where they stand, what they may not reach, and what may wait for the target in the layers."""

import pytest
import torch
from doubles import miniature

from dubmill.generation.codec import encode_clips, shape_of
from dubmill.model import attention
from dubmill.model.attention import isolation_mask
from dubmill.model.conditioning import cache_reference, patched_attention, predict, sequence_layout
from dubmill.model.latents import Latents
from dubmill.model.text import encode_captions

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
    return shape, noise, encode_clips([miniature.clip(seed=5)], mini), encode_captions([CAPTION], mini)


def _velocity(mini, scene, *, positions="shared", isolate=True, reference=None, sigma=0.8):
    shape, noise, default, text = scene
    layout = sequence_layout(shape, 25.0, mini.transformer, reference=positions, isolate=isolate)
    sigmas = torch.full((1, shape.video_tokens), sigma), torch.full((1, shape.audio), sigma)
    with patched_attention(mini.transformer, layout), torch.no_grad():
        return predict(mini.transformer, noise, reference or default, *sigmas, text, layout)


def test_shared_positions_repeat_and_negative_audio_positions_end_before_zero(mini, scene):
    shape = scene[0]
    shared = sequence_layout(shape, 25.0, mini.transformer, reference="shared")
    assert torch.equal(shared.audio_coords, shared.reference_audio_coords)
    assert torch.equal(shared.video_coords, shared.reference_video_coords)
    negative = sequence_layout(shape, 25.0, mini.transformer, reference="negative")
    assert negative.reference_audio_coords.max() == pytest.approx(-0.04)
    assert torch.equal(negative.audio_coords, shared.audio_coords)
    assert torch.equal(negative.reference_video_coords, shared.reference_video_coords)


def test_a_layout_without_a_reference_has_no_reference_tokens(mini, scene):
    assert not sequence_layout(scene[0], 25.0, mini.transformer).has_reference


@pytest.mark.parametrize(("isolate", "is_deaf"), [(True, True), (False, False)])
def test_only_under_isolation_is_the_new_picture_deaf_to_the_sources_sound(mini, scene, isolate, is_deaf):
    """Trap: the source's speech steering the new lips. References act through self-attention alone."""
    shape = scene[0]
    attention = mini.transformer.transformer_blocks[0].audio_to_video_attn
    video, audio = torch.randn(1, 2 * shape.video_tokens, 32), torch.randn(1, 2 * shape.audio, 16)
    other = audio.clone()
    other[:, shape.audio :] += 1
    with (
        patched_attention(
            mini.transformer, sequence_layout(shape, 25.0, mini.transformer, reference="shared", isolate=isolate)
        ),
        torch.no_grad(),
    ):
        heard, changed = (attention(video, encoder_hidden_states=one, attention_mask=None) for one in (audio, other))
    target = slice(0, shape.video_tokens)
    assert torch.equal(heard[:, target], changed[:, target]) == is_deaf


def test_the_rows_of_reference_queries_are_zero_and_nothing_is_nan(mini, scene):
    """Trap: a fully masked row is NaN in some kernels, and uniform attention under a -10000 mask."""
    shape = scene[0]
    outputs = []
    layout = sequence_layout(shape, 25.0, mini.transformer, reference="shared", isolate=True)
    with patched_attention(mini.transformer, layout):
        attention = mini.transformer.transformer_blocks[1].video_to_audio_attn
        hook = attention.register_forward_hook(lambda module, args, output: outputs.append(output))
        velocity = _velocity(mini, scene)
        hook.remove()
    assert torch.count_nonzero(outputs[0][:, shape.audio :]) == 0
    assert torch.isfinite(velocity.video_BSD).all()
    assert torch.isfinite(velocity.audio_BLD).all()


def test_the_mask_hides_reference_keys_from_target_queries_only():
    mask = isolation_mask(2, 3, 4, 6)
    assert torch.isinf(mask[0, 0, :2, 3:]).all()
    assert torch.count_nonzero(mask[0, 0, :2, :3]) == 0
    assert torch.count_nonzero(mask[0, 0, 2:]) == 0


def test_no_hook_and_no_processor_is_left_behind(mini, scene):
    before, processors = _velocity(mini, scene, isolate=False), dict(mini.transformer.attn_processors)
    _velocity(mini, scene, isolate=True)
    with patched_attention(
        mini.transformer,
        sequence_layout(scene[0], 25.0, mini.transformer, reference="shared", isolate=True, attention="self"),
    ):
        assert dict(mini.transformer.attn_processors) != processors
    after = _velocity(mini, scene, isolate=False)
    assert torch.equal(before.video_BSD, after.video_BSD)
    assert dict(mini.transformer.attn_processors) == processors


def test_the_reference_changes_what_is_made(mini, scene):
    other = encode_clips([miniature.clip(seed=9)], mini)
    assert not torch.equal(_velocity(mini, scene).video_BSD, _velocity(mini, scene, reference=other).video_BSD)


def test_text_features_pick_rows(mini):
    both = encode_captions([CAPTION, ""], mini)
    assert torch.equal(both.pick([1, 0, 1]).audio_BTD[0], both.audio_BTD[1])


def _by_itself(mini, scene, *, sigma=0.8, positions="negative", text=None, reference=None):
    """The target's velocity with a reference that attends to itself alone."""
    shape, noise, default, asked = scene
    layout = sequence_layout(shape, 25.0, mini.transformer, reference=positions, isolate=True, attention="self")
    sigmas = torch.full((1, shape.video_tokens), sigma), torch.full((1, shape.audio), sigma)
    with patched_attention(mini.transformer, layout), torch.no_grad():
        cache_reference(mini.transformer, reference or default, encode_captions([""], mini), layout)
        return predict(mini.transformer, noise, None, *sigmas, text or asked, layout)


def _mask_references(num_target):
    """Self-attention in which reference queries see reference keys only."""

    def give_mask(module, args, kwargs):
        states = kwargs["hidden_states"]
        mask = torch.zeros(len(states), states.shape[1], states.shape[1])
        mask[:, num_target:, :num_target] = float("-inf")
        return args, {**kwargs, "attention_mask": mask}

    return give_mask


@pytest.mark.parametrize("positions", ["shared", "negative"])
def test_a_cached_reference_is_one_long_sequence_under_a_mask(mini, scene, positions):
    """The definition, computed the slow way: one sequence, masked, everything under the empty caption."""
    shape, noise, reference, _ = scene
    empty = encode_captions([""], mini)
    layout = sequence_layout(shape, 25.0, mini.transformer, reference=positions, isolate=True)
    sigmas = torch.full((1, shape.video_tokens), 0.8), torch.full((1, shape.audio), 0.8)
    hooks = [
        attention.register_forward_pre_hook(_mask_references(count), with_kwargs=True)
        for block in mini.transformer.transformer_blocks
        for attention, count in ((block.attn1, shape.video_tokens), (block.audio_attn1, shape.audio))
    ]
    with patched_attention(mini.transformer, layout), torch.no_grad():
        whole = predict(mini.transformer, noise, reference, *sigmas, empty, layout)
    for hook in hooks:
        hook.remove()
    quick = _by_itself(mini, scene, positions=positions, text=empty)
    assert torch.allclose(quick.video_BSD, whole.video_BSD, atol=1e-5)
    assert torch.allclose(quick.audio_BLD, whole.audio_BLD, atol=1e-5)
    assert not torch.allclose(quick.video_BSD, _velocity(mini, scene, positions=positions).video_BSD, atol=1e-3)


def test_what_is_cached_does_not_depend_on_the_step_and_serves_every_half_of_guidance(mini, scene):
    """Cached once: the next steps, and a batch of two halves, give what filling the cache again gives."""
    shape, noise, reference, text = scene
    empty = encode_captions([""], mini)
    layout = sequence_layout(shape, 25.0, mini.transformer, reference="negative", isolate=True, attention="self")
    with patched_attention(mini.transformer, layout), torch.no_grad():
        cache_reference(mini.transformer, reference, empty, layout)
        for sigma in (1.0, 0.5, 0.1):
            sigmas = torch.full((2, shape.video_tokens), sigma), torch.full((2, shape.audio), sigma)
            rows = encode_captions(["", CAPTION], mini)
            both = predict(mini.transformer, noise.repeat(2), None, *sigmas, rows, layout)
            afresh = _by_itself(mini, scene, sigma=sigma)
            assert torch.allclose(both.video_BSD[1:], afresh.video_BSD, atol=1e-5)
            assert torch.allclose(both.audio_BLD[1:], afresh.audio_BLD, atol=1e-5)


def test_a_cached_reference_changes_video_and_audio(mini, scene):
    other = encode_clips([miniature.clip(seed=9)], mini)
    silent = Latents(scene[2].video_BSD, torch.zeros_like(scene[2].audio_BLD))
    plain = _by_itself(mini, scene)
    assert not torch.allclose(plain.video_BSD, _by_itself(mini, scene, reference=other).video_BSD, atol=1e-4)
    assert not torch.allclose(plain.audio_BLD, _by_itself(mini, scene, reference=silent).audio_BLD, atol=1e-4)


def test_no_token_of_a_cached_reference_crosses_between_picture_and_sound(mini, scene):
    shape, crossed = scene[0], []
    hooks = [
        getattr(block, name).register_forward_pre_hook(
            lambda module, args, kwargs: crossed.append((args[0].shape[1], kwargs["encoder_hidden_states"].shape[1])),
            with_kwargs=True,
        )
        for block in mini.transformer.transformer_blocks
        for name in ("audio_to_video_attn", "video_to_audio_attn")
    ]
    _by_itself(mini, scene)
    for hook in hooks:
        hook.remove()
    assert crossed == [(shape.video_tokens, shape.audio), (shape.audio, shape.video_tokens)] * 2


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_isolation_mask_is_broadcast_over_batch_and_heads(mini, scene, batch_size, monkeypatch):
    """Trap: diffusers repeats a mask for each head and sample: 218 MB a layer instead of 3.4 MB at the release's size."""
    masks, dispatch = [], attention.dispatch_attention_fn

    def watch(*args, attn_mask=None, **options):
        masks.append(attn_mask)
        return dispatch(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(attention, "dispatch_attention_fn", watch)
    shape, noise, reference, text = scene
    layout = sequence_layout(shape, 25.0, mini.transformer, reference="shared", isolate=True)
    sigmas = torch.ones(batch_size, shape.video_tokens), torch.ones(batch_size, shape.audio)
    rows = (noise.repeat(batch_size), reference.repeat(batch_size))
    with patched_attention(mini.transformer, layout), torch.no_grad():
        predict(mini.transformer, *rows, *sigmas, text.pick([0] * batch_size), layout)
    assert {tuple(mask.shape[:2]) for mask in masks} == {(1, 1)}
    assert len({mask.data_ptr() for mask in masks}) == 2  # one for each direction, shared by all layers
