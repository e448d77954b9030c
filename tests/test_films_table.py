"""Every row of the tables in docs/films.md: what happens to a film's container, rate, tracks, colour and the rest."""

from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from doubles.dubbers import EchoDubber
from doubles.films import ffmpeg

from dubmill import media
from dubmill.dubbing import longform
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.longform import Film, FilmJob, pieces
from dubmill.errors import UnreadableMediaError, UnsupportedTextError, UsageError
from dubmill.faces import NO_DETECTION
from dubmill.text.subtitles import Cue

SIZE = ClipSize(num_frames=17, height=32, width=32, frame_rate=Fraction(25, 2), sample_rate_hz=16000)
SOUND = "aevalsrc=0.2*sin(2*PI*200*t)*(0.6+0.4*sin(9*t)):d={seconds}:s=16000"
CASES: list[tuple[str, dict, dict, str]] = [  # name in the table, how the film is made, what its dub is, a part of the notes
    ("H.264 in MP4", {"to": "mp4"}, {"codec": "h264", "pixel_format": "yuv420p"}, ""),
    ("H.264 in MOV", {"to": "mov"}, {"codec": "h264"}, ""),
    ("H.264 in Matroska", {"to": "mkv"}, {"codec": "h264"}, ""),
    ("H.264 in MPEG-TS", {"from": "ts", "to": "mkv"}, {"codec": "h264"}, ""),
    ("H.265, 10 bits", {"to": "mp4", "video": "libx265 -x265-params log-level=none -pix_fmt yuv420p10le"}, {"codec": "hevc", "pixel_format": "yuv420p10le"}, ""),
    ("ProRes in MOV", {"to": "mov", "video": "prores_ks -profile:v 3 -pix_fmt yuv422p10le"}, {"codec": "prores", "profile": "HQ", "pixel_format": "yuv422p10le"}, ""),
    ("ProRes into MP4", {"from": "mov", "to": "mp4", "video": "prores_ks -profile:v 3 -pix_fmt yuv422p10le"}, {"codec": "h264", "pixel_format": "yuv422p10le"}, "coded as h264: prores cannot be written into a .mp4"),
    ("VP9 in WebM", {"to": "webm", "video": "libvpx-vp9 -deadline realtime -pix_fmt yuv420p", "sound": "libopus"}, {"codec": "vp9"}, ""),
    ("FFV1 in Matroska", {"to": "mkv", "video": "ffv1 -pix_fmt yuv420p"}, {"codec": "ffv1"}, ""),
    ("MPEG-4 in AVI", {"from": "avi", "to": "mp4", "video": "mpeg4"}, {"codec": "mpeg4"}, ""),
    ("24000/1001", {"to": "mp4", "rate": "24000/1001"}, {"frame_rate": Fraction(24000, 1001)}, ""),
    ("60", {"to": "mp4", "rate": "60"}, {"frame_rate": Fraction(60)}, ""),
    ("240", {"to": "mp4", "rate": "240"}, {"frame_rate": Fraction(240)}, ""),
    ("4:4:4", {"to": "mp4", "video": "libx264 -pix_fmt yuv444p"}, {"pixel_format": "yuv444p"}, ""),
    ("4:2:2", {"to": "mp4", "video": "libx264 -pix_fmt yuv422p"}, {"pixel_format": "yuv422p"}, ""),
    ("RGB", {"to": "mkv", "video": "ffv1 -pix_fmt bgr0"}, {"pixel_format": "yuv444p", "matrix": "bt709"}, "pixel format bgr0 was converted to yuv444p"),
    ("BT.2020 tags", {"to": "mkv", "video": "ffv1 -pix_fmt yuv420p10le", "tags": ("bt2020nc", "bt2020", "bt2020-10")}, {"matrix": "bt2020nc", "primaries": "bt2020", "transfer": "bt2020-10"}, ""),
    ("full range", {"to": "mp4", "filter": "scale=out_range=pc,format=yuv420p"}, {"range": "pc"}, ""),
    ("no tags, SD", {"to": "mkv", "video": "ffv1 -pix_fmt yuv420p"}, {"matrix": "", "primaries": "", "transfer": ""}, ""),
    ("pixels that are not square", {"to": "mp4", "filter": "setsar=4/3"}, {"pixel_aspect": Fraction(4, 3), "width": 64}, ""),
    ("odd sides", {"from": "mkv", "to": "mp4", "size": "63x37", "video": "ffv1 -pix_fmt yuv420p"}, {"width": 64, "height": 38}, "odd sides: 63x37 became 64x38"),
    ("interlaced", {"to": "mp4", "rate": "50", "filter": "tinterlace=interleave_top,fieldorder=tff", "video": "libx264 -flags +ilme+ildct"}, {"is_interlaced": False, "frame_rate": Fraction(25)}, ""),
]  # fmt: skip


