"""The nano LTX-2: diffusers' own classes at small width, untrained."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

WIDTH, HEADS, HEAD_WIDTH, TEXT_LAYERS = 128, 4, 32, 2
TEXT_LENGTH = 32
VIDEO_LATENT_CHANNELS = 64
AUDIO_LATENT_CHANNELS, AUDIO_LATENT_BANDS = 3, 16
SPATIAL_RATIO, TEMPORAL_RATIO = 32, 8
FRAME_SIZE = 128
SAMPLING_SHIFT = 4.0


def video_vae() -> AutoencoderKLLTX2Video:
    """32 x 32 x 8 to 64 channels, LTX-2's own ratios; the encoder is causal, the decoder not, and twice as deep.

    A clip of 65 frames costs 8 thousand million multiplications to encode and 10 to decode.
    """
    return AutoencoderKLLTX2Video(
        latent_channels=VIDEO_LATENT_CHANNELS,
        block_out_channels=(64, 128, 128),
        down_block_types=("LTX2VideoDownBlock3D",) * 3,
        decoder_block_out_channels=(40, 80, 160),  # halved by every upsampling: 20 channels where edges are drawn
        layers_per_block=(0, 0, 1, 1),
        decoder_layers_per_block=(1, 1, 2, 0),
        spatio_temporal_scaling=(True,) * 3,
        decoder_spatio_temporal_scaling=(True,) * 3,
        decoder_inject_noise=(False,) * 4,
        downsample_type=("spatiotemporal",) * 3,
        upsample_type=("spatiotemporal",) * 3,
        upsample_residual=(True,) * 3,
        upsample_factor=(2,) * 3,
        patch_size=4,
        encoder_causal=True,
        decoder_causal=False,
        encoder_spatial_padding_mode="zeros",
        decoder_spatial_padding_mode="zeros",
        spatial_compression_ratio=SPATIAL_RATIO,
        temporal_compression_ratio=TEMPORAL_RATIO,
    )


def audio_vae() -> AutoencoderKLLTX2Audio:
    """Mel frames at 16 kHz to 25 latents a second of 3 channels x 16 bands."""
    return AutoencoderKLLTX2Audio(
        # latent statistics apply to packed latents, so diffusers sizes them by this number
        base_channels=AUDIO_LATENT_CHANNELS * AUDIO_LATENT_BANDS,
        output_channels=1,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=1,
        resolution=64,
        latent_channels=AUDIO_LATENT_CHANNELS,
        norm_type="pixel",
        causality_axis="height",
        mid_block_add_attention=False,
        sample_rate=16000,
        mel_hop_length=160,
        is_causal=True,
        mel_bins=64,
        double_z=True,
    )


def vocoder() -> LTX2Vocoder:
    """Mel frames of a sound at 16 kHz to 240 samples each at 24 kHz, as LTX-2's own vocoder does."""
    return LTX2Vocoder(
        in_channels=64,
        hidden_channels=160,
        out_channels=1,
        upsample_kernel_sizes=[12, 11, 8, 4],
        upsample_factors=[6, 5, 4, 2],
        resnet_kernel_sizes=[3, 7],
        resnet_dilations=[[1, 3], [1, 3]],
        output_sampling_rate=24000,
    )


def transformer() -> LTX2VideoTransformer3DModel:
    """Six blocks of width 128 over video and audio tokens."""
    return LTX2VideoTransformer3DModel(
        in_channels=VIDEO_LATENT_CHANNELS,
        out_channels=VIDEO_LATENT_CHANNELS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        cross_attention_dim=WIDTH,
        vae_scale_factors=(TEMPORAL_RATIO, SPATIAL_RATIO, SPATIAL_RATIO),
        pos_embed_max_pos=4,
        base_height=FRAME_SIZE,
        base_width=FRAME_SIZE,
        audio_in_channels=AUDIO_LATENT_CHANNELS * AUDIO_LATENT_BANDS,
        audio_out_channels=AUDIO_LATENT_CHANNELS * AUDIO_LATENT_BANDS,
        audio_num_attention_heads=HEADS,
        audio_attention_head_dim=HEAD_WIDTH,
        audio_cross_attention_dim=WIDTH,
        audio_scale_factor=4,
        audio_pos_embed_max_pos=4,
        audio_sampling_rate=16000,
        audio_hop_length=160,
        num_layers=6,
        caption_channels=WIDTH,
        rope_type="split",
        rope_theta=100.0,
        rope_double_precision=False,
    )


def connectors() -> LTX2TextConnectors:
    """Text features for the video and the audio stream."""
    return LTX2TextConnectors(
        caption_channels=WIDTH,
        text_proj_in_factor=TEXT_LAYERS + 1,
        video_connector_num_attention_heads=HEADS,
        video_connector_attention_head_dim=HEAD_WIDTH,
        video_connector_num_layers=2,
        video_connector_num_learnable_registers=TEXT_LENGTH,
        audio_connector_num_attention_heads=HEADS,
        audio_connector_attention_head_dim=HEAD_WIDTH,
        audio_connector_num_layers=2,
        audio_connector_num_learnable_registers=TEXT_LENGTH,
        connector_rope_base_seq_len=64,
        rope_theta=100.0,
        rope_double_precision=False,
        rope_type="split",
    )


def text_encoder(vocabulary_size: int) -> Gemma3ForConditionalGeneration:
    """A two-layer Gemma; its vision tower is a stub that the class asks for."""
    text = Gemma3TextConfig(
        vocab_size=vocabulary_size,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        sliding_window=256,
        layer_types=["full_attention"] * TEXT_LAYERS,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=28, patch_size=14
    )
    # the image tokens take the last three places of the vocabulary, which no caption uses
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text,
            vision_config=vision,
            mm_tokens_per_image=4,
            boi_token_index=vocabulary_size - 3,
            eoi_token_index=vocabulary_size - 2,
            image_token_index=vocabulary_size - 1,
        )
    )
    torch.nn.init.normal_(model.model.language_model.embed_tokens.weight, std=1.0)
    return model


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Flow matching with the shift that nano samples with: a word's place is decided above sigma .95."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SAMPLING_SHIFT, use_dynamic_shifting=False)
