"""An untrained LTX-2 of diffusers' own classes with the real geometry at small width, so that nothing fits nano alone.

32 x 32 x 8 pixels to 128 channels, frames 8k + 1, 25 audio latents a second of 8 x 16 numbers, stereo sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Backbone
from dubmill.config.sampling import DubSamplingParams, SamplingParams
from dubmill.media.clips import Clip
from dubmill.model.load import PIPELINE, UPSAMPLER, Modules, load_folder
from dubmill.model.loras import DISTILLED_FOLDER
from dubmill.worlds.materialize import folder_digest

TEXT_TOKENS = 32
WORDS = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "A",
    "person",
    "is",
    "speaking",
    "English",
    "Spanish",
    "saying",
    "one",
    "two",
    "uno",
    "dos",
    ",",
    ":",
    ".",
]


def clip(num_frames: int = 17, height: int = 64, width: int = 96, seed: int = 0) -> Clip:
    """A clip of coloured noise with a tone, at 25 frames per second, stereo at 16 kHz."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    time = np.arange(round(num_frames / 25 * 16000)) / 16000
    tone = 0.3 * np.sin(2 * np.pi * 220 * time).astype(np.float32)
    return Clip(frames, Fraction(25), np.stack([tone, tone]), 16000)


def sampling(num_steps: int = 2, **changes: object) -> DubSamplingParams:
    """A plain way to sample, one stage without any guidance, with `changes`."""
    plain = {
        "num_steps": num_steps,
        "sigmas": [],
        "shift_tokens": "clip",
        "negative_prompt": "",
        "video_guidance": 1.0,
        "audio_guidance": 1.0,
        "video_stg": 0.0,
        "audio_stg": 0.0,
        "stg_blocks": [],
        "video_modality": 1.0,
        "audio_modality": 1.0,
        "lora": "none",
        "video_rescale": 0.0,
        "audio_rescale": 0.0,
        "first_frame": False,
        "second_stage": {"sigmas": [], "keep_adapter": True, "lora": "none"},
    }
    return DubSamplingParams.model_validate(plain | changes)


def plain_sampling(num_steps: int) -> SamplingParams:
    """`sampling` of a step that has no stages."""
    told = sampling(num_steps).model_dump(exclude={"first_frame", "second_stage"})
    return SamplingParams.model_validate(told)


def modules(folder: Path) -> Modules:
    """The miniature's modules, made from a seed at `folder` if they are not there yet."""
    if not (folder / "model_index.json").exists():
        _pipeline().save_pretrained(folder)
    return load_folder(folder)


def backbone(
    out: Path, *, has_upsampler: bool = False, distilled_lora: bytes = b"", in_8_bits: Sequence[str] = ()
) -> Backbone:
    """The miniature as a sealed artifact, with an untrained latent upsampler or without, and parts in 8 bits or none.

    `distilled_lora` is a safetensors file; empty: the backbone has none.
    """
    draft = Backbone.draft(out, Lineage(step="backbone", params={"source": "miniature"}, licence="Apache-2.0"))
    made = modules(draft.path / PIPELINE)
    if has_upsampler:
        torch.manual_seed(1)
        upsampler = LTX2LatentUpsamplerModel(in_channels=128, mid_channels=32, num_blocks_per_stage=1)
        upsampler.save_pretrained(draft.path / PIPELINE / UPSAMPLER)
    if distilled_lora:
        (draft.path / PIPELINE / DISTILLED_FOLDER).mkdir()
        (draft.path / PIPELINE / DISTILLED_FOLDER / "lora.safetensors").write_bytes(distilled_lora)
    info = {
        "source": "miniature",
        "repo": "miniature",
        "revision": "untrained",
        "geometry": made.geometry.to_dict(),
        "mel": made.mel.to_dict(),
        "text_encoder_digest": folder_digest(draft.path / PIPELINE, "text_encoder", "tokenizer", "connectors"),
        "in_8_bits": list(in_8_bits),
    }
    return draft.seal(info)


def lora_file(
    *, layer: str = "transformer_blocks.0.attn1.to_q", prefix: str = "transformer.", width: int = 32
) -> bytes:
    """A LoRA of rank 2 on one layer, whose inputs and outputs are `width`, as a safetensors file."""
    draw = torch.Generator().manual_seed(7)
    shapes = {"A": (2, width), "B": (width, 2)}
    return save({f"{prefix}{layer}.lora_{name}.weight": torch.randn(shapes[name], generator=draw) for name in shapes})


def _pipeline() -> LTX2Pipeline:
    torch.manual_seed(0)
    return LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=2.0),
        vae=_video_vae(),
        audio_vae=_audio_vae(),
        text_encoder=_text_encoder(),
        tokenizer=_tokenizer(),
        connectors=_connectors(),
        transformer=_transformer(),
        vocoder=LTX2Vocoder(
            in_channels=128,
            hidden_channels=32,
            out_channels=2,
            upsample_kernel_sizes=[11, 8, 8, 4],
            upsample_factors=[6, 5, 4, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3]],
            output_sampling_rate=24000,
        ),
    )


def _video_vae() -> AutoencoderKLLTX2Video:
    return AutoencoderKLLTX2Video(
        latent_channels=128,
        block_out_channels=(8, 16, 32, 64),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1),
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    )


def _audio_vae() -> AutoencoderKLLTX2Audio:
    return AutoencoderKLLTX2Audio(
        base_channels=128,  # the packed latent width: diffusers sizes the latent statistics by it
        output_channels=2,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=64,
        latent_channels=8,
        norm_type="pixel",
        causality_axis="height",
        mid_block_add_attention=False,
        sample_rate=16000,
        mel_hop_length=160,
        is_causal=True,
        mel_bins=64,
        double_z=True,
    )


def _transformer() -> LTX2VideoTransformer3DModel:
    return LTX2VideoTransformer3DModel(
        in_channels=128,
        out_channels=128,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        vae_scale_factors=(8, 32, 32),
        audio_in_channels=128,
        audio_out_channels=128,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=2,
        caption_channels=32,
        rope_type="split",
        rope_double_precision=False,
    )


def _connectors() -> LTX2TextConnectors:
    return LTX2TextConnectors(
        caption_channels=32,
        text_proj_in_factor=2,
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=TEXT_TOKENS,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=TEXT_TOKENS,
        connector_rope_base_seq_len=TEXT_TOKENS,
        rope_double_precision=False,
        rope_type="split",
    )


def _text_encoder() -> Gemma3ForConditionalGeneration:
    text = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        layer_types=["full_attention"],
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=28, patch_size=14
    )
    images = {"mm_tokens_per_image": 4, "boi_token_index": 61, "eoi_token_index": 62, "image_token_index": 63}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **images))


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", model_max_length=TEXT_TOKENS, **special
    )
