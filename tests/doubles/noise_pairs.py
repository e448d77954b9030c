"""Two encoded pairs of noise clips of the miniature, and the settings of a training on them that takes seconds."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from doubles import miniature
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Backbone, LatentSet
from dubmill.config.training import SigmaSamplerParams, TrainParams, ValidationParams
from dubmill.generation.codec import encode_clips, shape_of
from dubmill.model.load import Modules
from dubmill.model.text import encode_captions
from dubmill.training.batches import LATENTS

PARAMS = TrainParams(
    seed=3,
    rank=4,
    alpha=4,
    dropout=0.1,
    targets=["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"],
    num_steps=6,
    batch_size=2,
    accumulate=1,
    learning_rate=1e-2,
    learning_rate_groups={},
    schedule="linear",
    num_warmup_steps=1,
    optimizer="adamw",
    weight_decay=0.01,
    max_grad_norm=1.0,
    shared_sigma=True,
    sigma_sampler=SigmaSamplerParams(
        kind="shifted-logit-normal",
        std=1.0,
        shift_tokens=[1024, 4096],
        shifts=[0.95, 2.05],
        percentiles=[0.5, 99.9],
        least=1e-3,
        uniform_share=0.1,
        means=[2.8, 0.4],
    ),
    first_frame_probability=0.5,
    drop_caption_probability=0.2,
    reverse_probability=0.5,
    background_weight=0.1,
    reference_positions="negative",
    reference_attention="full",
    isolate_modalities=True,
    mixed_precision="none",
    gradient_checkpointing=False,
    parallel="ddp",
    checkpoint_every=2,
    keep_checkpoints=2,
    validation=ValidationParams(every_steps=0, num_clips=1, sampling=miniature.plain_sampling(2)),
)


def latents(backbone: Backbone, modules: Modules, out: Path) -> LatentSet:
    """The pairs, sealed at `out`."""
    clips = [miniature.clip(seed=seed) for seed in range(4)]
    shape, tokens = shape_of(clips[0], modules), encode_clips(clips, modules)
    text = encode_captions(["A person is speaking Spanish", "A person is speaking English"] * 2 + [""], modules)
    tensors = {
        "video": tokens.video_BSD.unflatten(0, (2, 2)),
        "audio": tokens.audio_BLD.unflatten(0, (2, 2)),
        "face": torch.eye(2)[:, torch.arange(shape.video_tokens) % 2],
        "text_video": text.video_BTD,
        "text_audio": text.audio_BTD,
        "text_mask": text.mask_BT,
    }
    lineage = Lineage(
        step="encode",
        params={},
        backbone=backbone.digest,
        text_encoder=backbone.text_encoder_digest,
        pair_source="self-made",
    )
    draft = LatentSet.draft(out, lineage)
    draft.write(LATENTS, save({name: value.contiguous() for name, value in tensors.items()}))
    size = {"frames": shape.frames, "height": shape.height, "width": shape.width, "audio": shape.audio}
    return draft.seal({"num_pairs": 2, "latent_shape": size, "frame_rate": 25.0, "clip": {}, "languages": ["en", "es"]})