def make(folder, how, *, seconds=1.0):
    """A film of a test picture over a hum, made as a case says."""
    path = folder / f"in.{how.get('from', how['to'])}"
    picture = f"testsrc=s={how.get('size', '64x48')}:r={how.get('rate', 25)}:d={seconds}"
    video = how.get("video", "libx264 -pix_fmt yuv420p").split()
    sound = how.get("sound", "aac" if path.suffix in (".mp4", ".ts") else "pcm_s16le").split()
    matrix, primaries, transfer = how.get("tags", ("", "", ""))
    tags = {"colorspace": matrix, "color_primaries": primaries, "color_trc": transfer}
    tags = ":".join(f"{key}={value}" for key, value in tags.items() if value)
    filters = [one for one in (how.get("filter"), tags and f"setparams={tags}") if one]
    filters = ["-vf", ",".join(filters)] if filters else []
    inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", SOUND.format(seconds=seconds)]
    ffmpeg(*inputs, *filters, "-c:v", *video, "-c:a", *sound, path)
    return path


@pytest.fixture(autouse=True)
def half_seconds(monkeypatch):
    """The picture is encoded in more than one piece."""
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 0.5)


def dub(source, out, **how):
    film = Film.open(source, SIZE, limits=media.Limits(), tone_map=how.pop("tone_map", False))
    job = FilmJob(EchoDubber(), "es", 0, "release", NO_DETECTION, "", picture=how.pop("picture", "face"))
    made = longform.dub_film(film, [Cue(0.2, 0.8, "hola")], job, out, metadata={}, progress=lambda share: None, **how)
    return made.notes


@pytest.mark.parametrize(("row", "how", "expected", "note"), CASES, ids=[case[0] for case in CASES])
def test_the_picture_of_a_dub_is_what_the_table_says(tmp_path, row, how, expected, note):
    source, out = make(tmp_path, how), tmp_path / f"out.{how['to']}"
    notes = dub(source, out)
    was, now = media.probe(source), media.probe(out)
    facts = {"frame_rate": now.frame_rate} | {key: getattr(now.picture, key) for key in expected if key != "frame_rate"}
    assert facts == {"frame_rate": was.frame_rate} | expected
    assert now.num_frames == was.num_frames
    assert [one for one in notes if note in one] if note else notes == ()
    assert f"| {row} |" in (Path(__file__).parents[1] / "docs" / "films.md").read_text()


