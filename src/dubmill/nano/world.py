"""nano's world: rendered puppets that say digits in several languages, with exact ground truth.

The same puppet and motion seed with other words give the same scene in another language: exact bilingual pairs.
Each clip carries a clock that is seen (the room's light grows) and heard (a hum, a rising tone), because RoPE is relative and
a small model cannot otherwise know where in the clip it is.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np

from dubmill.config.params import WorldParams
from dubmill.errors import UnsupportedTextError
from dubmill.nano import difficulty as hardships
from dubmill.nano import face
from dubmill.nano.difficulty import EASY
from dubmill.nano.lexicon import LANGUAGE_NAMES, LANGUAGES, SAMPLE_RATE_HZ, TRACK_RATE_HZ, VOICES, Word, lexicon
from dubmill.nano.puppets import FRAME_RATE, Drawing, Puppet, draw_puppet, motion, neutral
from dubmill.nano.room import FRAME_SIZE

__all__ = [
    "EASY", "FRAME_RATE", "FRAME_SIZE", "LANGUAGES", "LANGUAGE_NAMES", "SAMPLE_RATE_HZ", "WORDS_PER_HALF",
    "PuppetClip", "Phrase", "Puppet", "check_text", "film", "halves", "puppet", "random_phrases", "random_words",
]  # fmt: skip

WORDS_PER_HALF = 3
NUM_FRAMES = 33
HALF_FRAMES = 17
CLIP_SECONDS = NUM_FRAMES / FRAME_RATE
NUM_SAMPLES = round(CLIP_SECONDS * SAMPLE_RATE_HZ)
HALF_SECONDS = HALF_FRAMES / FRAME_RATE
SECOND_HALF_STARTS = (HALF_FRAMES - 1) / FRAME_RATE

# Neither span touches 1.28..1.36 s, where the two halves overlap; the last 30 ms do not survive the audio VAE's framing.
_SPANS = ((0.02, 1.27), (1.37, 2.60))
_MIN_GAP = 0.045
_NOISE_RMS = 0.001
_PUNCTUATION = re.compile(r"[.,;:!?¡¿\"]")


@dataclass(frozen=True)
class Rendition:
    """How scenes become clips.

    Attributes:
        drawing: how frames look.
        is_posed: whether puppets sway and have sizes of their own; otherwise all have `puppets.neutral` and sit still.
    """

    drawing: Drawing
    is_posed: bool = True


FULL = Rendition(face, is_posed=False)
"""The clips that nano's users see; the trainings' sketches show the same scenes plainly."""


@dataclass(frozen=True)
class Phrase:
    """Words of one language."""

    language: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class PuppetClip:
    """A rendered clip and its ground truth.

    Attributes:
        frames_FHWC: uint8 RGB at 12.5 fps.
        audio_N: float32 in [-1, 1] at 16 kHz.
        mouth_opening_F: float32 0 (closed) to 1.
        mouth_box_F4: float32 pixels x0, y0, x1, y1 around the lips.
        eyes_box_F4: float32 pixels around both eyes.
        phrases: what is said, in order.
        word_seconds_W2: float32 start and end of each word.
    """

    frames_FHWC: np.ndarray
    audio_N: np.ndarray
    mouth_opening_F: np.ndarray
    mouth_box_F4: np.ndarray
    eyes_box_F4: np.ndarray
    phrases: tuple[Phrase, ...]
    word_seconds_W2: np.ndarray


def puppet(seed: int) -> Puppet:
    """Returns the puppet of this seed."""
    return draw_puppet(seed, len(VOICES))


def film(
    puppet: Puppet,
    phrases: tuple[Phrase, Phrase],
    *,
    motion_seed: int,
    is_drawn: bool = True,
    difficulty: WorldParams = EASY,
    rendition: Rendition = FULL,
    frames: slice = slice(None),
) -> PuppetClip:
    """Returns a clip of `puppet` saying one phrase in each half; it has no pictures unless `is_drawn`.

    Only `frames` are drawn; the sound and the words are those of the whole clip.

    Raises:
        UnsupportedTextError: a word, a language or a number of words that the world does not have.
    """
    for phrase in phrases:
        check_text(phrase.language, " ".join(phrase.words))
    rng, hard = (np.random.default_rng([motion_seed, purpose]) for purpose in (12, 14))
    words = [lexicon()[phrase.language, puppet.voice, word] for phrase in phrases for word in phrase.words]
    words = _paced(words, difficulty.tempo)
    times_F = np.arange(NUM_FRAMES) / FRAME_RATE
    turn_F, hand_F = hardships.turn(difficulty, hard, times_F), hardships.hand(difficulty, hard, times_F)
    moves = motion(rng, times_F, turn_F, hand_F)
    if not rendition.is_posed:
        puppet, moves = neutral(puppet), moves.still()
    onsets = _onsets(words, rng)
    mouth_F3 = _mouth_track(words, onsets)[np.round(times_F * TRACK_RATE_HZ).astype(int)][frames]
    moves = moves.cut(frames)
    if is_drawn:
        frames_FHWC = rendition.drawing.draw(puppet, moves, mouth_F3, times_F[frames] / CLIP_SECONDS)
    else:
        frames_FHWC = np.zeros((len(mouth_F3), 1, 1, 3), np.uint8)
    return PuppetClip(
        frames_FHWC=frames_FHWC,
        audio_N=_sound(words, onsets, rng, hardships.background(difficulty, hard, NUM_SAMPLES)),
        mouth_opening_F=mouth_F3[:, 0].astype(np.float32),
        mouth_box_F4=rendition.drawing.lip_boxes(moves, mouth_F3),
        eyes_box_F4=rendition.drawing.eye_boxes(puppet, moves),
        phrases=tuple(phrases),
        word_seconds_W2=np.array([(at, at + word.seconds) for at, word in zip(onsets, words, strict=True)], np.float32),
    )


def halves(film: PuppetClip) -> tuple[PuppetClip, PuppetClip]:
    """Returns both halves: frames 0..16 with audio [0, 1.36 s), and frames 16..32 with audio [1.28 s, 2.64 s)."""
    return _half(film, 0), _half(film, 1)


def _half(film: PuppetClip, which: int) -> PuppetClip:
    first_frame, first_second = which * (HALF_FRAMES - 1), which * SECOND_HALF_STARTS
    frames = slice(first_frame, first_frame + HALF_FRAMES)
    first_sample = round(first_second * SAMPLE_RATE_HZ)
    words = slice(which * WORDS_PER_HALF, (which + 1) * WORDS_PER_HALF)
    return PuppetClip(
        frames_FHWC=film.frames_FHWC[frames],
        audio_N=film.audio_N[first_sample : first_sample + round(HALF_SECONDS * SAMPLE_RATE_HZ)],
        mouth_opening_F=film.mouth_opening_F[frames],
        mouth_box_F4=film.mouth_box_F4[frames],
        eyes_box_F4=film.eyes_box_F4[frames],
        phrases=(film.phrases[which],),
        word_seconds_W2=film.word_seconds_W2[words] - np.float32(first_second),
    )


def random_words(language: str, rng: np.random.Generator, count: int = WORDS_PER_HALF) -> tuple[str, ...]:
    """Returns `count` random words of `language`, drawn with replacement."""
    return tuple(str(word) for word in rng.choice(LANGUAGES[language], count))


def random_phrases(rng: np.random.Generator, switch_share: float = 0.6) -> tuple[Phrase, Phrase]:
    """Returns two phrases; with probability `switch_share` the second is in another language."""
    first, second = (str(language) for language in rng.choice(list(LANGUAGES), 2, replace=False))
    if rng.random() >= switch_share:
        second = first
    return Phrase(first, random_words(first, rng)), Phrase(second, random_words(second, rng))


def check_text(language: str, text: str) -> tuple[str, ...]:
    """Returns the words of `text` in the world's spelling, for one half; numerals and letters without accents are accepted.

    Raises:
        UnsupportedTextError: unknown language, unknown word, or a wrong number of words; tells what is allowed.
    """
    if language not in LANGUAGES:
        raise UnsupportedTextError(f"nano does not speak {language!r}", cure=f"choose one of {', '.join(LANGUAGES)}")
    allowed = LANGUAGES[language]
    spelled = {_bare(word): word for word in allowed} | {str(digit): word for digit, word in enumerate(allowed)}
    typed = _PUNCTUATION.sub(" ", text).split()
    unknown = [word for word in typed if _bare(word) not in spelled]
    if unknown:
        unknown_words = ", ".join(repr(word) for word in unknown)
        raise UnsupportedTextError(
            f"nano cannot say {unknown_words} in {LANGUAGE_NAMES[language]}", cure=f"use {', '.join(allowed)}"
        )
    if len(typed) != WORDS_PER_HALF:
        raise UnsupportedTextError(
            f"{len(typed)} words were given for one half",
            cure=f"give exactly {WORDS_PER_HALF}, of {', '.join(allowed)}",
        )
    return tuple(spelled[_bare(word)] for word in typed)


def _bare(word: str) -> str:
    """Returns `word` in lower case and without accents."""
    parts = unicodedata.normalize("NFKD", word.casefold())
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


def _paced(words: list[Word], tempo: float) -> list[Word]:
    """Returns the words at `tempo` times their speed, but no slower than fits into their half."""
    if tempo == 1.0:
        return words
    paced = []
    for first, (start, end) in enumerate(_SPANS):
        half_words = words[first * WORDS_PER_HALF : (first + 1) * WORDS_PER_HALF]
        room = end - start - _MIN_GAP * (WORDS_PER_HALF - 1) - 0.01
        half_tempo = max(tempo, sum(word.seconds for word in half_words) / room)
        paced += [
            Word(
                hardships.stretched(word.wave_N, half_tempo),
                tuple((at / half_tempo, shape) for at, shape in word.visemes),
            )
            for word in half_words
        ]
    return paced


def _onsets(words: list[Word], rng: np.random.Generator) -> list[float]:
    """Returns the start of each word in seconds; the rest of a half's time is distributed randomly around its words."""
    onsets = []
    for first, (start, end) in enumerate(_SPANS):
        half_words = words[first * WORDS_PER_HALF : (first + 1) * WORDS_PER_HALF]
        spare = end - start - sum(word.seconds for word in half_words) - _MIN_GAP * (WORDS_PER_HALF - 1)
        at = start
        for word, share in zip(half_words, rng.dirichlet(np.ones(WORDS_PER_HALF + 1)), strict=False):
            at += share * spare
            onsets.append(at)
            at += word.seconds + _MIN_GAP
    return onsets


