"""Pixels and waveforms: float32 around modules in bf16, and tiles for clips that are too large."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from doubles import miniature

from dubmill.generation.codec import encode_video
from dubmill.model import latents
from dubmill.model.latents import decode_pixels, decode_wave, encode_pixels


class Seen(Exception):
    """Ends an encoding once its input is known: bf16 convolutions take minutes on a CPU."""


def test_pixels_are_scaled_in_float32_and_only_then_rounded_to_bf16(mini, monkeypatch):
    """Trap: scaled in bf16 a pixel is off by up to two of 256 levels."""
    vae, seen = copy.deepcopy(mini.vae).to(torch.bfloat16), []

    def watch(pixels, **options):
        seen.append(pixels)
        raise Seen

    monkeypatch.setattr(vae, "encode", watch)
    frames = miniature.clip().frames_FHWC
    with pytest.raises(Seen):
        encode_video([frames], replace(mini, parts={**mini.parts, "vae": vae}, dtype=torch.bfloat16))
    exact = torch.from_numpy(frames.astype(np.float32) / np.float32(127.5) - 1).to(torch.bfloat16)
    assert torch.equal(seen[0], exact.permute(3, 0, 1, 2)[None])


def test_a_vocoder_in_float32_works_behind_an_audio_vae_in_bf16(mini):
    audio_vae = copy.deepcopy(mini.audio_vae).to(torch.bfloat16)
    with torch.no_grad():
        wave = decode_wave(torch.zeros(1, 8, 2, 16), audio_vae, mini.vocoder)
    assert wave.dtype == torch.float32
    assert torch.isfinite(wave).all()


def test_the_vocoder_stays_in_float32_under_autocast(mini, monkeypatch):
    """Trap: validation dubs are made under the training's bf16 autocast, which would run the convolutions in bf16."""
    dtypes, latents_BCLM = [], torch.zeros(1, 8, 2, 16)
    with torch.no_grad():  # before autocast: bf16 convolutions are slow on a CPU
        mel = mini.audio_vae.decode(latents_BCLM, return_dict=False)
    monkeypatch.setattr(mini.audio_vae, "decode", lambda *args, **options: mel)
    hook = mini.vocoder.conv_in.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        decode_wave(latents_BCLM, mini.audio_vae, mini.vocoder)
    hook.remove()
    assert dtypes == [torch.float32]


def test_decoded_pixels_are_float32_whatever_the_vae_computes_in(mini, monkeypatch):
    decode = mini.vae.decode
    monkeypatch.setattr(mini.vae, "decode", lambda *args, **options: (decode(*args, **options)[0].bfloat16(),))
    with torch.no_grad():
        assert decode_pixels(torch.zeros(1, 128, 2, 2, 2), mini.vae).dtype == torch.float32


@pytest.fixture
def tiles(mini, monkeypatch):
    """Small tiles, and the names of the tiled methods that ran."""
    for name in ("height", "width"):
        monkeypatch.setattr(mini.vae, f"tile_sample_min_{name}", 128)
        monkeypatch.setattr(mini.vae, f"tile_sample_stride_{name}", 96)
    ran = []
    for name in ("tiled_encode", "tiled_decode", "_temporal_tiled_encode", "_temporal_tiled_decode"):
        run = getattr(mini.vae, name)
        monkeypatch.setattr(
            mini.vae, name, lambda *args, _name=name, _run=run, **more: ran.append(_name) or _run(*args, **more)
        )
    return ran


@pytest.mark.parametrize(
    ("max_pixels", "max_frames", "expected"),
    [
        (10**9, 257, set()),
        (1, 257, {"tiled_encode", "tiled_decode"}),
        (1, 8, {"tiled_encode", "tiled_decode", "_temporal_tiled_encode", "_temporal_tiled_decode"}),
    ],
)
def test_a_clip_that_is_too_large_is_tiled_and_no_other(mini, tiles, monkeypatch, max_pixels, max_frames, expected):
    monkeypatch.setattr(latents, "MAX_UNTILED_PIXELS", max_pixels)
    monkeypatch.setattr(latents, "MAX_UNTILED_FRAMES", max_frames)
    before = mini.vae.use_tiling, mini.vae.use_framewise_decoding
    pixels = torch.rand(1, 3, 25, 64, 192, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        tokens = encode_pixels(pixels, mini.vae)
        decoded = decode_pixels(torch.randn(1, 128, 4, 2, 6), mini.vae)
    assert set(tiles) == expected
    assert tokens.shape == (1, 4 * 2 * 6, 128)
    assert decoded.shape == pixels.shape
    assert torch.isfinite(decoded).all()
    assert (mini.vae.use_tiling, mini.vae.use_framewise_decoding) == before