def test_sound_tracks_subtitles_chapters_and_timecode_are_carried(tmp_path):
    """In Matroska as they are; in MP4 subtitles become mov_text. The dub comes first and is the default."""
    (tmp_path / "subs.srt").write_text("1\n00:00:00,500 --> 00:00:00,900\nhello\n")
    (tmp_path / "meta.txt").write_text(
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=Opening\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=500\nEND=1000\ntitle=End\n"
    )
    source = tmp_path / "in.mkv"
    sounds = [["-f", "lavfi", "-i", SOUND.format(seconds=1).replace("200", hz)] for hz in ("300", "600")]
    inputs = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=1", *chain(*sounds)]
    inputs += ["-i", tmp_path / "subs.srt", "-i", tmp_path / "meta.txt"]
    maps = ["-map", 0, "-map", 1, "-map", 2, "-map", 3, "-map_chapters", 4, "-metadata", "timecode=01:00:00:00"]
    tags = ["-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra", "-metadata:s:s:0", "language=ger"]
    ffmpeg(*inputs, *maps, *tags, "-c:a", "aac", "-c:s", "srt", source)
    for suffix, subtitles in ((".mkv", "subrip"), (".mp4", "mov_text")):
        out = tmp_path / f"out{suffix}"
        assert dub(source, out) == ("sound track 2 (fra) follows the dub's, unchanged",)
        info = media.probe(out)
        assert [(track.codec, track.language) for track in info.tracks] == [("aac", "spa"), ("aac", "fra")]
        assert [track.is_default for track in info.tracks] == [True, False]
        kept = [(one.language, one.codec) for one in info.others if one.kind == "Subtitle"]
        assert kept == [("ger", subtitles)]
        assert (info.num_chapters, info.timecode) == (2, "01:00:00:00")
        copy = media.read(out, frame_rate=None, sample_rate_hz=16000, track=2).mono_N
        assert np.argmax(np.abs(np.fft.rfft(copy))) == pytest.approx(600 * len(copy) / 16000, abs=3)


def test_what_a_container_cannot_hold_is_named(tmp_path):
    (tmp_path / "font.txt").write_text("x")
    inputs = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=1", "-f", "lavfi", "-i", SOUND.format(seconds=1)]
    attached = ["-attach", tmp_path / "font.txt", "-metadata:s:t", "mimetype=text/plain"]
    ffmpeg(*inputs, "-map", 0, "-map", 1, *attached, "-metadata", "timecode=01:00:00:00", tmp_path / "in.mkv")
    (note,) = [one for one in dub(tmp_path / "in.mkv", tmp_path / "out.webm") if "not carried" in one]
    assert note == "not carried over: 1 attachment, timecode 01:00:00:00"


def test_sound_after_the_end_of_the_picture_stays(tmp_path):
    source = tmp_path / "in.mkv"
    inputs = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=1", "-f", "lavfi", "-i", SOUND.format(seconds=2)]
    ffmpeg(*inputs, "-c:a", "pcm_s16le", source)
    assert dub(source, tmp_path / "out.mkv") == ()
    was, now = media.probe(source), media.probe(tmp_path / "out.mkv")
    assert (was.num_frames, was.sound_seconds) == (now.num_frames, pytest.approx(now.sound_seconds, abs=0.001))


def test_the_bit_rate_stays_in_the_class_of_the_source_and_quality_lifts_the_bound(tmp_path):
    how = {
        "to": "mp4",
        "size": "320x240",
        "filter": "noise=alls=40:allf=t",
        "video": "libx264 -b:v 1200k -maxrate 1200k -bufsize 600k",
    }
    source = make(tmp_path, how, seconds=2.0)
    for quality, (low, high) in ((None, (0.5, 2.2)), (10, (2.3, 99.0))):
        dub(source, tmp_path / "out.mp4", quality=quality)
        rates = [media.probe(path).picture.bit_rate for path in (source, tmp_path / "out.mp4")]
        assert low < rates[1] / rates[0] < high


def test_a_failed_films_folder_is_named(tmp_path):
    class Second(EchoDubber):
        def dub(self, clip, **how):
            if self.texts:
                raise UnsupportedTextError("it cannot be said", cure="say less")
            return super().dub(clip, **how)

    source = make(tmp_path, {"to": "mkv"}, seconds=3.0)
    film = Film.open(source, SIZE, limits=media.Limits(), tone_map=False)
    job = FilmJob(Second(), "es", 0, "release", NO_DETECTION, "")
    cues = [Cue(0.2, 0.8, "uno"), Cue(2.2, 2.8, "dos")]
    with pytest.raises(UnsupportedTextError) as refused:
        longform.dub_film(film, cues, job, tmp_path / "out.mkv", metadata={}, progress=lambda share: None)
    assert f"finished chunks are kept in {tmp_path / '.out.mkv.chunks'}" in refused.value.sentence


