"""The picture of a dubbed film: which pixels change, in which format it comes back, and how smoothly the dub moves."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from doubles.dubbers import EchoDubber
from doubles.faces import RedDetector
from doubles.films import ffmpeg, open_film

from dubmill import media
from dubmill.dubbing import longform
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.longform import FilmJob
from dubmill.dubbing.longform.label import label_layer
from dubmill.faces import NO_DETECTION, FaceMasker
from dubmill.text.subtitles import Cue

SIZE = ClipSize(num_frames=33, height=48, width=80, frame_rate=Fraction(25), sample_rate_hz=16000)
SIDE = 24  # of the red square that the detector takes for a face
CUES = [Cue(0.2, 1.2, "hola")]
HUM = ("-f", "lavfi", "-i", "aevalsrc=0.2*sin(2*PI*200*t)*(0.6+0.4*sin(9*t)):d=1.32:s=16000")


class Painter(EchoDubber):
    """A whole picture of one grey, which goes up and down twice a second; remembers the clips it was given."""

    def __init__(self):
        super().__init__()
        self.clips = []

    def dub(self, clip, **how):
        self.clips.append(clip)
        levels_F = grey(np.arange(clip.num_frames) / float(clip.frame_rate))
        frames = np.broadcast_to(np.rint(levels_F)[:, None, None, None], clip.frames_FHWC.shape).astype(np.uint8)
        return dataclasses.replace(super().dub(clip, **how), frames_FHWC=frames)


def grey(seconds):
    return 128 + 80 * np.sin(2 * np.pi * 2 * seconds)


def wide_shot(path, *, size="240x136", rate=25, options=("-c:v", "ffv1", "-pix_fmt", "yuv420p")):
    """A red square wanders through noise, 20 pixels a second to the right."""
    noise = f"color=gray:s={size}:r={rate}:d=1.32,noise=c0s=30:c0f=t:c0_seed=7"
    square = f"color=red:s={SIDE}x{SIDE}:r={rate}:d=1.32"
    graph = "[0][1]overlay=x=40+20*t:y=76:format=yuv444"
    inputs = ["-f", "lavfi", "-i", noise, "-f", "lavfi", "-i", square]
    ffmpeg(*inputs, *HUM, "-filter_complex", graph, *options, "-c:a", "pcm_s16le", path)
    return path


def dubbed(source, out, dubber=None, masker=None, **job):
    masker = masker or FaceMasker(RedDetector(), "")
    job = FilmJob(dubber or Painter(), "es", 0, "release", masker, "", **job)
    return longform.dub_film(open_film(source, SIZE), CUES, job, out, metadata={}, progress=lambda share: None)


def planes(path):
    """Y, U and V (F, H, W) as the decoder gives them."""
    info = media.probe(path)
    frames = [info.layout.planes(frame) for frame in media.film_frames(path, info, info.layout)]
    return [np.stack(plane) for plane in zip(*frames, strict=True)]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le"])
def test_outside_the_mask_no_value_of_the_film_changes(tmp_path, pixel_format):
    """Counted on a lossless codec: Y, U and V outside the face with its margin, at the film's own size and depth."""
    source = wide_shot(tmp_path / "in.mkv", options=("-c:v", "ffv1", "-pix_fmt", pixel_format))
    made = dubbed(source, tmp_path / "out.mkv")
    assert made.notes == ()
    before, after = planes(source), planes(tmp_path / "out.mkv")
    assert [one.dtype.itemsize for one in after] == [1 if pixel_format == "yuv420p" else 2] * 3
    for was, now in zip(before, after, strict=True):
        scale_y, scale_x = was.shape[1] / 136, was.shape[2] / 240
        margin, num_changed = 0.4 * SIDE + 3, 0
        for frame in range(len(was)):
            left = 40 + 20 * frame / 25
            rows = slice(int((76 - margin) * scale_y), int((76 + SIDE + margin) * scale_y) + 1)
            columns = slice(int((left - margin) * scale_x), int((left + SIDE + margin) * scale_x) + 1)
            is_changed = was[frame] != now[frame]
            num_changed += is_changed[rows, columns].sum()
            is_changed[rows, columns] = False
            assert is_changed.sum() == 0
        assert num_changed > 0.3 * SIDE**2 * scale_x * scale_y * len(was)


def test_a_small_face_gets_a_crop_of_its_own_that_stands_still(tmp_path):
    """A square of 24 in 136 lines would have 8 of the model's 48; in the crop it has more, and the crop has one place."""
    painter = Painter()
    dubbed(wide_shot(tmp_path / "in.mkv"), tmp_path / "out.mkv", painter)
    (clip,) = painter.clips
    assert clip.frames_FHWC.shape[1:] == (48, 80, 3)
    faces = RedDetector().detect(clip.frames_FHWC[:30])
    heights = [face.box_4[3] - face.box_4[1] for (face,) in faces]
    lefts = np.array([face.box_4[0] for (face,) in faces])
    assert min(heights) > 11
    assert np.diff(lefts).min() > -1.5
    assert lefts[-1] - lefts[0] > 12  # the square wanders through the crop, which does not follow it


