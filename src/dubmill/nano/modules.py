"""The nano LTX-2: diffusers' own classes at small width, untrained."""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

from dubmill.nano.room import FRAME_SIZE

WIDTH, HEADS, HEAD_WIDTH, TEXT_LAYERS = 128, 4, 32, 2
TEXT_LENGTH = 32
VIDEO_LATENT_CHANNELS = 48
AUDIO_LATENT_CHANNELS, AUDIO_LATENT_BANDS = 2, 16
SPATIAL_RATIO, TEMPORAL_RATIO = 32, 4
SAMPLING_SHIFT = 4.0


def video_vae() -> AutoencoderKLLTX2Video:
    """Returns a video VAE: 32 x 32 pixels of 4 frames become 48 channels; the encoder is causal, the decoder is not.

    It is `sketch_vae` with patches of twice the side.
    """
    return _vae(patch_size=16)


def sketch_vae() -> AutoencoderKLLTX2Video:
    """Returns a VAE of sketches: 16 x 16 pixels of 4 frames become 48 channels. It gives the latent space and is not shipped."""
    return _vae(patch_size=8)


def _vae(*, patch_size: int) -> AutoencoderKLLTX2Video:
    return AutoencoderKLLTX2Video(
        latent_channels=VIDEO_LATENT_CHANNELS,
        block_out_channels=(96, 96),
        down_block_types=("LTX2VideoDownBlock3D",) * 2,
        decoder_block_out_channels=(96, 96),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(2, 1, 1),  # the second layer is at full size, where edges are drawn
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False,) * 3,
        downsample_type=("spatiotemporal", "temporal"),
        upsample_type=("temporal", "spatiotemporal"),
        upsample_residual=(True, True),
        upsample_factor=(1, 1),
        patch_size=patch_size,
        encoder_causal=True,
        decoder_causal=False,
        encoder_spatial_padding_mode="zeros",
        decoder_spatial_padding_mode="zeros",
        spatial_compression_ratio=2 * patch_size,
        temporal_compression_ratio=TEMPORAL_RATIO,
    )


def audio_vae() -> AutoencoderKLLTX2Audio:
    """Returns an audio VAE: mel frames become 25 latents per second of 2 channels x 16 bands."""
    return AutoencoderKLLTX2Audio(
        base_channels=AUDIO_LATENT_CHANNELS
        * AUDIO_LATENT_BANDS,  # diffusers sizes the packed latents' statistics by it
        output_channels=1,
        ch_mult=(1, 1, 2),
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
    """Returns a vocoder: each mel frame becomes 160 samples."""
    return LTX2Vocoder(
        in_channels=64,
        hidden_channels=128,
        out_channels=1,
        upsample_kernel_sizes=[11, 8, 8, 4],
        upsample_factors=[5, 4, 4, 2],
        resnet_kernel_sizes=[3, 7],
        resnet_dilations=[[1, 3], [1, 3]],
        output_sampling_rate=16000,
    )


def transformer() -> LTX2VideoTransformer3DModel:
    """Returns a transformer of six blocks of width 128 over video and audio tokens."""
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
    """Returns the connectors, which make text features for the video and the audio stream."""
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
    """Returns a two-layer Gemma; its vision tower is a minimal one, since the class requires one."""
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
    """Returns a flow-matching scheduler with nano's shift: the time of a word is decided above sigma .95."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SAMPLING_SHIFT, use_dynamic_shifting=False)
