"""Dubs clips with a loaded backbone and adapter; shared by the step `dub`, the command line and the server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.ltx2.pipeline_ltx2_latent_upsample import LTX2LatentUpsamplePipeline

from dubmill import adapters
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter, Backbone
from dubmill.config.params import DubSamplingParams
from dubmill.errors import InvalidArtifactError, UsageError
from dubmill.generation.codec import decode, encode, shape_of
from dubmill.generation.sampling import Progress, call_of, pipeline, seeded, size_of, telling
from dubmill.media.clips import Clip
from dubmill.model.latents import Latents
from dubmill.model.load import Modules, load, load_upsampler
from dubmill.prompting import dub_caption
from dubmill.worlds import fit_line, world_of

logger = logging.getLogger(__name__)

SPEAKER = "A person"
SECOND_STAGE = "second_stage"
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
        reference: str,
        isolate: bool,
        attention: str,
        active_adapters: dict[str, float],
    ) -> None:
        """Use `load` instead. `active_adapters`: names and weights of the adapters on the transformer."""
        self.backbone, self.modules, self.sampling = backbone, modules, sampling
        self.reference, self.isolate, self.attention = reference, isolate, attention
        self.world = world_of(backbone)
        self.pipeline = pipeline(modules)
        self.active_adapters = self.second_stage_adapters = active_adapters
        if sampling.second_stage.sigmas:
            self.upsampler = LTX2LatentUpsamplePipeline(modules.vae, load_upsampler(backbone))
            self.second_stage_adapters = self._load_second_stage_adapters()

    @classmethod
    def load(
        cls, backbone: Backbone, adapter: Adapter | None, *, strength: float = 1.0, sampling: DubSamplingParams
    ) -> Dubber:
        """A dubber loaded from disk; without an adapter, the base model is given the same references.

        Raises:
            BackboneMismatchError: the adapter belongs to another backbone.
            InvalidArtifactError: the adapter's weights and its manifest disagree about its training, or the second stage needs a
                file that is not there.
        """
        modules = load(backbone)
        if adapter is None:
            return cls(
                backbone, modules, sampling, reference="shared", isolate=False, attention="full", active_adapters={}
            )
        mode = adapters.attach_adapter(modules, backbone, adapter, strength)
        return cls(
            backbone,
            modules,
            sampling,
            reference=mode.positions,
            isolate=mode.isolate_modalities,
            attention=mode.attention,
            active_adapters={adapters.ADAPTER_NAME: strength},
        )

    def dub(self, clip: Clip, *, line: Line, seed: int, progress: Progress | None = None) -> Clip:
        """`clip` with the same person saying `line`; same length and size.

        Raises:
            UnsupportedTextError: the backbone cannot say the words, or not in the clip's time.
            InvalidParamsError: the clip's size does not fit the backbone.
        """
        return self.dub_batch([clip], [line], [seed], progress)[0]

    def check(self, line: Line, room_seconds: float) -> str:
        """A warning if `line` is hurried in `room_seconds`, else an empty string; nothing is dubbed.

        Raises:
            UnsupportedTextError: the backbone cannot say the words, or not in that time.
        """
        return fit_line(self.world, line, room_seconds).check()

    def dub_batch(
        self, clips: Sequence[Clip], lines: Sequence[Line], seeds: Sequence[int], progress: Progress | None = None
    ) -> list[Clip]:
        """Dubs of clips of one size, sampled together; each from its own seed.

        Raises:
            UnsupportedTextError: the backbone cannot say the words, or not in the clip's time.
            UsageError: the clips have different sizes.
            InvalidParamsError: the clips' size does not fit the backbone.
        """
        lines = [self.world.check_line(line) for line in lines]
        for clip, line in zip(clips, lines, strict=True):
            if warning := self.check(line, clip.seconds):
                logger.warning("%s", warning)
        if len({(clip.frames_FHWC.shape, clip.frame_rate) for clip in clips}) != 1:
            raise UsageError("clips of several sizes cannot be dubbed in one batch", cure="dub them one by one")
        shape = shape_of(clips[0], self.modules)
        captions = [dub_caption(SPEAKER, line) for line in lines]
        generators = seeded(seeds)
        second_sigmas = self.sampling.second_stage.sigmas
        tell = telling(progress, (len(self.sampling.sigmas) or self.sampling.num_steps) + len(second_sigmas))
        if second_sigmas:
            small = [half_size(clip) for clip in clips]
            shape_of(small[0], self.modules)  # refuse a wrong size before the first stage runs
            first = self._first_stage(small, captions, generators, tell)
            latents = self._second_stage(clips, small[0], first, captions, generators, tell)
        else:
            latents = self._first_stage(clips, captions, generators, tell)
        return decode(latents, shape, clips[0].frame_rate, self.modules)

    def _first_stage(
        self, clips: Sequence[Clip], captions: list[str], generators: list[torch.Generator], tell: Any
    ) -> Latents:
        reference = encode(clips, self.modules)
        return Latents(
            *self.pipeline(
                captions,
                **self._references(reference, clips[0]),
                latents=reference.video_BSD,
                **call_of(self.sampling, generators, self.modules),
                callback_on_step_end=tell,
            )
        )

    def _second_stage(
        self,
        clips: Sequence[Clip],
        small: Clip,
        first: Latents,
        captions: list[str],
        generators: list[torch.Generator],
        tell: Any,
    ) -> Latents:
        """The first stage's latents at twice the size: the video is upsampled and denoised again, the audio kept."""
        size = size_of(small)
        upsampled = self.upsampler(
            latents=first.video_BSD,
            latents_normalized=True,
            height=size["height"],
            width=size["width"],
            num_frames=size["num_frames"],
            output_type="latent",
            return_dict=False,
        )[0]
        reference = Latents(encode(clips, self.modules).video_BSD, first.audio_BLD)
        references = self._references(reference, clips[0])
        start = self.pipeline.pack(upsampled, first.audio_BLD)
        is_given = references["conditioning_mask"][..., None]
        sampling = self.sampling.model_copy(update={**UNGUIDED, "sigmas": self.sampling.second_stage.sigmas})
        with self._adapters_active(self.second_stage_adapters):
            return Latents(
                *self.pipeline(
                    captions,
                    **references,
                    latents=torch.where(is_given, reference.video_BSD, start.video_BSD),
                    audio_latents=first.audio_BLD,
                    audio_conditioning_mask=torch.ones(first.audio_BLD.shape[:2], dtype=torch.bool),
                    **call_of(sampling, generators, self.modules),
                    callback_on_step_end=tell,
                )
            )

    def _references(self, reference: Latents, clip: Clip) -> dict[str, Any]:
        """The pipeline's arguments about the source: its latents, how they are read, and whether its first frame is kept."""
        shape = shape_of(clip, self.modules)
        is_first_S = torch.arange(shape.video_tokens) < shape.height * shape.width
        is_given_S = is_first_S & self.sampling.first_frame
        return {
            "reference_latents": reference.video_BSD,
            "reference_audio_latents": reference.audio_BLD,
            "reference_positions": self.reference,
            "reference_attention": self.attention,
            "isolate_reference": self.isolate,
            "conditioning_mask": is_given_S.to(self.modules.device).expand(len(reference), -1),
            **size_of(clip),
        }

    def _load_second_stage_adapters(self) -> dict[str, float]:
        """Names and weights of the second stage's adapters; its own LoRA, if any, is loaded here."""
        stage = self.sampling.second_stage
        kept = self.active_adapters if stage.keep_adapter else {}
        if stage.lora == "none":
            return kept
        if not Path(stage.lora).is_file():
            raise InvalidArtifactError(
                "no LoRA file for the second stage",
                where=stage.lora,
                cure="give a file in dub.sampling.second_stage.lora, or none",
            )
        self.pipeline.load_lora_weights(stage.lora, adapter_name=SECOND_STAGE)
        self._activate(self.active_adapters)
        return {**kept, SECOND_STAGE: 1.0}

    @contextmanager
    def _adapters_active(self, weights: dict[str, float]) -> Iterator[None]:
        if weights == self.active_adapters:
            yield
            return
        self._activate(weights)
        try:
            yield
        finally:
            self._activate(self.active_adapters)

    def _activate(self, weights: dict[str, float]) -> None:
        transformer = self.modules.transformer
        if not weights:
            transformer.disable_adapters()
            return
        transformer.enable_adapters()
        transformer.set_adapters(list(weights), weights=list(weights.values()))


def half_size(clip: Clip) -> Clip:
    """The clip at half its height and width: each pixel is the mean of four."""
    frames, height, width, channels = clip.frames_FHWC.shape
    blocks = clip.frames_FHWC.reshape(frames, height // 2, 2, width // 2, 2, channels)
    return replace(clip, frames_FHWC=np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8))
