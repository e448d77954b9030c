"""The world's own clips, and what the autoencoders, the base and inpainting make of them: unseen puppets, unseen words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from dubmill.backbone import Modules
from dubmill.clips import Clip
from dubmill.codec import decode, encode, shape_of
from dubmill.generation import Region, generate, inpaint
from dubmill.nano import world
from dubmill.nano.captions import caption
from dubmill.nano.mel import log_mel
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.video_vae import picture_figures
from dubmill.nano.scorers import Scorers
from dubmill.nano.splits import Split
from dubmill.nano_card.figures import Row, against_source, against_truth, alone
from dubmill.params import Params
from dubmill.shapes import latent_of_frame
from dubmill.steps.inpaint import HALVES, half_region

FIRST_PUPPET = Split.HELD_OUT.value[1000]  # the ones before were looked at while training
_BATCH = 10


@dataclass(frozen=True)
class Take:
    """One puppet's switch clip, and the half of it that is to be said in the other language."""

    puppet: world.Puppet
    film: world.Film
    half: int
    dubbed: world.Film  # the same take with that half's words in the other half's language

    @property
    def source(self) -> world.Film:
        """The half that is dubbed, as filmed."""
        return world.halves(self.film)[self.half]

    @property
    def truth(self) -> world.Film:
        """The half that a perfect dub would give."""
        return world.halves(self.dubbed)[self.half]


def take(index: int) -> Take:
    """The `index`-th unseen take: two languages, and digits in an order drawn for it alone."""
    seed = FIRST_PUPPET + index
    rng = np.random.default_rng([seed, 15])
    who, half = world.puppet(seed), index % 2
    first, second = world.random_phrases(rng, switch_share=1.0, is_held_out=True)
    phrases = [first, second]
    digits = [world.LANGUAGES[phrases[half].language].index(word) for word in phrases[half].words]
    other = phrases[1 - half].language
    phrases[half] = world.Phrase(other, tuple(world.LANGUAGES[other][digit] for digit in digits))
    films = [world.film(who, tuple(said), motion_seed=seed) for said in ((first, second), phrases)]
    return Take(who, films[0], half, films[1])


def clip_of(film: world.Film) -> Clip:
    """A film as a clip."""
    return Clip(film.frames_FHWC, Fraction(world.FRAME_RATE), film.audio_N[None], world.SAMPLE_RATE_HZ)


def measure(modules: Modules, judge: Scorers, params: Params, *, num_clips: int) -> dict[str, list[Row]]:
    """A figure row per clip for each kind of clip."""
    rows: dict[str, list[Row]] = {}
    for first in range(0, num_clips, _BATCH):
        takes = [take(index) for index in range(first, min(first + _BATCH, num_clips))]
        for name, row in _measured(takes, modules, judge, params):
            rows.setdefault(name, []).append(row)
    return rows


def _measured(takes: Sequence[Take], modules: Modules, judge: Scorers, params: Params) -> Iterator[tuple[str, Row]]:
    filmed = [clip_of(one.film) for one in takes]
    captions = [caption(one.puppet.describe(), one.film.phrases) for one in takes]
    made = generate(
        captions, [params.synthesize.seed + index for index in range(len(takes))], params.synthesize, modules
    )
    worn, spoken = round_trip(filmed, modules), _vocoded(filmed, modules)
    for one, clip, trip, voice, new in zip(takes, filmed, worn, spoken, made, strict=True):
        phrases = one.film.phrases
        yield "world", alone(judge, clip, phrases) | against_truth(judge, clip, one.film)
        yield "round_trip", alone(judge, trip, phrases) | against_truth(judge, trip, one.film) | _psnr(trip, one)
        yield "vocoder", {"words": alone(judge, voice, phrases)["words"]}
        yield "from_caption", alone(judge, new, phrases)
    yield from _dubbed_halves(takes, filmed, modules, judge, params)