def test_each_shot_has_a_crop_of_its_own(tmp_path):
    """The face jumps from left to right in the middle of a chunk; the crop jumps with it, and its size stays."""
    for name, x in (("one", 20), ("two", 270)):
        square = f"color=red:s={SIDE}x{SIDE}:r=25:d=0.7"
        back = f"color={'white' if x > 99 else 'black'}:s=320x180:r=25:d=0.7"
        graph = f"[0][1]overlay=x={x}:y=80"
        inputs = ["-f", "lavfi", "-i", back, "-f", "lavfi", "-i", square]
        ffmpeg(*inputs, "-filter_complex", graph, "-c:v", "ffv1", "-pix_fmt", "yuv420p", tmp_path / f"{name}.mkv")
    join = "[0][1]concat=n=2:v=1[v]"
    parts = ["-i", tmp_path / "one.mkv", "-i", tmp_path / "two.mkv"]
    codecs = ["-map", "[v]", "-map", "2:a", "-c:v", "ffv1", "-c:a", "pcm_s16le"]
    ffmpeg(*parts, *HUM, "-filter_complex", join, *codecs, tmp_path / "in.mkv")
    painter = Painter()
    film = open_film(tmp_path / "in.mkv", SIZE)
    chunk = longform.Chunk(0, 33, (0, 0), (33, 33), "hola", ((0.2, 1.2),))
    job = FilmJob(painter, "es", 0, "release", FaceMasker(RedDetector(), ""), "")
    masks = longform.chunk_dubs.chunk_masks(film, [chunk], job, longform.FilmStore(tmp_path))
    (crop,) = longform.chunk_dubs.chunk_crops(film, [chunk], masks, film.analyze().shots, "face")
    assert [first for first, *_ in crop.places] == [0, 18]
    (_, _, left), (_, _, right) = crop.places
    assert left <= 20 < 44 <= left + crop.width < right <= 270 < 294 <= right + crop.width


@pytest.mark.parametrize(("picture", "is_changed"), [("whole", True), ("keep", False)])
def test_the_whole_picture_of_the_dub_or_none_of_it_is_shown_when_asked(tmp_path, picture, is_changed):
    source = wide_shot(tmp_path / "in.mkv")
    dubbed(source, tmp_path / "out.mkv", picture=picture)
    (was, *_), (now, *_) = planes(source), planes(tmp_path / "out.mkv")
    assert (was[15] != now[15]).mean() == pytest.approx(0.9 if is_changed else 0.0, abs=0.1)
    sounds = [media.read(path, frame_rate=None, sample_rate_hz=16000).mono_N for path in (source, tmp_path / "out.mkv")]
    assert (sounds[0] != sounds[1]).any()


@pytest.mark.parametrize("rate", [25, 50, 60, Fraction(24000, 1001)])
def test_the_dub_moves_as_smoothly_as_the_film(tmp_path, rate):
    """The dub's grey is a sine at 25 frames a second. Held frames would be off by up to 20 at 50 or 60 a second."""
    source = wide_shot(tmp_path / "in.mkv", rate=rate)
    (chunk,) = dubbed(source, tmp_path / "out.mkv", masker=NO_DETECTION).chunks
    info = media.probe(tmp_path / "out.mkv")
    frames = media.frames(tmp_path / "out.mkv", info, frame_rate=info.frame_rate, height=136, width=240)
    levels_F = np.array([frame[40:90, 90:150].mean() for frame in frames])
    seconds_F = np.arange(len(levels_F)) / float(rate) - chunk.first / 25
    inner = (seconds_F > 0.2) & (seconds_F < 1.1)
    error_F = np.abs(levels_F - grey(seconds_F))[inner]
    assert error_F.max() < (21 if rate not in (25, 50, 60) else 4)  # at 24 the nearest frame is up to 20 ms away
    assert error_F.mean() < (10 if rate not in (25, 50, 60) else 2)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le"])
def test_a_label_is_burned_in_where_it_is_wanted_and_changes_nothing_else(tmp_path, pixel_format):
    source = wide_shot(tmp_path / "in.mkv", options=("-c:v", "ffv1", "-pix_fmt", pixel_format))
    job = FilmJob(EchoDubber(), "es", 0, "release", NO_DETECTION, "", picture="keep")
    how = {"metadata": {}, "progress": lambda share: None, "quality": 0}
    film = open_film(source, SIZE)
    frames = {}
    for has_label in (False, True):
        longform.dub_film(film, CUES, job, tmp_path / "out.mkv", has_label=has_label, **how)
        frames[has_label] = media.read(tmp_path / "out.mkv", frame_rate=None, sample_rate_hz=16000).frames_FHWC.astype(
            int
        )
    change_HW = np.abs(frames[True] - frames[False]).mean(axis=(0, 3))
    label = label_layer(media.Layout(pixel_format, 136, 240))
    assert change_HW[label.rows, label.columns][label.weight_HW == 1].mean() > 60
    change_HW[: label.rows.stop + 8, : label.columns.stop + 8] = 0  # the codec's blocks around it
    assert change_HW.max() < 4
