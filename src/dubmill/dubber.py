"""One clip in, the same person saying other words out: shared by the step `dub`, the CLI and the server."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dubmill import adapters
from dubmill.artifacts import Adapter, Backbone
from dubmill.backbone import Modules, fit_line, load
from dubmill.clips import Clip
from dubmill.codec import decode, encode, shape_of
from dubmill.conditioning import encode_captions, layout
from dubmill.diffusion import Job, Progress, sample
from dubmill.errors import UsageError
from dubmill.params import SamplingParams
from dubmill.prompting import dub_caption
from dubmill.rows import Line

logger = logging.getLogger(__name__)

SPEAKER = "A person"


class Dubber:
    """A loaded backbone, with an adapter or without, that dubs clips of the size it was trained on."""

    def __init__(
        self, backbone: Backbone, modules: Modules, sampling: SamplingParams, *, reference: str, isolate: bool
    ) -> None:
        self.backbone, self.modules, self.sampling = backbone, modules, sampling
        self.reference, self.isolate = reference, isolate

    @classmethod
    def load(
        cls, backbone: Backbone, adapter: Adapter | None, *, strength: float = 1.0, sampling: SamplingParams
    ) -> Dubber:
        """A dubber from disk; without an adapter it is the base alone, given the same references.

        Raises:
            MismatchedBackbone: the adapter belongs to another backbone.
        """
        modules = load(backbone)
        if adapter is None:
            return cls(backbone, modules, sampling, reference="shared", isolate=False)
        adapters.attach(modules, backbone, adapter, strength)
        info = adapter.info
        return cls(
            backbone, modules, sampling, reference=info["reference_positions"], isolate=info["isolate_modalities"]
        )

    def dub(self, clip: Clip, *, line: Line, seed: int, progress: Progress | None = None) -> Clip:
        """`clip` saying `line`: same length, same scene.

        Raises:
            UnsayableText: the backbone cannot say the words, or not in the clip's time.
            BadParams: the clip's size does not fit the backbone.
        """
        return self.dub_batch([clip], [line], [seed], progress)[0]

    def dub_batch(
        self, clips: Sequence[Clip], lines: Sequence[Line], seeds: Sequence[int], progress: Progress | None = None
    ) -> list[Clip]:
        """Dubs of clips of one size, made together; each from its own seed."""
        for clip, line in zip(clips, lines, strict=True):
            if warning := fit_line(self.backbone, line, clip.seconds).check():
                logger.warning("%s", warning)
        if len({(clip.frames_FHWC.shape, clip.frame_rate) for clip in clips}) != 1:
            raise UsageError("clips of several sizes cannot be dubbed in one batch", cure="dub them one by one")
        shape, rate = shape_of(clips[0], self.modules), clips[0].frame_rate
        job = Job(
            text=encode_captions([dub_caption(SPEAKER, line) for line in lines], self.modules),
            empty=encode_captions([""] * len(lines), self.modules),
            where=layout(shape, float(rate), self.modules, reference=self.reference, isolate=self.isolate),
            reference=encode(clips, self.modules),
        )
        return decode(sample(job, self.sampling, seeds, self.modules, progress), shape, rate, self.modules)
