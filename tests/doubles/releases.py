"""Tiny sealed backbones, adapters and releases, and the clips that they dub."""

from fractions import Fraction

import numpy as np

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Adapter, Backbone, Release
from dubmill.media.clips import Clip

CLIP_RATE = Fraction(25, 2)
CONSENT = "Ana Ruiz, the speaker, agrees"


def small_clip(*, num_frames=13, side=64, rate=CLIP_RATE):
    """A grey ramp under a tone, of the size that `tiny_release` dubs."""
    frames = np.tile(np.linspace(0, 255, side).astype(np.uint8)[None, None, :, None], (num_frames, side, 1, 3))
    sound = np.sin(np.arange(round(num_frames / rate * 16000)) / 8)[None].astype(np.float32) / 2
    return Clip(frames, rate, sound, 16000)


def tiny_backbone(out, name="tiny"):
    """A backbone without a model in it."""
    draft = Backbone.draft(out, Lineage(step="backbone", params={"name": name}))
    draft.write("weights.bin", name.encode())
    return draft.seal({"source": "tiny", "repo": "tiny", "text_encoder_digest": "t"})


def tiny_adapter(out, backbone, *, languages=("en", "es")):
    """An adapter without weights."""
    draft = Adapter.draft(out, Lineage(step="train", params={}, backbone=backbone.digest))
    return draft.seal({"languages": list(languages)})


def tiny_release(out, backbone, *, has_selftest=True, version="7", languages=("en", "es")):
    """A release of a `tiny_adapter`, for clips of `small_clip`'s size."""
    draft = Release.draft(out, Lineage(step="promote", params={}, backbone=backbone.digest, licence="Apache-2.0"))
    tiny_adapter(draft.path / "adapter", backbone, languages=languages)
    if has_selftest:
        draft.write("selftest.clip", small_clip().to_bytes())
    return draft.seal(
        {
            "backbone": backbone.digest,
            "version": version,
            "clip": {"num_frames": 13, "height": 64, "width": 64, "frame_rate": "25/2", "sample_rate_hz": 16000},
            "selftest": {"language": "es", "text": "uno tres"},
            "sampling": {"num_steps": 2, "video_guidance": 1.0, "audio_guidance": 1.0},
            "strength": 1.0,
        }
    )


def miniature_adapter(out, backbone, *, seed=None):
    """A sealed adapter with a real LoRA of rank 2 on the miniature: untrained, or random of this seed."""
    import torch

    from dubmill import adapters
    from dubmill.model.load import load

    transformer = load(backbone).transformer
    lora = {"rank": 2, "alpha": 2.0, "targets": ["to_q"]}
    adapters.add_lora(transformer, dropout=0.0, **lora)
    if seed is not None:
        torch.manual_seed(seed)
        for value in adapters.lora_parameters(transformer).values():
            torch.nn.init.normal_(value, std=0.5)
    draft = Adapter.draft(out, Lineage(step="train", params={}, backbone=backbone.digest))
    draft.write(adapters.WEIGHTS, adapters.lora_bytes(transformer, {}))
    positions = {"reference_positions": "negative", "isolate_modalities": True, "languages": ["en", "es"]}
    return draft.seal({**lora, **positions})


def miniature_release(out, backbone, *, seed=None):
    """A release of `miniature_adapter`, laid out as the step `promote` does."""
    from doubles import miniature

    draft = Release.draft(out, Lineage(step="promote", params={}))
    miniature_adapter(draft.path / "adapter", backbone, seed=seed)
    draft.write("selftest.clip", miniature.clip().to_bytes())
    return draft.seal(
        {
            "sampling": miniature.sampling().model_dump(),
            "strength": 1.0,
            "clip": {"num_frames": 17, "height": 64, "width": 96, "frame_rate": "25/1", "sample_rate_hz": 16000},
            "selftest": {"language": "es", "text": "uno dos"},
            "backbone": backbone.digest,
        }
    )
