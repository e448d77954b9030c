"""Checks and prepares the inputs of `LTX2DubPipeline`: prompts, frames and waveforms to text features and latent tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline
from scipy.signal import resample_poly

from dubmill.model.conditioning import SequenceLayout, cache_reference
from dubmill.model.diffusion import GuidanceScales
from dubmill.model.latents import Latents, encode_pixels, encode_wave, pack_audio, pack_video
from dubmill.model.shapes import LatentShape
from dubmill.model.text import TextFeatures, concatenate, hidden_states, tokenize

PromptEmbeds = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
"""Embeddings and mask of the prompts, then of the negative prompts."""
NO_EMBEDS: PromptEmbeds = (None, None, None, None)


class LTX2DubInputs(LTX2Pipeline):
    """An `LTX2Pipeline` with the methods that prepare a dub."""

    _callback_tensor_inputs = ["latents", "audio_latents"]

    def check_inputs(
        self, height: int, width: int, num_frames: int, sigmas: list[float] | None, stg_blocks: Sequence[int] | None
    ) -> None:
        """Raises `ValueError` for a size, noise levels or guided blocks that the model does not have."""
        self.check_size(height, width, num_frames)
        self.check_sampling(sigmas, stg_blocks)

    def check_size(self, height: int, width: int, num_frames: int) -> None:
        """Raises `ValueError` for a size that the autoencoder cannot encode."""
        spatial, temporal = self.vae_spatial_compression_ratio, self.vae_temporal_compression_ratio
        if height % spatial or width % spatial:
            raise ValueError(f"`height` and `width` have to be divisible by {spatial} but are {height} and {width}.")
        if (num_frames - 1) % temporal:
            raise ValueError(f"`num_frames` has to be {temporal}k + 1 but is {num_frames}.")

    def check_prompt(
        self, prompt: str | list[str] | None, prompt_embeds: torch.Tensor | None, features: TextFeatures | None
    ) -> int:
        """Returns the number of clips; raises `ValueError` unless the prompt is given in exactly one form."""
        if sum(form is not None for form in (prompt, prompt_embeds, features)) != 1:
            raise ValueError("Provide one of `prompt`, `prompt_embeds` and `text_features`, and no other.")
        if isinstance(prompt, str):
            return 1
        return next(len(form) for form in (prompt, prompt_embeds, features) if form is not None)

    def check_reference(
        self, has_video: bool, has_audio: bool, positions: str, attention: str, is_isolated: bool
    ) -> None:
        """Raises `ValueError` for a reference without its video or audio, or for unknown ways to read it."""
        if has_video != has_audio:
            raise ValueError("A reference has a video and an audio: provide the other one too.")
        if positions not in ("shared", "negative"):
            raise ValueError(f'`reference_positions` has to be "shared" or "negative" but is {positions!r}.')
        if attention not in ("full", "self"):
            raise ValueError(f'`reference_attention` has to be "full" or "self" but is {attention!r}.')
        if attention == "self" and not is_isolated:
            raise ValueError('`reference_attention="self"` needs `isolate_reference=True`.')

    def check_sampling(self, sigmas: list[float] | None, stg_blocks: Sequence[int] | None) -> None:
        """Raises `ValueError` for noise levels that do not fall, or for missing or unknown transformer blocks."""
        if sigmas is not None and not all(1 >= a > b for a, b in zip(sigmas, [*sigmas[1:], 0], strict=True)):
            raise ValueError(f"`sigmas` have to fall within (0, 1], without the final 0, but are {sigmas}.")
        if self.do_spatio_temporal_guidance and not stg_blocks:
            raise ValueError("Spatio-temporal guidance needs `spatio_temporal_guidance_blocks`.")
        num_blocks = len(self.transformer.transformer_blocks)
        if not all(0 <= block < num_blocks for block in stg_blocks or ()):
            raise ValueError(f"`spatio_temporal_guidance_blocks` are {stg_blocks}, of blocks 0 to {num_blocks - 1}.")

    def check_call(self, batch_size: int, generator: Any, callback_tensor_inputs: list[str]) -> None:
        """Raises `ValueError` for a wrong number of generators, or tensors that a callback cannot have."""
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"There are {len(generator)} generators for {batch_size} clips.")
        unknown = set(callback_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"A callback can have {self._callback_tensor_inputs}, but not {sorted(unknown)}.")

    def _get_gemma_prompt_embeds(
        self,
        prompt: str | list[str],
        num_videos_per_prompt: int = 1,
        max_sequence_length: int = 1024,
        scale_factor: int = 8,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns text encoder states and mask as [`LTX2Pipeline`] computes them, but without the logits, which it ignores."""
        device = device or self._execution_device
        prompts = [prompt] if isinstance(prompt, str) else prompt
        token_ids_BT, mask_BT = (one.to(device) for one in tokenize(self.tokenizer, prompts, max_sequence_length))
        states = hidden_states(self.text_encoder, token_ids_BT, mask_BT).to(dtype or self.text_encoder.dtype)
        times = num_videos_per_prompt
        return states.repeat_interleave(times, dim=0), mask_BT.repeat_interleave(times, dim=0)

    def encode_text(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None,
        embeds: PromptEmbeds,
        max_sequence_length: int,
        *,
        has_negative: bool,
    ) -> TextFeatures:
        """Returns connector features of prompts, or of `embeds`; with `has_negative` the negative prompts' rows first.

        The text encoder may be on another device than the connectors, to spare GPU memory.
        """
        encoded: Any = self.encode_prompt(
            prompt,  # pyright: ignore[reportArgumentType] (None with embeddings)
            negative_prompt,
            do_classifier_free_guidance=has_negative,
            prompt_embeds=embeds[0],
            prompt_attention_mask=embeds[1],
            negative_prompt_embeds=embeds[2],
            negative_prompt_attention_mask=embeds[3],
            max_sequence_length=max_sequence_length,
            device=self.text_encoder.device,
        )
        (states, mask, negative, negative_mask), device = encoded, self._execution_device
        if has_negative:
            states = torch.cat([negative.to(device), states.to(device)])
            mask = torch.cat([negative_mask.to(device), mask.to(device)])
        return TextFeatures(*self.connectors(states.to(device), mask.to(device), padding_side="left"))

    def stack_features(
        self, features: TextFeatures, negative: TextFeatures | None, *, has_negative: bool
    ) -> TextFeatures:
        """Returns features that were computed before, on the execution device; with `has_negative` the negative's first.

        `negative` has one row for all clips or one for each.
        """
        features = features.to(self._execution_device)
        if not has_negative:
            return features
        if negative is None:
            raise ValueError("Classifier-free guidance with `text_features` needs `negative_text_features`.")
        rows = range(len(features)) if len(negative) > 1 else [0] * len(features)
        return concatenate([negative.to(self._execution_device).pick(rows), features])

    def encode_video(self, frames: Any, height: int, width: int, num_frames: int) -> torch.Tensor:
        """Returns the tokens of frames as `VideoProcessor.preprocess_video` takes them; `ValueError` for too few frames."""
        pixels = self.video_processor.preprocess_video(frames, height=height, width=width)[:, :, :num_frames]
        if pixels.shape[2] < num_frames:
            raise ValueError(f"There are {pixels.shape[2]} frames, fewer than `num_frames`, {num_frames}.")
        return encode_pixels(pixels.to(self._execution_device), self.vae)

    def encode_audio(self, audio: torch.Tensor, sampling_rate: int | None, num_latents: int) -> torch.Tensor:
        """Returns the tokens of waveforms, padded with silence or cut to `num_latents`."""
        config, ratio = self.audio_vae.config, self.audio_vae_temporal_compression_ratio
        audio = audio if audio.ndim == 3 else audio[None]
        if sampling_rate not in (None, config.sample_rate):
            audio = torch.from_numpy(
                resample_poly(audio.float().cpu().numpy(), config.sample_rate, sampling_rate, axis=-1)
            )
        if audio.shape[1] != config.in_channels:
            audio = audio.mean(dim=1, keepdim=True).expand(-1, config.in_channels, -1)
        missing = (ratio * (num_latents - 1) + 1) * config.mel_hop_length - audio.shape[-1]
        padded = torch.nn.functional.pad(audio, (0, max(0, missing)))
        return encode_wave(padded.to(self._execution_device, torch.float32), num_latents, self.audio_vae)

    def pack_latents(self, video: torch.Tensor, audio: torch.Tensor) -> Latents:
        """Returns latents as normalised tokens; each of the two may be tokens already."""
        video = video if video.ndim == 3 else pack_video(video, self.vae)
        audio = audio if audio.ndim == 3 else pack_audio(audio, self.audio_vae)
        return Latents(video, audio)

    def prepare_reference(
        self,
        shape: LatentShape,
        batch_size: int,
        sources: tuple[Any, torch.Tensor | None, int | None],
        latents: torch.Tensor | None,
        audio_latents: torch.Tensor | None,
    ) -> Latents | None:
        """Returns reference tokens for the batch, from latents or from `sources`; one reference serves all clips.

        `sources`: frames, audio and its sampling rate.
        """
        frames, audio, sampling_rate = sources
        if frames is None and latents is None:
            return None
        if latents is None:
            latents = self.encode_video(frames, *self._pixels(shape))
        if audio_latents is None:
            assert audio is not None, "check_reference wants an audio for each video"
            audio_latents = self.encode_audio(audio, sampling_rate, shape.audio)
        tokens = self.pack_latents(latents, audio_latents)
        if batch_size % len(tokens):
            raise ValueError(f"There are {len(tokens)} references for {batch_size} prompts.")
        return tokens.repeat(batch_size // len(tokens)).to(self._execution_device)

    def prepare_latents(
        self,
        shape: LatentShape,
        batch_size: int,
        image: Any,
        latents: torch.Tensor | None,
        audio_latents: torch.Tensor | None,
        keep_video: torch.Tensor | None,
        keep_audio: torch.Tensor | None,
    ) -> tuple[Latents, torch.Tensor, torch.Tensor]:
        """Returns the target's clean tokens, zero where none are given, and the masks of the video's and audio's kept ones."""
        config, device = self.transformer.config, self._execution_device
        if latents is None:
            latents = torch.zeros(batch_size, shape.video_tokens, config.in_channels)
        if audio_latents is None:
            audio_latents = torch.zeros(batch_size, shape.audio, config.audio_in_channels)
        clean = self.pack_latents(latents, audio_latents).to(device)
        keep_video, keep_audio = (
            torch.zeros(tokens.shape[:2], dtype=torch.bool, device=device) if keep is None else keep.to(device)
            for tokens, keep in ((clean.video_BSD, keep_video), (clean.audio_BLD, keep_audio))
        )
        if image is None:
            return clean, keep_video, keep_audio
        height, width, _ = self._pixels(shape)
        first = self.encode_video([image], height, width, 1).repeat(1, shape.frames, 1)
        is_first = torch.arange(shape.video_tokens, device=device) < shape.height * shape.width
        video = torch.where(is_first[:, None], first, clean.video_BSD)
        return Latents(video, clean.audio_BLD), keep_video | is_first, keep_audio

    def latent_shape(self, height: int, width: int, num_frames: int, frame_rate: float) -> LatentShape:
        """Returns the latent extents of a clip."""
        spatial, temporal = self.vae_spatial_compression_ratio, self.vae_temporal_compression_ratio
        audio = round(num_frames / frame_rate * self.transformer.audio_rope.audio_latents_per_second)
        return LatentShape((num_frames - 1) // temporal + 1, height // spatial, width // spatial, audio)

    def _pixels(self, shape: LatentShape) -> tuple[int, int, int]:
        """Returns height, width and number of frames."""
        spatial, temporal = self.vae_spatial_compression_ratio, self.vae_temporal_compression_ratio
        return shape.height * spatial, shape.width * spatial, (shape.frames - 1) * temporal + 1

    def cache_reference(
        self,
        reference: Latents | None,
        empty: TextFeatures | None,
        layout: SequenceLayout,
        max_sequence_length: int,
    ) -> None:
        """Fills the KV cache with the reference under the empty prompt, for a layout that reads it from there."""
        if reference is None or not layout.is_cached:
            return
        if empty is None:
            empty = self.encode_text([""], None, NO_EMBEDS, max_sequence_length, has_negative=False)
        empty = empty.to(self._execution_device).pick([0] * len(reference))
        cache_reference(self.transformer, reference, empty, layout)

    def _set_guidance(
        self, video: GuidanceScales, audio: tuple[float | None, float | None, float | None, float | None]
    ) -> tuple[GuidanceScales, GuidanceScales]:
        """Keeps the scales for diffusers' properties and returns them; an audio scale of `None` is the video's."""
        own = (video.guidance, video.stg, video.modality, video.rescale)
        guidance, stg, modality, rescale = (
            ours if scale is None else scale for ours, scale in zip(own, audio, strict=True)
        )
        sound = GuidanceScales(guidance=guidance, stg=stg, modality=modality, rescale=rescale)
        self._guidance_scale, self._stg_scale, self._modality_scale, self._guidance_rescale = own
        self._audio_guidance_scale, self._audio_stg_scale = sound.guidance, sound.stg
        self._audio_modality_scale, self._audio_guidance_rescale = sound.modality, sound.rescale
        return video, sound

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether video or audio has it; a scale below 1 is guidance too."""
        return (self._guidance_scale, self._audio_guidance_scale) != (1, 1)
