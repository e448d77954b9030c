"""Whether a recording of music and effects is that of a film: it is compared with the film's sound block by block.

Axes: N samples, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.errors import UnreadableMediaError
from dubmill.text.timing import clock

LEVEL_RATE_HZ = 16000
_SAME_LENGTH_SECONDS = 0.5  # by which a background may be longer or shorter than its film
_QUIET_POWER = 1e-5  # -50 dBFS: a film that is softer after its background's end is silent there
_AUDIBLE_SHARE = 1e-2  # of a film's power, -20 dB: a softer background is lost in speech and cannot be compared
_MIN_SHARE = 0.5  # of a background, at least, that is found in its film
_SUSTAINED_BLOCKS = 5  # of two seconds: a shorter difference may be an effect that only one of both has
_CURE = "give the film's music and effects without speech, from the film's start and at the film's level"


def check_background(
    background: Path, blocks: Iterable[tuple[int, np.ndarray, np.ndarray]], film_seconds: float
) -> None:
    """Refuse a background that is silent, is not in the film's sound, leaves it after some time, or ends before it.

    `blocks` are the film's sound in blocks (N, 1) at `LEVEL_RATE_HZ`, each with its first sample and the background there.

    Raises:
        UnreadableMediaError: with the reason, and where it begins.
    """
    sums = [_sums(*block) for block in blocks]
    start_B, samples_B, film_B, part_B, product_B = np.array(sums or [[0.0] * 5]).T
    is_loud_B = part_B > media.SILENCE**2
    if not is_loud_B.any():
        raise UnreadableMediaError("the background is silent", where=str(background), cure=_CURE)
    length_seconds = _seconds_of_sound(background)
    lost_seconds = _first_lost_second(start_B, part_B > _AUDIBLE_SHARE * film_B, product_B > _MIN_SHARE * part_B)
    is_louder = part_B[is_loud_B].sum() >= 2 * product_B[is_loud_B].sum()  # the difference, than the film
    if is_louder and not lost_seconds:
        raise _other_background(background, length_seconds - film_seconds, film_seconds)
    if lost_seconds is not None:
        what = f"from {clock(lost_seconds)} on, the background is not in the film's sound: it is slower, faster, or cut otherwise"
        raise UnreadableMediaError(what, where=str(background), cure=_CURE)
    is_after_B = start_B > length_seconds + _SAME_LENGTH_SECONDS
    if (film_B > _QUIET_POWER * samples_B)[is_after_B].any():
        what = f"the background ends at {clock(length_seconds)}, and the film goes on to {clock(film_seconds)}"
        cure = "give all of it; where neither music nor effects follow, append silence"
        raise UnreadableMediaError(what, where=str(background), cure=cure)


def _sums(start: int, block: np.ndarray, part: np.ndarray) -> list[float]:
    """Start in seconds, number of samples, power of the film, power of the background, and product of both."""
    powers = (np.vdot(one, other) for one, other in ((block, block), (part, part), (block, part)))
    return [start / LEVEL_RATE_HZ, len(block), *map(float, powers)]


def _first_lost_second(start_B: np.ndarray, is_audible_B: np.ndarray, is_found_B: np.ndarray) -> float | None:
    """Where the first run of audible blocks begins in which the background is not found."""
    judged = np.flatnonzero(is_audible_B)
    runs = (judged[first : first + _SUSTAINED_BLOCKS] for first in range(len(judged) - _SUSTAINED_BLOCKS + 1))
    return next((float(start_B[run[0]]) for run in runs if not is_found_B[run].any()), None)


def _other_background(background: Path, longer_seconds: float, film_seconds: float) -> UnreadableMediaError:
    what, cure = "the background is not in the film's sound", _CURE
    if abs(longer_seconds) > _SAME_LENGTH_SECONDS:
        share = f"{abs(longer_seconds) / film_seconds:.1%} {'longer' if longer_seconds > 0 else 'shorter'}"
        what += f": it lasts {share} than the film, as another frame rate or version does"
        cure += "; bring that of another frame rate to the film's time first"
    return UnreadableMediaError(what, where=str(background), cure=cure)


def _seconds_of_sound(path: Path) -> float:
    return sum(map(len, media.sound(path, sample_rate_hz=LEVEL_RATE_HZ, channels=1))) / LEVEL_RATE_HZ
