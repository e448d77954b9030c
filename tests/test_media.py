"""Media files in and out, on small clips made here and, where a container matters, by FFmpeg itself."""

import dataclasses
import io
import os
import subprocess
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dubmill import media
from dubmill.errors import DiskFullError, MediaTooLargeError, UnreadableMediaError, UsageError
from dubmill.media import probing, process
from dubmill.media.clips import Clip


def a_clip(*, num_frames=25, height=64, width=64, frame_rate=Fraction(25, 2), tone_hz=440, rate=16000, channels=1):
    """A white square that moves right over a colour ramp, under a tone."""
    ramp = np.zeros((num_frames, height, width, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.linspace(0, 250, width), np.linspace(0, 250, height)[:, None]
    for frame in range(num_frames):
        ramp[frame, 10:20, frame : frame + 10] = 255
    times = np.arange(round(num_frames / frame_rate * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * tone_hz * times)
    return Clip(ramp, frame_rate, np.tile(tone.astype(np.float32), (channels, 1)), rate)


def ffmpeg(*arguments):
    subprocess.run([media.executable(), "-v", "error", "-y", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "a clip.mp4"
    path.write_bytes(media.mp4_bytes(a_clip()))
    return path


def sentence_of(source, **how):
    with pytest.raises(UnreadableMediaError) as told:
        media.read(source, frame_rate=None, sample_rate_hz=16000, **how)
    assert "\n" not in told.value.sentence
    return told.value.sentence


def test_a_clip_survives_an_mp4(mp4):
    clip, back = a_clip(), media.read(mp4, frame_rate=None, sample_rate_hz=16000)
    assert (back.frame_rate, back.num_frames, back.audio_CN.shape) == (clip.frame_rate, 25, (1, 32000))
    assert np.abs(back.frames_FHWC.astype(int) - clip.frames_FHWC).mean() < 2
    assert np.corrcoef(back.mono_N, clip.mono_N)[0, 1] > 0.999


def test_a_probe_counts_instead_of_trusting_the_header(mp4):
    assert media.probe(mp4) == media.MediaInfo(64, 64, Fraction(25, 2), 25, True, 16000, 1)
    assert media.probe(mp4).seconds == 2.0


def test_a_path_and_its_bytes_read_alike(mp4):
    one, other = (media.read(source, frame_rate=None, sample_rate_hz=16000) for source in (mp4, mp4.read_bytes()))
    assert one.to_bytes() == other.to_bytes()


def test_equal_clips_give_equal_mp4_bytes_with_the_index_first():
    data = media.mp4_bytes(a_clip(), {"comment": "a"})
    assert data == media.mp4_bytes(a_clip(), {"comment": "a"})
    assert data != media.mp4_bytes(a_clip(), {"comment": "b"})
    assert data.index(b"moov") < data.index(b"mdat")


def test_metadata_survives_signs_that_mean_something_to_ffmpeg():
    said = {"comment": "machine=made; by\n#us \\ ü", "title": "a; b"}
    assert media.metadata(media.mp4_bytes(a_clip(), said)).items() >= said.items()
    with pytest.raises(UsageError, match="'mood'"):
        media.mp4_bytes(a_clip(), {"mood": "good"})


def test_odd_sides_are_padded_by_one_and_shown_as_such():
    info = media.probe(media.mp4_bytes(a_clip(height=63, width=65)))
    assert (info.height, info.width) == (64, 66)


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(24000, 1001), Fraction(25, 2)])
def test_frame_rates_stay_exact(rate):
    assert media.probe(media.mp4_bytes(a_clip(frame_rate=rate, num_frames=12))).frame_rate == rate


def test_a_clip_is_resampled_to_what_is_asked_and_sound_fits_picture(mp4):
    clip = media.read(mp4, frame_rate=Fraction(24), sample_rate_hz=48000, height=32, width=48, channels=2)
    assert clip.frames_FHWC.shape == (48, 32, 48, 3)
    assert clip.audio_CN.shape == (2, 96000)


def test_a_wide_picture_is_cropped_at_its_centre_and_not_squashed(tmp_path):
    wide = a_clip(width=128)
    wide.frames_FHWC[...] = 0
    wide.frames_FHWC[:, :, 32:96] = 255
    clip = media.read(media.mp4_bytes(wide), frame_rate=None, sample_rate_hz=16000, height=64, width=64)
    assert clip.frames_FHWC[:, :, 2:-2].min() > 240


def test_rotation_is_obeyed(mp4, tmp_path):
    ffmpeg("-display_rotation:v", 90, "-i", mp4, "-c", "copy", tmp_path / "turned.mp4")
    turned = media.read(tmp_path / "turned.mp4", frame_rate=None, sample_rate_hz=16000)
    upright = media.read(mp4, frame_rate=None, sample_rate_hz=16000)
    expected = np.rot90(upright.frames_FHWC, axes=(1, 2))  # up to chroma, which is halved before the turn
    assert np.abs(turned.frames_FHWC.astype(int) - expected).mean() < 1


def test_sound_that_starts_late_or_ends_early_keeps_its_place(tmp_path):
    """Late sound used to be a classic: dropped timestamps move every word forward and no lips fit."""
    picture, sound = tmp_path / "picture.mp4", tmp_path / "sound.wav"
    picture.write_bytes(media.mp4_bytes(a_clip()))
    sound.write_bytes(media.wav_bytes(a_clip().audio_CN[:, :16000], 16000))
    late = tmp_path / "late.mkv"
    ffmpeg("-i", picture, "-itsoffset", 0.5, "-i", sound, "-map", "0:v", "-map", "1:a", "-c:v", "copy", late)
    heard = media.read(late, frame_rate=None, sample_rate_hz=16000).mono_N
    assert len(heard) == 32000
    assert np.abs(heard[:7500]).max() < 0.01 < np.abs(heard[8500:23500]).max()
    assert np.abs(heard[24500:]).max() < 0.01


def test_a_colour_comes_back_as_it_went():
    flat = a_clip()
    flat.frames_FHWC[...] = (200, 60, 30)
    back = media.read(media.mp4_bytes(flat), frame_rate=None, sample_rate_hz=16000)
    assert np.abs(back.frames_FHWC.astype(int) - flat.frames_FHWC).max() <= 3


def test_a_missing_file_a_directory_and_an_empty_file_are_told_apart(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert "no such file" in sentence_of(tmp_path / "gone.mp4")
    assert "directory" in sentence_of(tmp_path)
    assert "empty" in sentence_of(tmp_path / "empty.mp4")
    assert "empty" in sentence_of(b"")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_an_error_and_not_a_shorter_clip(mp4, share):
    data = mp4.read_bytes()
    assert "truncated" in sentence_of(data[: int(len(data) * share)])


def test_a_file_whose_index_is_cut_off_is_truncated(mp4, tmp_path):
    ffmpeg("-i", mp4, "-c", "copy", "-movflags", "-faststart", tmp_path / "last.mp4")
    assert "truncated" in sentence_of((tmp_path / "last.mp4").read_bytes()[:-500])
    assert "truncated" in sentence_of((tmp_path / "last.mp4").read_bytes()[:-2000])


@pytest.mark.parametrize("data", [b"hello world" * 99, b"#EXTM3U\n#EXTINF:2,\n", b"ffconcat version 1.0\nfile x\n"])
def test_what_is_not_media_is_said_not_to_be(data):
    assert "not a media file" in sentence_of(data)


def test_a_playlist_cannot_make_us_read_another_file(mp4, tmp_path):
    """FFmpeg follows HLS playlists and concat scripts to any file it can open; a server must not."""
    for name, text in (("a.m3u8", "#EXTM3U\n#EXTINF:2,\n{}\n"), ("a.ffconcat", "ffconcat version 1.0\nfile '{}'\n")):
        (tmp_path / name).write_text(text.format(mp4))
        assert "not a media file" in sentence_of(tmp_path / name)


def test_sound_without_picture_and_picture_without_sound_are_named(mp4, tmp_path):
    assert "no picture" in sentence_of(media.wav_bytes(a_clip().audio_CN, 16000))
    ffmpeg("-i", mp4, "-an", "-c", "copy", tmp_path / "mute.mp4")
    assert "no sound" in sentence_of(tmp_path / "mute.mp4")
    mute = media.read(tmp_path / "mute.mp4", frame_rate=None, sample_rate_hz=16000, needs_sound=False)
    assert mute.audio_CN.shape == (1, 32000)
    assert not mute.audio_CN.any()


def test_silence_is_not_taken_for_a_voice():
    silent = dataclasses.replace(a_clip(), audio_CN=np.zeros((1, 32000), np.float32))
    assert "silent" in sentence_of(media.mp4_bytes(silent))


def test_limits_hold_before_memory_fills(mp4):
    assert "longer than 1 s" in sentence_of(mp4, limits=media.Limits(max_seconds=1))
    assert "pixels" in sentence_of(mp4, limits=media.Limits(max_side=32))
    assert "GiB" in sentence_of(mp4, limits=media.Limits(max_decoded_bytes=1000))


@pytest.fixture(scope="module")
def wide_png(tmp_path_factory):
    """A picture of 25 million pixels in a file of 80 KB."""
    path = tmp_path_factory.mktemp("bomb") / "wide.mov"
    ffmpeg("-f", "lavfi", "-i", "color=black:s=5000x5000:r=1:d=1", "-c:v", "png", path)
    return path


@pytest.mark.parametrize("codec", ["png", "mjpeg"])
def test_a_small_file_of_large_pictures_is_refused_before_it_is_decoded(tmp_path, wide_png, monkeypatch, codec):
    """A file of 750 KB was decoded for 16 s, in the model's slot."""
    ffmpeg("-i", wide_png, "-c:v", codec, tmp_path / "bomb.mov")
    monkeypatch.setattr(probing, "stream_output", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(MediaTooLargeError, match="5000x5000 is larger than 4096|too many pixels"):
        media.probe(tmp_path / "bomb.mov")


def test_pictures_that_grow_in_the_middle_are_refused(tmp_path, wide_png):
    """The header states the first picture's size only."""
    ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:r=1:d=2", "-c:v", "mjpeg", "-f", "mjpeg", tmp_path / "small")
    ffmpeg("-i", wide_png, "-c:v", "mjpeg", "-f", "mjpeg", tmp_path / "large")
    both = tmp_path / "both"
    both.write_bytes((tmp_path / "small").read_bytes() + (tmp_path / "large").read_bytes())
    ffmpeg("-f", "mjpeg", "-i", both, "-c", "copy", tmp_path / "growing.mov")
    with pytest.raises(MediaTooLargeError, match="too many pixels"):
        media.probe(tmp_path / "growing.mov")


def _picture_source(size, seconds):
    import ffmpeg as graphs

    source = graphs.input(f"testsrc2=s={size}:d={seconds}", f="lavfi")
    return source.output("pipe:", format="rawvideo", pix_fmt="rgb24")


def test_a_file_that_takes_too_long_to_decode_is_refused():
    with pytest.raises(MediaTooLargeError, match="more than 1 s"):
        for _ in process.stream_output(_picture_source("1280x720", 600), name="clip", fds=[], max_cpu_seconds=1):
            pass


def test_a_file_that_takes_too_much_memory_to_decode_is_refused(monkeypatch):
    monkeypatch.setattr(process, "MAX_DATA_BYTES", 120 * 2**20)
    with pytest.raises(MediaTooLargeError, match="memory"):
        for _ in process.stream_output(_picture_source("3000x3000", 1), name="clip", fds=[]):
            pass


def test_sound_over_full_scale_is_clipped_and_missing_sound_padded():
    loud = dataclasses.replace(a_clip(), audio_CN=np.full((1, 100), 3.0, np.float32))
    back = media.read(media.mp4_bytes(loud), frame_rate=None, sample_rate_hz=16000)
    assert back.audio_CN.shape == (1, 32000)
    assert np.abs(back.audio_CN).max() <= 1


def test_a_wav_holds_the_samples():
    stereo = np.stack([a_clip().mono_N, -a_clip().mono_N])
    with wave.open(io.BytesIO(media.wav_bytes(stereo, 16000))) as told:
        assert (told.getnchannels(), told.getframerate(), told.getnframes()) == (2, 16000, 32000)
        samples = np.frombuffer(told.readframes(32000), "<i2").reshape(-1, 2).T / 32767
    assert np.abs(samples - stereo).max() < 1e-4


def test_nothing_is_left_on_disk_or_open(mp4, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = len(list(Path("/proc/self/fd").iterdir()))
    media.mp4_bytes(media.read(mp4, frame_rate=None, sample_rate_hz=16000))
    sentence_of(mp4.read_bytes()[:5000])
    assert list(Path(tmp_path).iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_pixels_that_are_not_square_are_made_so(mp4, tmp_path):
    ffmpeg("-i", mp4, "-vf", "setsar=3/2", tmp_path / "wide.mp4")
    info = media.probe(tmp_path / "wide.mp4")
    assert (info.width, info.height) == (96, 64)
    clip = media.read(tmp_path / "wide.mp4", frame_rate=None, sample_rate_hz=16000)
    assert clip.frames_FHWC.shape == (25, 64, 96, 3)


def test_a_rate_that_varies_is_made_constant_and_nothing_moves_in_time(tmp_path):
    """Telephones stamp frames by the clock: FFmpeg then guesses 90000 frames a second, and each was read as one."""
    path = tmp_path / "varies.mp4"
    flash = "drawbox=c=white:t=fill:enable='eq(n,60)'"
    jitter = "settb=1/90000,setpts='PTS+2000*random(1)'"
    source = f"color=black:s=64x64:r=30:d=3,{flash},{jitter}"
    clock = ("-fps_mode", "passthrough", "-enc_time_base", "1/90000", "-bf", 0)
    ffmpeg("-f", "lavfi", "-i", source, *clock, "-pix_fmt", "yuv420p", path)
    info = media.probe(path)
    assert (info.frame_rate, info.seconds) == (Fraction(30), pytest.approx(3, abs=0.05))
    clip = media.read(path, frame_rate=None, sample_rate_hz=16000, needs_sound=False)
    assert clip.num_frames == pytest.approx(90, abs=1)
    assert np.flatnonzero(clip.frames_FHWC.mean(axis=(1, 2, 3)) > 128) / 30 == pytest.approx(2.0, abs=1.5 / 30)


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_refused_in_a_sentence_and_mapped_only_when_asked(tmp_path, transfer, name):
    """Read as if it were BT.709, a PQ picture is grey and flat, and the dub would be too."""
    path = tmp_path / "hdr.mp4"
    tags = ("-color_primaries", "bt2020", "-color_trc", transfer, "-colorspace", "bt2020nc")
    codec = (
        "-c:v",
        "libx265",
        "-x265-params",
        f"log-level=none:transfer={transfer}:colorprim=bt2020:colormatrix=bt2020nc",
    )
    source = "testsrc=s=64x64:r=10:d=0.5,format=yuv420p10le"
    ffmpeg("-f", "lavfi", "-i", source, *codec, *tags, path)
    assert media.probe(path).hdr == name
    assert f"HDR ({name})" in sentence_of(path, needs_sound=False)
    clip = media.read(path, frame_rate=None, sample_rate_hz=16000, needs_sound=False, tone_map=True)
    assert clip.frames_FHWC.shape == (5, 64, 64, 3)
    assert clip.frames_FHWC.std() > 20


@pytest.mark.parametrize("container", ["mov", "mkv", "webm", "avi", "ts", "flv"])
@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001)])
def test_ntsc_rates_are_rationals_in_every_container(mp4, tmp_path, container, rate):
    path = tmp_path / f"clip.{container}"
    how = ("-c:v", "vp8", "-deadline", "realtime") if container == "webm" else ("-ar", 22050)
    ffmpeg("-i", mp4, "-r", rate, *how, path)
    info = media.probe(path)
    assert (info.frame_rate, info.has_audio) == (rate, True)


def test_frames_and_sound_come_one_by_one_as_they_come_whole(mp4):
    whole = media.read(mp4, frame_rate=Fraction(10), sample_rate_hz=8000, height=32, width=48, channels=2)
    info = media.probe(mp4)
    frames = list(media.frames(mp4, info, frame_rate=Fraction(10), height=32, width=48))
    assert (np.stack(frames) == whole.frames_FHWC).all()
    blocks = list(media.sound(mp4, sample_rate_hz=8000, channels=2, block_samples=1000))
    assert {len(block) for block in blocks[:-1]} == {1000}
    heard = np.concatenate(blocks)[:16000]
    assert np.abs(heard.T - whole.audio_CN[:, : len(heard)]).max() < 1e-6


def test_a_reader_who_stops_early_leaves_no_process_behind(mp4):
    before = len(list(Path("/proc/self/fd").iterdir()))
    frames = media.frames(mp4, media.probe(mp4), frame_rate=Fraction(25), height=64, width=64)
    next(frames)
    frames.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_torn_file_is_an_error_also_when_read_piece_by_piece(mp4):
    info, torn = media.probe(mp4), mp4.read_bytes()[:5000]
    with pytest.raises(UnreadableMediaError):
        list(media.frames(torn, info, frame_rate=Fraction(25), height=64, width=64))


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_truncated_file_without_sound_is_an_error_too(mp4, tmp_path, container):
    """FFmpeg ends with success after 11 of 25 frames, and says only in passing that the file was partial."""
    path = tmp_path / f"mute.{container}"
    ffmpeg("-i", mp4, "-an", "-c", "copy", "-movflags", "+faststart", path)
    assert "truncated" in sentence_of(path.read_bytes()[:-2000], needs_sound=False)


def test_a_film_is_joined_from_pieces_and_an_empty_one_is_refused(mp4, tmp_path):
    """Frames stay in the source's pixel format: a lossless codec gives the decoder's values back."""
    info = media.probe(mp4)
    (tmp_path / "sound.wav").write_bytes(media.wav_bytes(a_clip().audio_CN, 16000))
    _ffmpeg("-i", mp4, "-c:v", "ffv1", "-an", tmp_path / "in.mkv")
    coding = media.coding_like(media.probe(tmp_path / "in.mkv"), ".mkv")
    how = {"coding": coding, "frame_rate": info.frame_rate}
    sound = {"wav": tmp_path / "sound.wav", "sound_codec": "aac", "sample_rate_hz": 16000, "channels": 1}
    fed = list(media.film_frames(mp4, info, coding.layout))
    parts = (fed[:7], fed[7:8], fed[8:])
    for number, part in enumerate(parts):
        media.write_piece(tmp_path / f"it's {number}.mov", iter(part), **how, colour=info.colour(is_tone_mapped=False))
    pieces = [(tmp_path / f"it's {number}.mov", len(part)) for number, part in enumerate(parts)]
    media.write_film(tmp_path / "film.mkv", pieces, **how, **sound, metadata={"comment": "fed"})
    now = media.probe(tmp_path / "film.mkv")
    assert (now.picture.codec, now.picture.pixel_format, now.num_frames) == ("ffv1", "yuv420p", 25)
    back = list(media.film_frames(tmp_path / "film.mkv", now, coding.layout))
    assert all((one == other).all() for one, other in zip(fed, back, strict=True))
    assert media.metadata(tmp_path / "film.mkv")["comment"] == "fed"
    with pytest.raises(UsageError, match="without frames"):
        media.write_piece(tmp_path / "none.mov", iter(()), **how, colour=info.colour(is_tone_mapped=False))


def test_sound_is_written_as_it_comes(tmp_path):
    sound_NC = a_clip(channels=2).audio_CN.T
    media.write_sound(tmp_path / "s.wav", np.array_split(sound_NC, 7), sample_rate_hz=16000, channels=2)
    back = np.concatenate(list(media.sound(tmp_path / "s.wav", sample_rate_hz=16000, channels=2)))
    assert np.abs(back - sound_NC).max() < 1e-4


def test_a_full_disk_is_told_while_a_film_is_written():
    with pytest.raises(DiskFullError, match="disk is full"):
        media.write_sound(Path("/dev/full"), [np.zeros((100_000, 1))], sample_rate_hz=16000, channels=1)


def test_a_clip_survives_without_loss(tmp_path):
    clip = dataclasses.replace(a_clip(channels=2, height=63), sample_rate_hz=16000)
    back = media.read(media.lossless_bytes(clip), frame_rate=clip.frame_rate, sample_rate_hz=16000, channels=2)
    assert (back.frames_FHWC[:, :63] == clip.frames_FHWC).all()
    assert (back.audio_CN == clip.audio_CN).all()
    (tmp_path / "odd.nut").write_bytes(media.lossless_bytes(clip))
    how = {"frame_rate": clip.frame_rate, "sample_rate_hz": 16000, "channels": 2}
    with pytest.raises(UnreadableMediaError, match="its frames are not"):
        media.read_lossless(tmp_path / "odd.nut", sides=clip.frames_FHWC.shape[1:3], **how)


def test_loudness_is_that_of_ebu_r128():
    """EBU Tech 3341: a stereo sine of 1 kHz that peaks at -23 dBFS measures -23 LUFS; one channel of it 3 LU less."""
    tone = 10 ** (-23 / 20) * np.sin(2 * np.pi * 1000 * np.arange(5 * 48000) / 48000)
    stereo = np.stack([tone, tone], axis=1).astype(np.float32)
    assert media.loudness(np.array_split(stereo, 9), sample_rate_hz=48000, channels=2) == pytest.approx(-23, abs=0.1)
    assert media.loudness([stereo[:, :1]], sample_rate_hz=48000, channels=1) == pytest.approx(-26, abs=0.1)
    spaced = np.concatenate([stereo, np.zeros_like(stereo)])
    assert media.loudness([spaced], sample_rate_hz=48000, channels=2) == pytest.approx(-23, abs=0.2)
    assert media.loudness([np.zeros_like(stereo)], sample_rate_hz=48000, channels=2) == media.SILENCE_LUFS
    assert media.loudness([stereo[:100]], sample_rate_hz=48000, channels=2) == media.SILENCE_LUFS


def script(folder, name, text):
    """An executable shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_ffmpeg_on_the_path_is_never_started(tmp_path, monkeypatch):
    """Debian 12's 5.1 stood before the pinned one, and files differed from machine to machine."""
    script(tmp_path, "ffmpeg", f"touch {tmp_path}/started; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("DUBMILL_FFMPEG", raising=False)
    assert media.probe(media.mp4_bytes(a_clip(num_frames=2))).num_frames == 2
    assert "imageio_ffmpeg" in media.executable()
    assert not (tmp_path / "started").exists()


def test_another_ffmpeg_is_used_where_the_environment_names_it(tmp_path, monkeypatch):
    monkeypatch.delenv("DUBMILL_FFMPEG", raising=False)
    other = script(tmp_path, "other", f'exec {media.executable()} "$@"')
    monkeypatch.setenv("DUBMILL_FFMPEG", str(other))
    assert media.executable() == str(other)
    assert media.probe(media.mp4_bytes(a_clip(num_frames=2))).num_frames == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('echo "ffmpeg version 5.1.6-0+deb12u1 Copyright"; echo "libavutil      57. 28.100"', "FFmpeg 5.1.6"),
        ('echo "ffmpeg version N-47683-g0e8eb07980"; echo "libavutil      56. 19.101"', "FFmpeg N-47683"),
        ('echo "ffmpeg version 8.0 Copyright"; echo "libavutil      60.  8.100"', "needs 9"),
        ('echo "ffmpeg version 9.0 Copyright"; echo "libavutil      61.  1.100"', "lack"),
        ('echo "something else"', "needs 9"),
        ("exit 1", "does not run"),
    ],
)
def test_an_ffmpeg_that_does_not_suffice_is_refused_when_it_is_first_used(tmp_path, monkeypatch, text, reason):
    monkeypatch.setenv("DUBMILL_FFMPEG", str(script(tmp_path, "other", text)))
    with pytest.raises(UsageError) as refused:
        media.probe(b"anything")
    assert reason in refused.value.what
    assert refused.value.where == str(tmp_path / "other")


# What containers hold besides one picture and one sound


def _ffmpeg(*arguments):
    subprocess.run([media.executable(), "-v", "error", "-y", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def bilingual(tmp_path_factory):
    """Two sound tracks, English at 400 Hz and Spanish at 800 Hz, the second the default; subtitles and a chapter."""
    folder = tmp_path_factory.mktemp("bilingual")
    (folder / "subs.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    (folder / "chapters.txt").write_text(
        ";FFMETADATA1\ntitle=A film\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=1\ntitle=One\n"
    )
    sounds = [part for hz in (400, 800) for part in ("-f", "lavfi", "-i", f"sine={hz}:d=2:r=16000")]
    maps = ["-map", 0, "-map", 1, "-map", 2, "-map", 3, "-map_metadata", 4, "-map_chapters", 4]
    tags = ["-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=spa"]
    which = ["-disposition:a:0", 0, "-disposition:a:1", "default"]
    inputs = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=25:d=2", *sounds, "-i", folder / "subs.srt"]
    path = folder / "film.mkv"
    _ffmpeg(*inputs, "-i", folder / "chapters.txt", *maps, *tags, *which, "-c:a", "pcm_s16le", "-c:s", "srt", path)
    return path


def _hz(sound_N, rate=16000):
    return np.argmax(np.abs(np.fft.rfft(sound_N))) * rate / len(sound_N)


@pytest.mark.parametrize(("track", "hz"), [(None, 800), (1, 400), (2, 800)])
def test_the_default_sound_track_is_read_or_the_chosen_one(bilingual, track, hz):
    info = media.probe(bilingual, track=track)
    assert [one.language for one in info.tracks] == ["eng", "spa"]
    clip = media.read(bilingual, frame_rate=None, sample_rate_hz=16000, track=track)
    assert _hz(clip.mono_N) == pytest.approx(hz, abs=2)
    blocks = list(media.sound(bilingual, sample_rate_hz=16000, channels=1, track=info.track, has_picture=True))
    assert _hz(np.concatenate(blocks)[:, 0]) == pytest.approx(hz, abs=2)


def test_a_sound_track_that_is_not_there_is_refused(bilingual):
    with pytest.raises(UsageError, match="track 3"):
        media.probe(bilingual, track=3)


def test_what_else_a_file_holds_is_named(bilingual):
    info = media.probe(bilingual)
    assert ([stream.kind for stream in info.others], info.num_chapters) == (["Subtitle"], 1)


@pytest.mark.parametrize("delay", [0.489, -0.3])
def test_picture_and_sound_of_a_transport_stream_share_one_clock(tmp_path, delay):
    """Read apart, each would begin at its own first packet: +489 ms became -32 ms."""
    path = tmp_path / "film.ts"
    picture = ["-f", "lavfi", "-i", "color=black:s=64x64:r=25:d=3,drawbox=c=white:t=fill:enable='between(n,25,27)'"]
    sound = ["-f", "lavfi", "-i", "aevalsrc='sin(2*PI*900*t)*between(t,1,1.1)':d=3:s=48000"]
    late, early = (sound, picture) if delay > 0 else (picture, sound)
    _ffmpeg(*early, "-itsoffset", abs(delay), *late, "-c:v", "mpeg2video", "-c:a", "mp2", path)
    info = media.probe(path)
    frames = media.frames(path, info, frame_rate=info.frame_rate, height=64, width=64)
    flash = next(index for index, frame in enumerate(frames) if frame.mean() > 150) / float(info.frame_rate)
    blocks = list(media.sound(path, sample_rate_hz=48000, channels=1, has_picture=True))
    click = np.flatnonzero(np.abs(np.concatenate(blocks)[:, 0]) > 0.2)[0] / 48000
    assert click - flash == pytest.approx(delay, abs=0.045)  # a frame is 40 ms


@pytest.mark.parametrize(("size", "matrix"), [("1280x720", "bt709"), ("320x180", "smpte170m")])
def test_colours_without_a_tag_are_read_as_cameras_of_that_size_mean_them(tmp_path, size, matrix):
    """HD without a tag was read as BT.601: the whole film 29 of 255 off."""
    path, none = (
        tmp_path / "film.mp4",
        "h264_metadata=matrix_coefficients=2:colour_primaries=2:transfer_characteristics=2",
    )
    picture = (
        f"color=0xC83264:s={size}:r=25:d=0.4,format=gbrp,scale=out_color_matrix={matrix}:out_range=tv,format=yuv444p"
    )
    _ffmpeg("-f", "lavfi", "-i", picture, "-c:v", "libx264", "-qp", 1, "-bsf:v", none, path)
    width, height = map(int, size.split("x"))
    info = media.probe(path)
    assert info.matrix == ("bt709" if height >= 720 else "")
    frame = next(media.frames(path, info, frame_rate=info.frame_rate, height=height, width=width))
    assert frame.mean(axis=(0, 1)) == pytest.approx([200, 50, 100], abs=3)


def test_colours_with_a_tag_are_read_by_it(tmp_path):
    path = tmp_path / "film.mp4"
    _ffmpeg("-f", "lavfi", "-i", "color=red:s=1280x720:r=25:d=0.2", "-colorspace", "smpte170m", path)
    assert media.probe(path).matrix == ""


def test_slow_motion_keeps_its_rate(tmp_path):
    path = tmp_path / "film.mp4"
    _ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x64:r=240:d=0.5", path)
    assert media.probe(path).frame_rate == 240


def test_sound_beyond_the_picture_is_measured(tmp_path):
    path = tmp_path / "film.mkv"
    _ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc=s=64x64:r=25:d=1",
        "-f",
        "lavfi",
        "-i",
        "sine=d=3:r=16000",
        "-c:a",
        "pcm_s16le",
        path,
    )
    info = media.probe(path)
    assert (info.seconds, info.sound_seconds) == (pytest.approx(1), pytest.approx(3, abs=0.02))


def test_a_pipe_and_a_long_name_are_called_what_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableMediaError, match="a pipe or device"):
        media.probe(tmp_path / "pipe")
    with pytest.raises(UnreadableMediaError, match="a pipe or device"):
        media.probe("-")
    with pytest.raises(UnreadableMediaError, match="name is too long"):
        media.probe(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("container", "media_type"),
    [
        ("mp4", "video/mp4"),
        ("mov", "video/quicktime"),
        ("matroska", "video/x-matroska"),
        ("webm", "video/webm"),
        ("avi", "video/x-msvideo"),
        ("mpegts", "video/mp2t"),
        ("mpeg", "video/mpeg"),
        ("flv", "video/x-flv"),
        ("asf", "video/x-ms-asf"),
        ("nut", "application/octet-stream"),
    ],
)
def test_a_file_has_the_media_type_of_its_container_whatever_its_name(container, media_type, tmp_path):
    codec = {"webm": "libvpx", "flv": "flv", "mpeg": "mpeg2video"}.get(container, "mpeg4")
    picture = ["-f", "lavfi", "-i", "color=s=32x32:r=25:d=0.2", "-c:v", codec, "-f", container]
    subprocess.run([media.executable(), "-v", "error", *picture, tmp_path / "film"], check=True)
    assert media.media_type_of(tmp_path / "film") == media_type
