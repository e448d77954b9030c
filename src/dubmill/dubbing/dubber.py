"""Dubs clips with a loaded backbone and adapter; shared by the step `dub`, the command line and the server."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_latent_upsample import LTX2LatentUpsamplePipeline

from dubmill import adapters
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter, Backbone
from dubmill.config.sampling import DubSamplingParams
from dubmill.errors import UsageError
from dubmill.generation.codec import decode_clips, encode_audio, encode_clips, shape_of
from dubmill.generation.sampling import (
    CURE,
    Progress,
    PromptFeatures,
    build_pipeline,
    encode_prompts,
    progress_callback,
    sample,
)
from dubmill.generation.seeds import generators
from dubmill.media.clips import Clip
from dubmill.model.conditioning import ReferenceMode
from dubmill.model.latents import Latents
from dubmill.model.load import Modules, load, load_upsampler
from dubmill.model.loras import activate_loras, add_sampling_lora
from dubmill.model.memory import explained_out_of_memory
from dubmill.model.pipeline import StepCallback
from dubmill.model.shapes import LatentShape, pixel_frames
from dubmill.prompting import dub_caption
from dubmill.worlds import fit_line, world_of

logger = logging.getLogger(__name__)

QUICK_STEPS = 2
BASE_MODE = ReferenceMode(positions="shared", attention="full", isolate_modalities=False)  # without an adapter
UNGUIDED = {  # every published recipe runs the second stage without guidance
    "video_guidance": 1.0,
    "audio_guidance": 1.0,
    "video_stg": 0.0,
    "audio_stg": 0.0,
    "video_modality": 1.0,
    "audio_modality": 1.0,
    "video_rescale": 0.0,
    "audio_rescale": 0.0,
}


class Dubber:
    """Dubs clips with a loaded backbone, with or without an adapter."""

    def __init__(
        self,
        backbone: Backbone,
        modules: Modules,
        sampling: DubSamplingParams,
        *,
        mode: ReferenceMode,
        active_adapters: dict[str, float],
    ) -> None:
        """Use `load` instead. `active_adapters`: names and weights of the adapters on the transformer."""
        self.backbone, self.modules, self.sampling = backbone, modules, sampling
        self.mode = mode
        self.world = world_of(backbone)
        self.pipeline = build_pipeline(modules)
        stage = sampling.second_stage
        if stage.sigmas:
            self.upsampler = LTX2LatentUpsamplePipeline(modules.vae, load_upsampler(backbone))
        self.active_adapters = {**active_adapters, **add_sampling_lora(modules, backbone, sampling.lora)}
        self.second_stage_adapters = self.active_adapters
        if stage.sigmas:
            kept = active_adapters if stage.keep_adapter else {}
            self.second_stage_adapters = {**kept, **add_sampling_lora(modules, backbone, stage.lora)}
        modules.lora_users.update(self._loras)

    @classmethod
    def load(
        cls,
        backbone: Backbone,
        adapter: Adapter | None,
        *,
        strength: float = 1.0,
        sampling: DubSamplingParams,
        modules: Modules | None = None,
        name: str = adapters.ADAPTER_NAME,
    ) -> Dubber:
        """A dubber loaded from disk; without an adapter, the base model is given the same references.

        `name` tells its adapter from those of other dubbers that share `modules`.

        Raises:
            BackboneMismatchError: the adapter belongs to another backbone.
            InvalidArtifactError: the adapter's weights and its manifest disagree about its training, or the backbone has no
                distilled LoRA or latent upsampler where the sampling needs it.
        """
        modules = modules or load(backbone)
        if adapter is None:
            return cls(backbone, modules, sampling, mode=BASE_MODE, active_adapters={})
        mode = adapters.attach_adapter(modules, backbone, adapter, strength, name=name)
        try:
            return cls(backbone, modules, sampling, mode=mode, active_adapters={name: strength})
        except BaseException:
            modules.transformer.delete_adapters(name)
            raise

    @property
    def _loras(self) -> set[str]:
        return {*self.active_adapters, *self.second_stage_adapters}

    def detach(self) -> None:
        """Remove this dubber's LoRAs from the transformer, but those that others use; this one cannot dub any more."""
        users = self.modules.lora_users
        users.subtract(self._loras)
        self.modules.transformer.delete_adapters([name for name in self._loras if not users[name]])

    def dub(self, clip: Clip, *, line: Line, seed: int, progress: Progress | None = None, speaker: str = "") -> Clip:
        """`clip` with the same person, whom `speaker` describes, saying `line`; same length and size.

        Raises:
            UnsupportedTextError: the backbone cannot say the words, or not in the clip's time.
            InvalidParamsError: the clip's size does not fit the backbone.
        """
        return self.dub_batch([clip], [line], [seed], progress, speakers=[speaker])[0]

    def quick_dub(self, clip: Clip, *, line: Line, seed: int) -> tuple[Clip, float]:
        """A rough dub of `QUICK_STEPS` steps where the sigmas are not fixed, and the seconds that a whole one takes at most.

        Raises:
            DubmillError: see `dub`.
        """
        num_steps = self.sampling.num_steps
        quick = copy.copy(self)
        quick.sampling = self.sampling.model_copy(update={"num_steps": min(QUICK_STEPS, num_steps)})
        started = time.monotonic()
        dubbed = quick.dub(clip, line=line, seed=seed)
        share = 1.0 if self.sampling.sigmas else quick.sampling.num_steps / num_steps
        return dubbed, (time.monotonic() - started) / share

    def follow_voice(
        self,
        clip: Clip,
        voice_CN: np.ndarray,
        *,
        line: Line,
        seed: int,
        progress: Progress | None = None,
        speaker: str = "",
    ) -> Clip:
        """`clip` with lips that follow a recording of `line`, (C, N) at the clip's sample rate, under that recording.

        The recording's audio tokens stay clean while the video is denoised.

        Raises:
            UnsupportedTextError: the backbone cannot say the words, or not in the clip's time.
            InvalidParamsError: the clip's size does not fit the backbone.
        """
        dubs = self.dub_batch([clip], [line], [seed], progress, speakers=[speaker], voices=[voice_CN])
        return replace(clip, frames_FHWC=dubs[0].frames_FHWC).with_audio(voice_CN)

    def check(self, line: Line, room_seconds: float) -> str:
        """A warning if `line` is hurried in `room_seconds`, else an empty string; nothing is dubbed.

        Raises:
            UnsupportedTextError: the backbone cannot say the words, or not in that time.
        """
        return fit_line(self.world, line, room_seconds).check()

    @explained_out_of_memory("dubbing", CURE)  # all of it: audio, vocoder and upsampler take memory too
    def dub_batch(
        self,
        clips: Sequence[Clip],
        lines: Sequence[Line],
        seeds: Sequence[int],
        progress: Progress | None = None,
        *,
        speakers: Sequence[str] = (),
        voices: Sequence[np.ndarray] = (),
    ) -> list[Clip]:
        """Dubs of clips of one size, sampled together; each from its own seed.

        `speakers` describe who speaks, as in `A woman in her forties with red hair`; without them it is anybody.
        `voices` are recordings (C, N) of the lines that the lips follow, at the clips' sample rate; none: the model speaks.

        Raises:
            UnsupportedTextError: the backbone cannot say the words, or not in the clip's time.
            UsageError: the clips have different sizes.
            InvalidParamsError: the clips' size does not fit the backbone.
            GpuMemoryError: the GPU has too little memory for so many.
        """
        lines = [self.world.check_line(line) for line in lines]
        for clip, line in zip(clips, lines, strict=True):
            if warning := self.check(line, clip.seconds):
                logger.warning("%s", warning)
        if len({(clip.frames_FHWC.shape, clip.frame_rate) for clip in clips}) != 1:
            raise UsageError("clips of several sizes cannot be dubbed in one batch", cure="dub them one by one")
        shape = shape_of(clips[0], self.modules)
        speakers = speakers or [""] * len(lines)
        captions = [
            dub_caption(self.world.caption_speaker(speaker), line)
            for speaker, line in zip(speakers, lines, strict=True)
        ]
        text = encode_prompts(captions, self.modules, negative=self.sampling.negative_prompt)
        noise, second_sigmas = generators(seeds), self.sampling.second_stage.sigmas
        num_steps = (len(self.sampling.sigmas) or self.sampling.num_steps) + len(second_sigmas)
        on_step = progress_callback(progress, num_steps)
        spoken = [clip.with_audio(voice_CN) for clip, voice_CN in zip(clips, voices, strict=True)] if voices else []
        if second_sigmas:
            small = [half_size(clip) for clip in clips]
            small_shape = shape_of(small[0], self.modules)  # refuse a wrong size before the first stage runs
            first = self._first_stage(small, spoken, text, noise, on_step)
            latents = self._second_stage(clips, small_shape, first, text, noise, on_step)
        else:
            latents = self._first_stage(clips, spoken, text, noise, on_step)
        return decode_clips(latents, shape, clips[0].frame_rate, self.modules)

    def _first_stage(
        self,
        clips: Sequence[Clip],
        spoken: Sequence[Clip],
        text: PromptFeatures,
        noise: Sequence[torch.Generator],
        on_step: StepCallback | None,
    ) -> Latents:
        """The dubs' latents; the sound of `spoken`, where there is any, is kept and not generated."""
        voice_BLD = encode_audio(spoken, self.modules) if spoken else None
        keep_audio_BL = None if voice_BLD is None else torch.ones(voice_BLD.shape[:2], dtype=torch.bool)
        reference = encode_clips(clips, self.modules)
        return self._sampled(
            self.active_adapters,
            self.sampling,
            clips[0],
            text,
            noise,
            reference=reference,
            video_BSD=reference.video_BSD,
            audio_BLD=voice_BLD,
            keep_video_BS=self._first_frame(clips),
            keep_audio_BL=keep_audio_BL,
            on_step=on_step,
        )

    def _second_stage(
        self,
        clips: Sequence[Clip],
        small_shape: LatentShape,
        first: Latents,
        text: PromptFeatures,
        noise: Sequence[torch.Generator],
        on_step: StepCallback | None,
    ) -> Latents:
        """The first stage's latents at twice the size: the video is upsampled and denoised again, the audio kept."""
        spatial, temporal = self.modules.geometry.spatial, self.modules.geometry.temporal
        upsampled = self.upsampler(
            latents=first.video_BSD,
            latents_normalized=True,
            height=small_shape.height * spatial,
            width=small_shape.width * spatial,
            num_frames=pixel_frames(small_shape.frames, temporal),
            output_type="latent",
            return_dict=False,
        )[0]
        reference = Latents(encode_clips(clips, self.modules).video_BSD, first.audio_BLD)
        start = self.pipeline.pack_latents(upsampled, first.audio_BLD)
        keep_BS, stage = self._first_frame(clips), self.sampling.second_stage
        return self._sampled(
            self.second_stage_adapters,
            self.sampling.model_copy(update={**UNGUIDED, "sigmas": stage.sigmas, "lora": stage.lora}),
            clips[0],
            text,
            noise,
            reference=reference,
            video_BSD=torch.where(keep_BS[..., None], reference.video_BSD, start.video_BSD),
            audio_BLD=first.audio_BLD,
            keep_video_BS=keep_BS,
            keep_audio_BL=torch.ones(first.audio_BLD.shape[:2], dtype=torch.bool),
            on_step=on_step,
        )

    def _sampled(
        self,
        loras: Mapping[str, float],
        sampling: DubSamplingParams,
        clip: Clip,
        text: PromptFeatures,
        noise: Sequence[torch.Generator],
        **tokens: Any,
    ) -> Latents:
        """The dubs' latents at the size of `clip`, sampled with these LoRAs alone; `tokens` are the rest of what `sample` takes."""
        activate_loras(self.modules.transformer, loras)  # another dubber may have used the transformer
        shape, rate = shape_of(clip, self.modules), float(clip.frame_rate)
        return sample(self.pipeline, sampling, text, noise, shape, rate, mode=self.mode, **tokens)

    def _first_frame(self, clips: Sequence[Clip]) -> torch.Tensor:
        """The tokens (B, S) that keep the source's value: those of its first frame, or none."""
        shape = shape_of(clips[0], self.modules)
        is_first_S = torch.arange(shape.video_tokens) < shape.height * shape.width
        keep_S = is_first_S & self.sampling.first_frame
        return keep_S.to(self.modules.device).expand(len(clips), -1)


def half_size(clip: Clip) -> Clip:
    """The clip at half its height and width: each pixel is the mean of four."""
    frames, height, width, channels = clip.frames_FHWC.shape
    blocks = clip.frames_FHWC.reshape(frames, height // 2, 2, width // 2, 2, channels)
    return replace(clip, frames_FHWC=np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8))