def _dubbed_halves(
    takes: Sequence[Take], filmed: Sequence[Clip], modules: Modules, judge: Scorers, params: Params
) -> Iterator[tuple[str, Row]]:
    for half, name in enumerate(HALVES):
        chosen = [(one, clip) for one, clip in zip(takes, filmed, strict=True) if one.half == half]
        if not chosen:
            continue
        ours, whole = [one for one, _ in chosen], [clip for _, clip in chosen]
        boxes = [one.film.mouth_box_F4 for one in ours]
        captions = [caption(one.puppet.describe(), one.dubbed.phrases) for one in ours]
        region = half_region(whole, boxes, name, params.inpaint, modules)
        seeds = [params.inpaint.seed + index for index in range(len(ours))]
        made = inpaint(whole, captions, region, seeds, params.inpaint.sampling, params.inpaint.resamplings, modules)
        start = half * (world.HALF_FRAMES - 1)
        sources = [clip_of(one.source) for one in ours]
        truths = [clip_of(one.truth) for one in ours]
        worn, bounds, whole_worn = (round_trip(clips, modules) for clips in (sources, truths, whole))
        kept_BFHW = _kept(region, whole, modules)
        for one, source, trip, truth, bound, old, new, kept_FHW in zip(
            ours, sources, worn, truths, bounds, whole_worn, made, kept_BFHW, strict=True
        ):
            box, half_F = one.source.mouth_box_F4, slice(start, start + world.HALF_FRAMES)
            cut = new.cut(half_F.start, half_F.stop)
            beside = [
                {"unmasked_psnr_db": _psnr_db(clip.frames_FHWC[half_F], source.frames_FHWC, kept_FHW[half_F])}
                for clip in (old, new)
            ]
            yield "source_round_trip", against_source(judge, trip, source, box) | beside[0]
            yield (
                "inpainted",
                alone(judge, cut, one.truth.phrases) | against_source(judge, cut, source, box) | beside[1],
            )
            yield "true_dub", alone(judge, truth, one.truth.phrases) | against_source(judge, truth, source, box)
            yield "true_dub_round_trip", against_source(judge, bound, source, box)


def _kept(region: Region, clips: Sequence[Clip], modules: Modules) -> np.ndarray:
    """(B, F, H, W) whether a pixel lies in a token that was not made anew."""
    shape, (num_frames, height, width, _) = shape_of(clips[0], modules), clips[0].frames_FHWC.shape
    tokens_BFHW = region.video_BS.cpu().numpy().reshape(-1, shape.frames, shape.height, shape.width)
    places = [latent_of_frame(frame, modules.geometry.temporal) for frame in range(num_frames)]
    return ~tokens_BFHW[:, places].repeat(height // shape.height, axis=2).repeat(width // shape.width, axis=3)


def round_trip(clips: Sequence[Clip], modules: Modules) -> list[Clip]:
    """The clips after both autoencoders and the vocoder."""
    return decode(encode(clips, modules), shape_of(clips[0], modules), clips[0].frame_rate, modules)


@torch.no_grad()
def _vocoded(clips: Sequence[Clip], modules: Modules) -> list[Clip]:
    """The clips with their sound made again from its true log-mel."""
    audio_BN = torch.from_numpy(np.stack([clip.mono_N for clip in clips]))
    made_BCN = modules.vocoder(log_mel(data.resampled(audio_BN))[:, None].to(modules.dtype)).float().cpu().numpy()
    return [clip.with_audio(audio_CN) for clip, audio_CN in zip(clips, made_BCN, strict=True)]


def _psnr(clip: Clip, one: Take) -> Row:
    """PSNR of all, mouth and eyes, the iris's colour and the blink, as the video VAE's training tells them."""
    frames = torch.from_numpy(clip.frames_FHWC)[None].permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    filmed = data.Take(one.puppet, one.film)
    return picture_figures(frames, data.video([filmed]), [filmed])


def _psnr_db(made_FHWC: np.ndarray, truth_FHWC: np.ndarray, at_FHW: np.ndarray) -> float:
    """PSNR of the pixels at which `at_FHW` is true."""
    gap = (made_FHWC.astype(float) - truth_FHWC)[at_FHW] / 255
    return float(-10 * np.log10(np.square(gap).mean()))