def test_hdr_is_refused_or_tone_mapped(tmp_path):
    how = {"to": "mkv", "video": "ffv1 -pix_fmt yuv420p10le", "tags": ("bt2020nc", "bt2020", "smpte2084")}
    source = make(tmp_path, how)
    with pytest.raises(UnreadableMediaError):
        dub(source, tmp_path / "out.mkv")
    dub(source, tmp_path / "out.mkv", tone_map=True)
    now = media.probe(tmp_path / "out.mkv").picture
    assert (now.pixel_format, now.matrix, now.primaries, now.transfer) == ("yuv420p", "bt709", "bt709", "bt709")


def test_a_recorded_voice_is_the_sound_of_the_dub_at_full_bandwidth(tmp_path):
    """The model gets the recording at its own rate; what is heard is the recording itself, on the film's clock."""

    class Follower(EchoDubber):
        def follow_voice(self, clip, voice_CN, **how):
            self.voice_CN = voice_CN
            return super().dub(clip, **how).with_audio(voice_CN)

    source = tmp_path / "in.mkv"
    inputs = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=1", "-f", "lavfi", "-i", "sine=200:d=1:r=48000"]
    ffmpeg(*inputs, "-c:v", "ffv1", "-c:a", "pcm_s16le", source)
    ffmpeg("-f", "lavfi", "-i", "sine=15000:d=1:r=48000", "-f", "lavfi", "-i", "sine=700:d=1:r=48000",
           "-filter_complex", "amix=2", tmp_path / "voice.wav")  # fmt: skip
    follower = Follower()
    film = Film.open(source, SIZE, limits=media.Limits(), tone_map=False)
    job = FilmJob(follower, "es", 0, "release", NO_DETECTION, "", voice=tmp_path / "voice.wav")
    longform.dub_film(
        film, [Cue(0.0, 1.0, "hola")], job, tmp_path / "out.mkv", metadata={}, progress=lambda share: None
    )
    heard = media.read(tmp_path / "out.mkv", frame_rate=None, sample_rate_hz=48000).mono_N[4800:-4800]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    (low, high, old) = (spectrum[round(hz * len(heard) / 48000)] for hz in (700, 15000, 200))
    assert high > 0.5 * low > 50 * old
    model = np.abs(np.fft.rfft(follower.voice_CN[0][1600:-1600]))
    assert model.argmax() == pytest.approx(700 * (len(follower.voice_CN[0]) - 3200) / 16000, abs=2)


def test_a_silent_recording_is_refused_before_anything_is_opened(tmp_path):
    (tmp_path / "voice.wav").write_bytes(media.wav_bytes(np.zeros((1, 16000), np.float32), 16000))
    with pytest.raises(UnreadableMediaError, match="silent"):
        longform.check_recording(tmp_path / "voice.wav")


def test_the_length_of_a_segments_recording_is_that_of_its_speech(tmp_path):
    """The room's noise after the words, and blocks without any sound, do not count."""
    sound_N = np.full(80_000, 1e-3, np.float32)  # 5 s, in three blocks
    sound_N[:40_000] = 0.5
    (tmp_path / "voice.wav").write_bytes(media.wav_bytes(sound_N[None], 16000))
    longform.check_segment_recording(tmp_path / "voice.wav", 2.5)
    with pytest.raises(UsageError, match=r"until 2\.50 s, and its segment lasts 2\.00 s"):
        longform.check_segment_recording(tmp_path / "voice.wav", 2.0)
