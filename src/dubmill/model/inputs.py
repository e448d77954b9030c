"""Prompts, frames and waveforms to what an LTX-2 is asked: the half of `LTX2DubPipeline` that prepares."""

from __future__ import annotations

from typing import Any

import torch
from scipy.signal import resample_poly

from dubmill.model.conditioning import TextFeatures
from dubmill.model.latents import Latents, encode_pixels, encode_wave, pack_audio, pack_video
from dubmill.model.shapes import LatentShape


class LTX2DubInputs:
    """What a pipeline with the components of diffusers' `LTX2Pipeline` prepares its inputs with."""

    def encode_text(
        self,
        prompt: str | list[str] | None,
        *,
        device: torch.device,
        features: TextFeatures | None = None,
        **given: Any,
    ) -> TextFeatures:
        """Connector features, on `device`, of prompts or given embeddings; with guidance those of the negative ones first.

        The text encoder may lie elsewhere, to spare the GPU. `features` given instead end with those of the empty prompt,
        which is the negative one then.
        """
        if features is not None:
            rows = list(range(len(features) - 1))
            negative = [-1] * len(rows) if given["do_classifier_free_guidance"] else []
            return features.pick(negative + rows).to(device)
        spoken = self.encode_prompt(prompt, **given, device=self.text_encoder.device)
        embeds, mask, negative, negative_mask = (one if one is None else one.to(device) for one in spoken)
        if given["do_classifier_free_guidance"]:
            embeds, mask = torch.cat([negative, embeds]), torch.cat([negative_mask, mask])
        return TextFeatures(*self.connectors(embeds, mask, padding_side="left"))

    def encode_empty(
        self, batch_size: int, *, device: torch.device, features: TextFeatures | None, max_sequence_length: int
    ) -> TextFeatures:
        """Connector features, on `device`, of the empty prompt, for each clip of a batch."""
        if features is None:
            alone = {"do_classifier_free_guidance": False, "max_sequence_length": max_sequence_length}
            features = self.encode_text([""], device=device, **alone)
        return features.pick([-1] * batch_size).to(device)

    def encode_video(self, frames: Any, height: int, width: int, num_frames: int) -> torch.Tensor:
        """Tokens of frames as `VideoProcessor.preprocess_video` takes them; `ValueError` where there are too few."""
        pixels = self.video_processor.preprocess_video(frames, height=height, width=width)[:, :, :num_frames]
        if pixels.shape[2] < num_frames:
            raise ValueError(f"There are {pixels.shape[2]} frames, fewer than `num_frames`, {num_frames}.")
        return encode_pixels(pixels.to(self._execution_device), self.vae)

    def encode_audio(self, audio: torch.Tensor, sampling_rate: int | None, num_latents: int) -> torch.Tensor:
        """Tokens of waveforms, padded with silence or cut to `num_latents`."""
        config, ratio = self.audio_vae.config, self.audio_vae_temporal_compression_ratio
        audio = audio if audio.ndim == 3 else audio[None]
        if sampling_rate not in (None, config.sample_rate):
            audio = torch.from_numpy(resample_poly(audio.cpu().numpy(), config.sample_rate, sampling_rate, axis=-1))
        if audio.shape[1] != config.in_channels:
            audio = audio.mean(dim=1, keepdim=True).expand(-1, config.in_channels, -1)
        short = (ratio * (num_latents - 1) + 1) * config.mel_hop_length - audio.shape[-1]
        padded = torch.nn.functional.pad(audio, (0, max(0, short)))
        return encode_wave(padded.to(self._execution_device, torch.float32), num_latents, self.audio_vae)

    def pack(self, video: torch.Tensor, audio: torch.Tensor) -> Latents:
        """Latents as normalised tokens; each may be packed already."""
        video = video if video.ndim == 3 else pack_video(video, self.vae)
        audio = audio if audio.ndim == 3 else pack_audio(audio, self.audio_vae)
        return Latents(video, audio)

    def prepare_reference(
        self,
        shape: LatentShape,
        batch_size: int,
        device: torch.device,
        frames: Any,
        audio: torch.Tensor | None,
        sampling_rate: int | None,
        latents: torch.Tensor | None,
        audio_latents: torch.Tensor | None,
    ) -> Latents | None:
        """Reference tokens for the batch, from latents or from frames and audio; one reference serves all prompts."""
        if frames is None and latents is None:
            return None
        if latents is None:
            latents = self.encode_video(frames, *self._pixels(shape))
        if audio_latents is None:
            audio_latents = self.encode_audio(audio, sampling_rate, shape.audio)
        tokens = self.pack(latents, audio_latents)
        if batch_size % len(tokens):
            raise ValueError(f"There are {len(tokens)} references for {batch_size} prompts.")
        return tokens.repeat(batch_size // len(tokens)).to(device)

    def prepare_given(
        self,
        shape: LatentShape,
        batch_size: int,
        device: torch.device,
        image: Any,
        latents: torch.Tensor | None,
        audio_latents: torch.Tensor | None,
        keep_video: torch.Tensor | None,
        keep_audio: torch.Tensor | None,
    ) -> tuple[Latents, torch.Tensor, torch.Tensor]:
        """Clean tokens of the target, zero where there are none, and which of the video's and audio's are kept."""
        config = self.transformer.config
        if latents is None:
            latents = torch.zeros(batch_size, shape.video_tokens, config.in_channels)
        if audio_latents is None:
            audio_latents = torch.zeros(batch_size, shape.audio, config.audio_in_channels)
        given = self.pack(latents, audio_latents).to(device)
        is_first = torch.arange(shape.video_tokens, device=device) < shape.height * shape.width
        keep_video, keep_audio = (
            torch.zeros(tokens.shape[:2], dtype=torch.bool, device=device) if keep is None else keep.to(device)
            for tokens, keep in ((given.video_BSD, keep_video), (given.audio_BLD, keep_audio))
        )
        if image is None:
            return given, keep_video, keep_audio
        height, width, _ = self._pixels(shape)
        first = self.encode_video([image], height, width, 1).repeat(1, shape.frames, 1)
        video = torch.where(is_first[:, None], first, given.video_BSD)
        return Latents(video, given.audio_BLD), keep_video | is_first, keep_audio

    def _pixels(self, shape: LatentShape) -> tuple[int, int, int]:
        """Height, width and number of frames."""
        spatial, temporal = self.vae_spatial_compression_ratio, self.vae_temporal_compression_ratio
        return shape.height * spatial, shape.width * spatial, (shape.frames - 1) * temporal + 1
