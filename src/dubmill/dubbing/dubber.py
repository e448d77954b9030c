"""One clip in, the same person saying other words out: shared by the step `dub`, the CLI and the server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LTX2LatentUpsamplePipeline

from dubmill import adapters
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter, Backbone
from dubmill.config.params import DubSamplingParams
from dubmill.errors import BadArtifact, UsageError
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
UNGUIDED = {  # the second stage of every release runs without guidance
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
    """A loaded backbone, with an adapter or without, that dubs clips of the size it was trained on."""

    def __init__(
        self,
        backbone: Backbone,
        modules: Modules,
        sampling: DubSamplingParams,
        *,
        reference: str,
        isolate: bool,
        attention: str,
        worn: dict[str, float],
    ) -> None:
        """`worn`: the adapter on the transformer and its strength, or nothing."""
        self.backbone, self.modules, self.sampling = backbone, modules, sampling
        self.reference, self.isolate, self.attention = reference, isolate, attention
        self.world = world_of(backbone)
        self.pipeline = pipeline(modules)
        self.worn = self.worn_later = worn
        if sampling.second_stage.sigmas:
            self.upsampler = LTX2LatentUpsamplePipeline(modules.vae, load_upsampler(backbone))
            self.worn_later = self._second_stage_adapters()

    @classmethod
    def load(
        cls, backbone: Backbone, adapter: Adapter | None, *, strength: float = 1.0, sampling: DubSamplingParams
    ) -> Dubber:
        """A dubber from disk; without an adapter it is the base alone, given the same references.

        Raises:
            MismatchedBackbone: the adapter belongs to another backbone.
            BadArtifact: the adapter's weights say that they were trained otherwise than its manifest says, or the second
                stage needs a file that is not there.
        """
        modules = load(backbone)
        if adapter is None:
            return cls(backbone, modules, sampling, reference="shared", isolate=False, attention="full", worn={})
        mode = adapters.attach_adapter(modules, backbone, adapter, strength)
        return cls(
            backbone,
            modules,
            sampling,
            reference=mode.positions,
            isolate=mode.isolate_modalities,
            attention=mode.attention,
            worn={adapters.ADAPTER_NAME: strength},
        )

    def dub(self, clip: Clip, *, line: Line, seed: int, progress: Progress | None = None) -> Clip:
        """`clip` saying `line`: same length, same scene.

        Raises:
            UnsayableText: the backbone cannot say the words, or not in the clip's time.
            BadParams: the clip's size does not fit the backbone.
        """
        return self.dub_batch([clip], [line], [seed], progress)[0]

    def check(self, line: Line, room_seconds: float) -> str:
        """What to warn of when `line` is to be said in `room_seconds`, if anything; quick, and nothing is dubbed.

        Raises:
            UnsayableText: the backbone cannot say the words, or not in that time.
        """
        return fit_line(self.world, line, room_seconds).check()

    def dub_batch(
        self, clips: Sequence[Clip], lines: Sequence[Line], seeds: Sequence[int], progress: Progress | None = None
    ) -> list[Clip]:
        """Dubs of clips of one size, made together; each from its own seed."""
        lines = [self.world.check_line(line) for line in lines]
        for clip, line in zip(clips, lines, strict=True):
            if warning := self.check(line, clip.seconds):
                logger.warning("%s", warning)
        if len({(clip.frames_FHWC.shape, clip.frame_rate) for clip in clips}) != 1:
            raise UsageError("clips of several sizes cannot be dubbed in one batch", cure="dub them one by one")
        shape = shape_of(clips[0], self.modules)
        captions = [dub_caption(SPEAKER, line) for line in lines]
        generators = seeded(seeds)
        later = self.sampling.second_stage.sigmas
        tell = telling(progress, (len(self.sampling.sigmas) or self.sampling.num_steps) + len(later))
        if later:
            small = [half_size(clip) for clip in clips]
            shape_of(small[0], self.modules)  # refused here, before the first stage is paid for
            rough = self._first_stage(small, captions, generators, tell)
            made = self._second_stage(clips, small[0], rough, captions, generators, tell)
        else:
            made = self._first_stage(clips, captions, generators, tell)
        return decode(made, shape, clips[0].frame_rate, self.modules)

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
        rough: Latents,
        captions: list[str],
        generators: list[torch.Generator],
        tell: Any,
    ) -> Latents:
        """`rough` at twice the size: its picture upsampled, noised and denoised once more, its sound as it is."""
        size = size_of(small)
        upsampled = self.upsampler(
            latents=rough.video_BSD,
            latents_normalized=True,
            height=size["height"],
            width=size["width"],
            num_frames=size["num_frames"],
            output_type="latent",
            return_dict=False,
        )[0]
        reference = Latents(encode(clips, self.modules).video_BSD, rough.audio_BLD)
        asked = self._references(reference, clips[0])
        start = self.pipeline.pack(upsampled, rough.audio_BLD)
        is_given = asked["conditioning_mask"][..., None]
        plain = self.sampling.model_copy(update={**UNGUIDED, "sigmas": self.sampling.second_stage.sigmas})
        with self._wearing(self.worn_later):
            return Latents(
                *self.pipeline(
                    captions,
                    **asked,
                    latents=torch.where(is_given, reference.video_BSD, start.video_BSD),
                    audio_latents=rough.audio_BLD,
                    audio_conditioning_mask=torch.ones(rough.audio_BLD.shape[:2], dtype=torch.bool),
                    **call_of(plain, generators, self.modules),
                    callback_on_step_end=tell,
                )
            )

    def _references(self, reference: Latents, clip: Clip) -> dict[str, Any]:
        """What the pipeline is told of the source: its tokens, how to read them, and whether its first frame is given."""
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

    def _second_stage_adapters(self) -> dict[str, float]:
        """What the transformer wears in the second stage; a LoRA of its own is loaded here."""
        asked = self.sampling.second_stage
        kept = self.worn if asked.keep_adapter else {}
        if asked.lora == "none":
            return kept
        if not Path(asked.lora).is_file():
            raise BadArtifact(
                "no LoRA file for the second stage",
                where=asked.lora,
                cure="give a file in dub.sampling.second_stage.lora, or none",
            )
        self.pipeline.load_lora_weights(asked.lora, adapter_name=SECOND_STAGE)
        self._wear(self.worn)
        return {**kept, SECOND_STAGE: 1.0}

    @contextmanager
    def _wearing(self, worn: dict[str, float]) -> Iterator[None]:
        if worn == self.worn:
            yield
            return
        self._wear(worn)
        try:
            yield
        finally:
            self._wear(self.worn)

    def _wear(self, worn: dict[str, float]) -> None:
        transformer = self.modules.transformer
        if not worn:
            transformer.disable_adapters()
            return
        transformer.enable_adapters()
        transformer.set_adapters(list(worn), weights=list(worn.values()))


def half_size(clip: Clip) -> Clip:
    """The clip at half its height and width: each pixel the mean of four."""
    frames, height, width, channels = clip.frames_FHWC.shape
    fours = clip.frames_FHWC.reshape(frames, height // 2, 2, width // 2, 2, channels)
    return replace(clip, frames_FHWC=np.rint(fours.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8))
