"""Dubs of training pairs during a training, written as videos beside the losses.

Latents and captions are at hand, so neither clips nor a text encoder are needed. The videos show whether the adapter learns
to speak and keeps the person; how it dubs people that it never saw is measured by the steps `dub` and `evaluate`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from dubmill import media
from dubmill.adapters import ADAPTER_NAME
from dubmill.artifacts.files import write_atomically
from dubmill.config.training import TrainParams
from dubmill.errors import InvalidParamsError
from dubmill.generation.codec import decode_clips
from dubmill.generation.sampling import PromptFeatures, build_pipeline, sample
from dubmill.generation.seeds import generators, item_seed
from dubmill.media.clips import Clip
from dubmill.model.conditioning import ReferenceMode
from dubmill.model.latents import Latents
from dubmill.model.load import DECODERS, Modules
from dubmill.model.loras import activate_loras, sampling_lora_weights
from dubmill.model.pipeline import LTX2DubPipeline
from dubmill.model.shapes import LatentShape
from dubmill.training.batches import ValidationExample

logger = logging.getLogger(__name__)


class Validation:
    """Examples that are dubbed by the transformer in its present state of training."""

    def __init__(
        self,
        modules: Modules,
        examples: Sequence[ValidationExample],
        shape: LatentShape,
        frame_rate: float,
        params: TrainParams,
    ) -> None:
        """`shape` and `frame_rate`: those of every example.

        Raises:
            InvalidParamsError: spatio-temporal guidance of blocks that the transformer does not have.
        """
        self.modules, self.examples, self.shape, self.params = modules, examples, shape, params
        self.frame_rate = Fraction(frame_rate).limit_denominator(1001)
        num_blocks = len(modules.transformer.transformer_blocks)
        if any(not 0 <= block < num_blocks for block in params.validation.sampling.stg_blocks):
            raise InvalidParamsError(
                f"the transformer has blocks 0 to {num_blocks - 1}",
                where="train.validation.sampling.stg_blocks",
                cure="name some of those",
            )

    def is_due(self, step: int) -> bool:
        """Returns whether the examples are dubbed after `step` steps."""
        every = self.params.validation.every_steps
        return bool(every and step and step % every == 0)

    def paths(self, folder: Path, step: int) -> list[Path]:
        """Returns the files of one step, an MP4 for each example."""
        return [folder / f"validation-{step:08d}-{index}.mp4" for index in range(len(self.examples))]

    def dub_examples(self, paths: Sequence[Path], is_stopping: Callable[[], bool], *, is_writer: bool) -> None:
        """Dubs the examples and writes them; an unfinished dub is dropped once `is_stopping` says so.

        The draws have their own seeds, and every training step sets its own, so the training's draws stay the same.
        """
        transformer = self.modules.transformer
        transformer.eval()
        sampling_lora = sampling_lora_weights(self.params.validation.sampling.lora)
        activate_loras(transformer, {ADAPTER_NAME: 1.0, **sampling_lora})
        try:
            for index, path in enumerate(paths):
                tokens = self._dub(index, is_stopping)
                if tokens is None:
                    return
                if is_writer:
                    write_atomically(path, media.mp4_bytes(self._beside_reference(index, tokens)))
                    logger.info("dubbed a training pair: %s", path.name)
        finally:
            activate_loras(transformer, {ADAPTER_NAME: 1.0})
            transformer.train()

    def _dub(self, index: int, is_stopping: Callable[[], bool]) -> Latents | None:
        """Returns tokens of one example's dub, or `None` if the process was asked to stop meanwhile."""

        def check_stop(
            pipe: LTX2DubPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            pipe._interrupt = is_stopping()
            return tensors

        if is_stopping():
            return None
        params, example, pipe = self.params, self.examples[index], build_pipeline(self.modules)
        tokens = sample(
            pipe,
            params.validation.sampling,
            PromptFeatures(captions=example.caption, negative=example.empty, empty=example.empty),
            generators([item_seed(params.seed, index)]),
            self.shape,
            float(self.frame_rate),
            reference=example.reference,
            mode=ReferenceMode(params.reference_positions, params.reference_attention, params.isolate_modalities),
            on_step=check_stop,
        )
        return None if pipe.interrupt else tokens

    def _beside_reference(self, index: int, tokens: Latents) -> Clip:
        """Returns the dub with its audio; on the left the reference's video as the autoencoder decodes it."""
        with _decoders_on_device(self.modules):
            left, right = (
                decode_clips(one.to(self.modules.device), self.shape, self.frame_rate, self.modules)[0]
                for one in (self.examples[index].reference, tokens)
            )
        return replace(right, frames_FHWC=np.concatenate([left.frames_FHWC, right.frames_FHWC], axis=2))


@contextmanager
def _decoders_on_device(modules: Modules) -> Iterator[None]:
    """Moves the decoders to the modules' device while open; during training they wait on the CPU."""
    parts = {name: modules.parts[name] for name in DECODERS}
    before = {name: part.device for name, part in parts.items()}
    for part in parts.values():
        part.to(modules.device)
    try:
        yield
    finally:
        for name, part in parts.items():
            part.to(before[name])
