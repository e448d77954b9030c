"""Films with several faces, with none, and with words that nobody can say: found before anything is dubbed."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from doubles import miniature
from doubles.dubbers import EchoDubber
from doubles.films import beat_film, open_film

from dubmill import media
from dubmill.config import params
from dubmill.dubbing import longform
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.dubber import Dubber
from dubmill.dubbing.longform import FilmJob
from dubmill.errors import UnreadableMediaError, UnsupportedTextError
from dubmill.faces import NO_DETECTION, Face, FaceMasker, ScorerFaceDetector
from dubmill.media.clips import Clip
from dubmill.nano import world
from dubmill.text.subtitles import Cue
from dubmill.text.timing import clock
from dubmill.worlds.materialize import materialize
from dubmill.worlds.nano import NanoWorld

ROOT = Path(__file__).parents[1]
SIDE, RATE = world.FRAME_SIZE, Fraction(world.FRAME_RATE)
SIZE = ClipSize(world.HALF_FRAMES, SIDE, 2 * SIDE, RATE, world.SAMPLE_RATE_HZ)
HEAD = 8  # pixels from the edge of a puppet's picture to its head
HALF_SECONDS = float(world.HALF_FRAMES / RATE)
ENGLISH, SPANISH = (" ".join(world.LANGUAGES[language][: world.WORDS_PER_HALF]) for language in ("en", "es"))


class SideBySide:
    """FixedDetector puppets beside each other by nano's own scorer of one puppet, and nobody where it is black."""

    jitter_frames = 0

    def __init__(self, scorers):
        self.one = ScorerFaceDetector(scorers)

    def detect(self, frames_FHWC):
        found = [[] for _ in frames_FHWC]
        for left in (0, SIDE):
            part = np.ascontiguousarray(frames_FHWC[:, :, left : left + SIDE])
            for at, faces in enumerate(self.one.detect(part)):
                if part[at].mean() > 20:
                    head = np.array([left + HEAD, HEAD, left + SIDE - HEAD, SIDE - HEAD], np.float32)
                    found[at] += [Face(head, one.mouth_4 + np.float32([left, 0, left, 0])) for one in faces]
        return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return materialize(params.load(ROOT / "params.yaml").backbone, tmp_path_factory.mktemp("nano") / "backbone")


@pytest.fixture(scope="module")
def masker(base):
    return FaceMasker(SideBySide(NanoWorld(base).scorers()), "")


@pytest.fixture(scope="module")
def dubber(base):
    return Dubber.load(base, None, sampling=miniature.sampling(num_steps=2))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two puppets side by side, the left of whom is heard; then as long a night in which the same is heard."""
    path = tmp_path_factory.mktemp("film") / "in.mp4"
    phrases = (world.Phrase("en", tuple(ENGLISH.split())),) * 2
    left, right = (world.halves(world.film(world.puppet(seed), phrases, motion_seed=seed))[0] for seed in (3, 5))
    both = np.concatenate([left.frames_FHWC, right.frames_FHWC], axis=2)
    sound_N = np.concatenate([left.audio_N, left.audio_N])[: round(2 * HALF_SECONDS * world.SAMPLE_RATE_HZ)]
    clip = Clip(np.concatenate([both, np.zeros_like(both)]), RATE, sound_N[None], world.SAMPLE_RATE_HZ)
    path.write_bytes(media.mp4_bytes(clip))
    return path


def cues(*texts):
    return [Cue(at * HALF_SECONDS, (at + 1) * HALF_SECONDS, text) for at, text in enumerate(texts)]


def dubbed(film, words, out, dubber, masker, face):
    job = FilmJob(dubber, "es", 0, "release", masker, face)
    return longform.dub_film(open_film(film, SIZE), words, job, out, metadata={}, progress=lambda share: None)


def test_of_two_puppets_in_a_film_only_the_chosen_one_is_dubbed_and_a_landscape_stays(film, dubber, masker, tmp_path):
    """Nothing stands in but the detector: nano's dubs of both puppets, of which one is laid over the film."""
    made = dubbed(film, cues(SPANISH, SPANISH), tmp_path / "out.mp4", dubber, masker, "right")
    was, now = (media.read(path, frame_rate=None, sample_rate_hz=16000) for path in (film, tmp_path / "out.mp4"))
    changed_FHW = np.abs(was.frames_FHWC.astype(int) - now.frames_FHWC).mean(axis=3)
    both_FHW, night_FHW = np.split(changed_FHW, 2)
    left, right = (half_FHW[1:-1, HEAD:-HEAD, HEAD:-HEAD].mean() for half_FHW in np.split(both_FHW, 2, axis=2))
    assert left < 3  # encoding
    assert right > 5 * left
    assert night_FHW[1:].mean() < 1
    for one, other in zip(np.split(was.mono_N, 2), np.split(now.mono_N, 2), strict=True):
        assert np.corrcoef(one, other)[0, 1] < 0.9
    assert made.notes == (
        f"1 other face left unchanged (0:00:00.0 to {clock(HALF_SECONDS)})",
        "no face is visible, so the picture is unchanged and the sound is dubbed "
        f"({clock(HALF_SECONDS)} to {clock(2 * HALF_SECONDS)})",
    )


def test_two_puppets_without_a_choice_are_told_before_anything_is_dubbed(film, masker, tmp_path):
    echo = EchoDubber()
    with pytest.raises(
        UnreadableMediaError, match=r"the words at 0:00:00.0: 2 faces are in it, 1 at 25 % .*, 2 at 75 %"
    ):
        dubbed(film, cues(SPANISH), tmp_path / "out.mp4", echo, masker, "")
    assert echo.texts == []


def test_words_that_cannot_be_said_are_all_told_with_their_times_before_anything_is_dubbed(
    film, dubber, tmp_path, monkeypatch
):
    monkeypatch.setattr(dubber, "dub_batch", lambda *_: pytest.fail("something was dubbed"))
    with pytest.raises(UnsupportedTextError) as refused:
        dubbed(film, cues(SPANISH, "hola"), tmp_path / "out.mp4", dubber, NO_DETECTION, "")
    assert refused.value.sentence.startswith(
        f"the words at {clock(HALF_SECONDS)}: nano cannot say 'hola' in Spanish; use "
    )
    with pytest.raises(UnsupportedTextError) as refused:
        dubbed(film, cues(f"{SPANISH} {SPANISH}", "hola"), tmp_path / "out.mp4", dubber, NO_DETECTION, "")
    assert "the words at 0:00:00.0: " in refused.value.sentence
    assert f"; the words at {clock(HALF_SECONDS)}: nano cannot say 'hola'" in refused.value.sentence


def test_words_are_held_against_the_time_that_the_film_leaves_them(tmp_path):
    """The last cue begins shortly before the film's end: its dub will be cut there, however long the model's clip."""

    class Slow(EchoDubber):
        def check(self, line, room_seconds):
            if room_seconds < 3:
                raise UnsupportedTextError(f"they have {room_seconds:.1f} s", cure="say less")
            return ""

    slow, size = Slow(), ClipSize(61, 64, 64, Fraction(25, 2), 16000)
    source = beat_film(tmp_path / "in.mov", seconds=9)
    job = FilmJob(slow, "es", 0, "release", NO_DETECTION, "")
    words = [Cue(2.0, 6.5, "uno"), Cue(6.6, 8.8, "dos y tres")]
    with pytest.raises(UnsupportedTextError, match=r"0:00:06\.6"):
        longform.dub_film(open_film(source, size), words, job, tmp_path / "out.mp4", metadata={}, progress=print)
    assert slow.texts == []