def _mouth_track(words: list[Word], onsets: list[float]) -> np.ndarray:
    """Returns (T, 3): mouth opening, width and rounding at 200 Hz, smoothed over about 55 ms, since lips move slowly."""
    track_T3 = np.tile(np.array([0, 0.5, 0], np.float32), (round(CLIP_SECONDS * TRACK_RATE_HZ) + 1, 1))
    for word, onset in zip(words, onsets, strict=True):
        ends = [start for start, _ in word.visemes[1:]] + [word.seconds]
        for (start, shape), end in zip(word.visemes, ends, strict=True):
            first, last = (round((onset + max(0.0, at)) * TRACK_RATE_HZ) for at in (start, min(end, word.seconds)))
            track_T3[first:last] = shape
    kernel = np.hanning(13)
    kernel /= kernel.sum()
    padded = np.pad(track_T3, ((6, 6), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, axis], kernel, "valid") for axis in range(3)], axis=1)


def _sound(words: list[Word], onsets: list[float], rng: np.random.Generator, background_N: np.ndarray) -> np.ndarray:
    """Returns (N,): the words with the audible clock, the noise floor and the background."""
    audio_N = background_N + _audible_clock() + rng.normal(0, _NOISE_RMS, NUM_SAMPLES)
    for word, onset in zip(words, onsets, strict=True):
        first = round(onset * SAMPLE_RATE_HZ)
        audio_N[first : first + len(word.wave_N)] += word.wave_N
    return np.clip(audio_N, -1, 1).astype(np.float32)


def _audible_clock() -> np.ndarray:
    """Returns (N,): a hum below speech that grows by 20 dB, and a soft tone above it that rises from 6.2 to 7.7 kHz."""
    seconds = np.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
    clock = seconds / CLIP_SECONDS
    hum = 0.002 * 10**clock * np.sin(2 * np.pi * 50 * seconds)
    tone = 0.006 * np.sin(2 * np.pi * (6200 * seconds + 1500 * seconds**2 / (2 * CLIP_SECONDS)))
    return hum + tone
