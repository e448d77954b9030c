"""Measures rendered clips, their round trips, clips generated from text, and inpainted halves, on unseen puppets.

Axes: B clips, F frames, H rows, W columns, C colours or channels, N samples, S tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from dubmill.config.params import Params
from dubmill.generation.codec import decode_clips, encode_clips, shape_of
from dubmill.generation.sampling import Region, generate_clips, inpaint_clips
from dubmill.media.clips import Clip
from dubmill.metrics import observe
from dubmill.metrics.picture import psnr_db
from dubmill.model.load import Modules
from dubmill.model.shapes import latent_of_frame
from dubmill.nano import world
from dubmill.nano.captions import caption
from dubmill.nano.mel import nano_log_mel
from dubmill.nano.pretrain.data import HELD_OUT_SEED, Take, pixels, video
from dubmill.nano.pretrain.video_vae import picture_figures
from dubmill.nano.scorers import NanoScorers
from dubmill.nano_card.figures import PUPPET, Row, lines_of, own_row, source_row, truth_row
from dubmill.steps.inpaint import HALVES, half_region, touched_tokens

FIRST_PUPPET = HELD_OUT_SEED + 1000  # the puppets before it were measured during training
_BATCH = 10


@dataclass(frozen=True)
class DubCase:
    """A puppet's switch clip, and the same scene with the words of one half in the other half's language."""

    seed: int  # of puppet and motion
    puppet: world.Puppet
    film: world.PuppetClip
    half: int
    dubbed: world.PuppetClip

    @property
    def source(self) -> world.PuppetClip:
        """Returns the half to be dubbed, as rendered."""
        return world.halves(self.film)[self.half]

    @property
    def truth(self) -> world.PuppetClip:
        """Returns the half that a perfect dub would give."""
        return world.halves(self.dubbed)[self.half]


def dub_case(index: int) -> DubCase:
    """Returns the `index`-th unseen case: two languages, and digits in an order drawn for this case alone."""
    seed = FIRST_PUPPET + index
    rng = np.random.default_rng([seed, 15])
    puppet, half = world.puppet(seed), index % 2
    first, second = world.random_phrases(rng, switch_share=1.0)
    phrases = [first, second]
    digits = [world.LANGUAGES[phrases[half].language].index(word) for word in phrases[half].words]
    other = phrases[1 - half].language
    phrases[half] = world.Phrase(other, tuple(world.LANGUAGES[other][digit] for digit in digits))
    film = world.film(puppet, (first, second), motion_seed=seed)
    return DubCase(seed, puppet, film, half, world.film(puppet, (phrases[0], phrases[1]), motion_seed=seed))


def clip_of(film: world.PuppetClip) -> Clip:
    """Returns a rendered clip as a `Clip`."""
    return Clip(film.frames_FHWC, Fraction(world.FRAME_RATE), film.audio_N[None], world.SAMPLE_RATE_HZ)


def measure_clips(modules: Modules, scorers: NanoScorers, params: Params, *, num_clips: int) -> dict[str, list[Row]]:
    """Returns one row of figures per clip, for each kind of clip."""
    rows: dict[str, list[Row]] = {}
    for first in range(0, num_clips, _BATCH):
        cases = [dub_case(index) for index in range(first, min(first + _BATCH, num_clips))]
        for kind, row in _measured(cases, modules, scorers, params):
            rows.setdefault(kind, []).append(row)
    return rows


def _measured(
    cases: Sequence[DubCase], modules: Modules, scorers: NanoScorers, params: Params
) -> Iterator[tuple[str, Row]]:
    clips = [clip_of(case.film) for case in cases]
    captions = [caption(case.puppet.describe(), case.film.phrases) for case in cases]
    seeds = [params.synthesize.seed + index for index in range(len(cases))]
    generated = generate_clips(captions, seeds, params.synthesize, modules)
    trips, vocoded = full_round_trip(clips, modules), _vocoded(clips, modules)
    for case, clip, trip, resynthesis, new in zip(cases, clips, trips, vocoded, generated, strict=True):
        lines, puppet = lines_of(case.film.phrases), {PUPPET: float(case.seed)}
        for kind, own in (("world", clip), ("round_trip", trip)):
            observation = observe(own, scorers)
            picture = _picture_row(trip, case) if kind == "round_trip" else {}
            yield kind, puppet | own_row(observation, lines) | truth_row(observation, case.film) | picture
        yield "vocoder", puppet | {"words_right": own_row(observe(resynthesis, scorers), lines)["words_right"]}
        yield "from_caption", puppet | own_row(observe(new, scorers), lines)
    for half in range(len(HALVES)):
        chosen = [(case, clip) for case, clip in zip(cases, clips, strict=True) if case.half == half]
        if chosen:
            cases_of_half, clips_of_half = [case for case, _ in chosen], [clip for _, clip in chosen]
            yield from _inpainted_halves(half, cases_of_half, clips_of_half, modules, scorers, params)


@dataclass(frozen=True)
class _HalfClips:
    """The clips of one case; those named `whole` are as long as the switch clip, the others as long as a half."""

    frames: slice  # of the half in a whole clip
    source: Clip
    truth: Clip
    source_trip: Clip
    truth_trip: Clip
    whole_trip: Clip
    whole_inpainted: Clip
    kept_FHW: np.ndarray  # of the whole clip: pixels in tokens that inpainting keeps

    def unmasked_psnr_db(self, whole: Clip) -> float:
        """Returns the PSNR of the half in `whole` against the source, in the kept pixels."""
        return psnr_db(whole.frames_FHWC[self.frames], self.source.frames_FHWC, self.kept_FHW[self.frames])


def _inpainted_halves(
    half: int, cases: Sequence[DubCase], clips: Sequence[Clip], modules: Modules, scorers: NanoScorers, params: Params
) -> Iterator[tuple[str, Row]]:
    context, boxes = encode_clips(clips, modules), [case.film.mouth_box_F4 for case in cases]
    touched_BS = touched_tokens(clips, boxes, context, params.inpaint, modules)
    region = half_region(touched_BS, clips[0], HALVES[half], modules)
    captions = [caption(case.puppet.describe(), case.dubbed.phrases) for case in cases]
    seeds = [params.inpaint.seed + index for index in range(len(cases))]
    inpainted = inpaint_clips(
        clips, context, captions, region, seeds, params.inpaint.sampling, params.inpaint.resamplings, modules
    )
    sources, truths = [clip_of(case.source) for case in cases], [clip_of(case.truth) for case in cases]
    source_trips, truth_trips, whole_trips = (full_round_trip(each, modules) for each in (sources, truths, clips))
    kept_BFHW = _kept_pixels(region, clips, modules)
    first = half * (world.HALF_FRAMES - 1)
    frames = slice(first, first + world.HALF_FRAMES)
    for index, case in enumerate(cases):
        half_clips = _HalfClips(
            frames,
            source=sources[index],
            truth=truths[index],
            source_trip=source_trips[index],
            truth_trip=truth_trips[index],
            whole_trip=whole_trips[index],
            whole_inpainted=inpainted[index],
            kept_FHW=kept_BFHW[index],
        )
        yield from _half_rows(case, half_clips, scorers)


def _half_rows(case: DubCase, clips: _HalfClips, scorers: NanoScorers) -> Iterator[tuple[str, Row]]:
    """Yields the rows of the inpainted half, of its source and of its truth, before and after a round trip."""
    boxes_F4, lines = case.source.mouth_box_F4, lines_of(case.truth.phrases)
    puppet = {PUPPET: float(case.seed)}
    half = clips.whole_inpainted.cut(clips.frames.start, clips.frames.stop)
    source, source_trip, truth, truth_trip, inpainted = (
        observe(clip, scorers) for clip in (clips.source, clips.source_trip, clips.truth, clips.truth_trip, half)
    )
    unmasked = {"unmasked_psnr_db": clips.unmasked_psnr_db(clips.whole_trip)}
    yield "source_round_trip", puppet | source_row(source_trip, source, boxes_F4) | unmasked
    unmasked = {"unmasked_psnr_db": clips.unmasked_psnr_db(clips.whole_inpainted)}
    yield "inpainted", puppet | own_row(inpainted, lines) | source_row(inpainted, source, boxes_F4) | unmasked
    yield "true_dub", puppet | own_row(truth, lines) | source_row(truth, source, boxes_F4)
    yield "true_dub_round_trip", puppet | source_row(truth_trip, source, boxes_F4)


def _kept_pixels(region: Region, clips: Sequence[Clip], modules: Modules) -> np.ndarray:
    """Returns (B, F, H, W): whether a pixel lies in a token that inpainting keeps."""
    shape, (num_frames, height, width, _) = shape_of(clips[0], modules), clips[0].frames_FHWC.shape
    tokens_BFHW = region.video_BS.cpu().numpy().reshape(-1, shape.frames, shape.height, shape.width)
    places = [latent_of_frame(frame, modules.geometry.temporal) for frame in range(num_frames)]
    return ~tokens_BFHW[:, places].repeat(height // shape.height, axis=2).repeat(width // shape.width, axis=3)


def full_round_trip(clips: Sequence[Clip], modules: Modules) -> list[Clip]:
    """Returns the clips after both autoencoders and the vocoder."""
    return decode_clips(encode_clips(clips, modules), shape_of(clips[0], modules), clips[0].frame_rate, modules)


@torch.no_grad()
def _vocoded(clips: Sequence[Clip], modules: Modules) -> list[Clip]:
    """Returns the clips with their sound resynthesised by the vocoder from its true log-mel spectrogram."""
    audio_BN = torch.from_numpy(np.stack([clip.mono_N for clip in clips]))
    vocoded_BCN = modules.vocoder(nano_log_mel(audio_BN)[:, None].to(modules.dtype)).float().cpu().numpy()
    return [clip.with_audio(audio_CN) for clip, audio_CN in zip(clips, vocoded_BCN, strict=True)]


def _picture_row(trip: Clip, case: DubCase) -> Row:
    take = Take(case.puppet, case.film)
    return picture_figures(pixels(trip.frames_FHWC[None]), video([take]), [take])
