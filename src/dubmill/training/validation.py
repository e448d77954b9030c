"""What an adapter says while it is trained: training pairs dubbed now and then, to be looked at beside the losses.

Their latents and captions are at hand, so that neither clips nor a text encoder are needed. So it shows whether the
adapter learns to speak and to keep the person; what it makes of people it never saw, the steps `dub` and `evaluate` tell.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dubmill import media
from dubmill.artifacts.files import write_atomically
from dubmill.config.params import TrainParams
from dubmill.errors import InvalidParamsError
from dubmill.generation.codec import decode
from dubmill.generation.sampling import call_of, pipeline, seeded
from dubmill.media.clips import Clip
from dubmill.model.latents import Latents
from dubmill.model.load import Modules
from dubmill.model.shapes import LatentShape
from dubmill.training.batches import Example

logger = logging.getLogger(__name__)

DECODERS = ("vae", "audio_vae", "vocoder")


class Validation:
    """Examples that the transformer in training dubs as it is."""

    def __init__(
        self, modules: Modules, examples: Sequence[Example], shape: LatentShape, frame_rate: float, params: TrainParams
    ) -> None:
        """`shape` and `frame_rate`: those of every example.

        Raises:
            InvalidParamsError: spatio-temporal guidance of blocks that the transformer does not have.
        """
        self.modules, self.examples, self.shape, self.params = modules, examples, shape, params
        self.frame_rate = Fraction(frame_rate).limit_denominator(1001)
        self.pipeline = pipeline(modules)
        num_blocks = len(modules.transformer.transformer_blocks)
        if any(not 0 <= block < num_blocks for block in params.validation.sampling.stg_blocks):
            raise InvalidParamsError(
                f"the transformer has blocks 0 to {num_blocks - 1}",
                where="train.validation.sampling.stg_blocks",
                cure="name some of those",
            )

    def is_due(self, step: int) -> bool:
        """Whether dubs are to be made after `step` steps."""
        every = self.params.validation.every_steps
        return bool(every and step and step % every == 0)

    def paths(self, folder: Path, step: int) -> list[Path]:
        """The files of one step, an MP4 for each example."""
        return [folder / f"validation-{step:08d}-{index}.mp4" for index in range(len(self.examples))]

    def make(self, paths: Sequence[Path], is_asked_to_end: Callable[[], bool], *, is_writer: bool) -> None:
        """Dub the examples and write them; a dub in the making is dropped once the process is asked to end.

        The draws are seeded, and every step of training seeds its own, so that it leaves no trace in the training.
        """
        transformer = self.modules.transformer
        transformer.eval()
        try:
            for index, path in enumerate(paths):
                made = self._dub(index, is_asked_to_end)
                if made is None:
                    return
                if is_writer:
                    write_atomically(path, media.mp4_bytes(self._beside_its_reference(index, made)))
                    logger.info("dubbed a training pair: %s", path.name)
        finally:
            transformer.train()

    def _dub(self, index: int, is_asked_to_end: Callable[[], bool]) -> Latents | None:
        """Tokens of one example's dub, or nothing when the process was asked to end meanwhile."""

        def look_up(pipe: Any, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            pipe._interrupt = is_asked_to_end()
            return tensors

        if is_asked_to_end():
            return None
        asked, example, params = self.params.validation, self.examples[index], self.params
        spatial, temporal = self.modules.geometry.spatial, self.modules.geometry.temporal
        made = self.pipeline(
            text_features=example.text,
            reference_latents=example.reference.video_BSD,
            reference_audio_latents=example.reference.audio_BLD,
            reference_positions=params.reference_positions,
            reference_attention=params.reference_attention,
            isolate_reference=params.isolate_modalities,
            height=self.shape.height * spatial,
            width=self.shape.width * spatial,
            num_frames=(self.shape.frames - 1) * temporal + 1,
            frame_rate=float(self.frame_rate),
            **call_of(asked.sampling, seeded([params.seed * 1_000_003 + index]), self.modules),
            callback_on_step_end=look_up,
        )
        return None if self.pipeline.interrupt else Latents(*made)

    def _beside_its_reference(self, index: int, made: Latents) -> Clip:
        """The dub with its sound; to the left of its picture the reference's, as the autoencoder gives it back."""
        with _at_work(self.modules):
            left, right = (
                decode(one.to(self.modules.device), self.shape, self.frame_rate, self.modules)[0]
                for one in (self.examples[index].reference, made)
            )
        return replace(right, frames_FHWC=np.concatenate([left.frames_FHWC, right.frames_FHWC], axis=2))


@contextmanager
def _at_work(modules: Modules) -> Iterator[None]:
    """While open, the decoders are on the modules' device; training leaves them no room there."""
    parts = {name: getattr(modules, name) for name in DECODERS}
    before = {name: part.device for name, part in parts.items()}
    for part in parts.values():
        part.to(modules.device)
    try:
        yield
    finally:
        for name, part in parts.items():
            part.to(before[name])
