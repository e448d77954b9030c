"""The picture of a dubbed film in pieces: only what changed is encoded, and the joined film is right to the frame."""

import subprocess
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from doubles.dubbers import EchoDubber
from doubles.films import FILM_SIZE, NTSC, beat_film, ffmpeg, open_film

from dubmill import media
from dubmill.dubbing import longform
from dubmill.dubbing.longform import Film, FilmJob, FilmStore, pieces
from dubmill.faces import NO_DETECTION
from dubmill.text.subtitles import Cue

NUM_FRAMES = 180  # six seconds: as many pieces
WORDS = ("uno", "dos")
SIZE = replace(FILM_SIZE, num_frames=9)


class CornerDubber(EchoDubber):
    """A corner whose brightness says how long the words are."""

    def dub(self, clip, *, line, **how):
        clip.frames_FHWC.flags.writeable = True
        clip.frames_FHWC[:, -8:, -8:] = 20 * len(line.text)
        return clip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return beat_film(tmp_path_factory.mktemp("film") / "in.mov", seconds=6)


@pytest.fixture
def render(monkeypatch, tmp_path, source):
    """Dubs the film in pieces of a second into one store; returns the decoded frames, and the pieces by name."""
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 1)

    def run(words=WORDS, *, out="out.mp4", store="store", film=source):
        cues = [Cue(0.3, 0.9, words[0]), Cue(4.1, 4.7, words[1])]
        job = FilmJob(CornerDubber(), "es", 0, "release", NO_DETECTION, "")
        store = FilmStore(tmp_path / store)
        how = {"metadata": {}, "progress": lambda share: None, "store": store}
        longform.dub_film(open_film(film, SIZE), cues, job, tmp_path / out, **how)
        return frames(tmp_path / out), {path.name: path.read_bytes() for path in store.pieces.glob("*.mov")}

    return run


def frames(path):
    info = media.probe(path)
    return np.stack(list(media.film_frames(path, info, info.layout)))


def stamps(path):
    """Time stamps of the picture's packets in display order, in ticks, and the length of a tick in seconds."""
    command = [media.executable(), "-v", "error", "-i", path, "-map", "0:v", "-c", "copy", "-f", "framecrc", "-"]
    lines = subprocess.run(list(map(str, command)), capture_output=True, check=True, text=True).stdout.splitlines()
    (tick,) = (Fraction(line.split()[-1]) for line in lines if line.startswith("#tb 0:"))
    return sorted(int(line.split(",")[2]) for line in lines if not line.startswith("#")), tick


def reads(monkeypatch):
    """Which frames are read from the film from now on, and whether by seeking."""
    spans, read = [], Film.source_frames

    def source_frames(film, layout, start, stop, *, seeks=False):
        spans.append((start, stop, seeks))
        return read(film, layout, start, stop, seeks=seeks)

    monkeypatch.setattr(Film, "source_frames", source_frames)
    return spans


def test_a_changed_word_encodes_and_reads_only_the_pieces_that_show_it(render, monkeypatch):
    before, first = render()
    assert len(first) == 6
    spans = reads(monkeypatch)
    after, second = render(("uno", "cinco"))
    assert spans == [(120, 150, True)]
    assert first.items() < second.items()
    assert len(second) == 7
    is_changed = (before != after).any(axis=1)
    assert len(after) == NUM_FRAMES
    assert is_changed[124:140].all()
    assert not is_changed[:120].any()
    assert not is_changed[150:].any()
    spans.clear()
    assert (render()[0] == before).all()
    assert spans == []


def test_a_film_after_a_change_has_the_bytes_of_one_that_is_rendered_at_once(render, tmp_path):
    render()
    render(("uno", "cinco"), out="changed.mp4")
    render(("uno", "cinco"), out="fresh.mp4", store="other")
    assert (tmp_path / "changed.mp4").read_bytes() == (tmp_path / "fresh.mp4").read_bytes()


def test_a_seek_that_finds_other_frames_is_not_used(render, monkeypatch, tmp_path):
    """What a damaged index gives: one frame too late. The film is then read from its start."""
    render()
    fresh = render(("uno", "cinco"), store="other")[0]
    seek = media.film_frames

    def late(*place, span=None, seeks=False, **how):
        return seek(*place, span=(span[0] + 1, span[1] + 1) if seeks else span, seeks=seeks, **how)

    monkeypatch.setattr(media, "film_frames", late)
    spans = reads(monkeypatch)
    render(("uno", "cinco"))
    monkeypatch.setattr(media, "film_frames", seek)
    assert spans == [(120, 150, True), (120, 150, False)]
    assert (frames(tmp_path / "out.mp4") == fresh).all()


def test_a_killed_run_goes_on_with_the_pieces_it_has(render, monkeypatch, tmp_path):
    whole = render(store="other")
    encode, written = media.write_piece, []

    def dies(path, *arguments, **how):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        encode(path, *arguments, **how)

    monkeypatch.setattr(media, "write_piece", dies)
    with pytest.raises(KeyboardInterrupt):
        render()
    monkeypatch.setattr(media, "write_piece", lambda *place, **how: written.append(place) or encode(*place, **how))
    again = render()
    assert len(written) == 6
    assert again[1] == whole[1]
    assert (again[0] == whole[0]).all()


@pytest.mark.parametrize(("name", "options"), [("in.mp4", ()), ("in.mkv", ("-bf", 2, "-g", 45)), ("in.ts", ())])
def test_frames_found_by_seeking_are_those_of_a_whole_reading(source, tmp_path, name, options):
    """With and without frames that are stored out of order; a transport stream has no index and is read from its start."""
    path = tmp_path / name
    ffmpeg("-i", source, "-c:v", "libx264", "-preset", "veryfast", *options, "-c:a", "aac", path)
    info = media.probe(path)
    assert info.can_seek == (path.suffix != ".ts")
    whole = frames(path)
    for start, stop in ((0, 3), (44, 47), (100, 101), (177, 180)):
        part = media.film_frames(path, info, info.layout, span=(start, stop), seeks=info.can_seek)
        assert (np.stack(list(part)) == whole[start:stop]).all()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_frame_of_a_joined_film_has_its_own_time(render, tmp_path, suffix, monkeypatch):
    """Half a microsecond is lost in each piece's length; over many pieces that must not add up."""
    monkeypatch.setattr(pieces, "PIECE_SECONDS", Fraction(1, 2))
    render(out=f"out{suffix}")
    ticks, tick = stamps(tmp_path / f"out{suffix}")
    assert len(ticks) == NUM_FRAMES
    assert all(abs(at - frame / NTSC / tick) <= Fraction(1, 2) for frame, at in enumerate(ticks))
