"""Pictures of the card: clips frame by frame, their sound, the curves of training, and a dub beside its source.

Axes: F frames, H rows, W columns, C colours, N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dubmill.clips import Clip
from dubmill.media import mp4_bytes
from dubmill.report.stills import sampled

_ZOOM = 2
_BAND = 20  # pixels of text above a picture
_GAP = 8


@dataclass(frozen=True)
class Shown:
    """A clip and what is said of it."""

    told: str
    clip: Clip


def contact_sheet(rows: Sequence[Shown], path: Path) -> None:
    """A row of frames per clip, its name on the left."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(rows), 1, figsize=(11, 0.95 * len(rows)))
    for axis, row in zip(axes, rows, strict=True):
        frames_FHWC = row.clip.frames_FHWC[sampled(row.clip.num_frames)]
        axis.imshow(np.concatenate(list(frames_FHWC), axis=1), interpolation="nearest")
        _bare(axis, row.told)
    _save(figure, path)


def spectrograms(rows: Sequence[Shown], path: Path) -> None:
    """A log-mel spectrogram per clip, low notes at the bottom, as the scorers hear it."""
    import torch
    from matplotlib import pyplot

    from dubmill.metrics.speech import hearing
    from dubmill.nano.mel import log_mel

    figure, axes = pyplot.subplots(len(rows), 1, figsize=(11, 0.95 * len(rows)))
    for axis, row in zip(axes, rows, strict=True):
        mel_TM = log_mel(torch.from_numpy(np.ascontiguousarray(hearing(row.clip)))[None])[0].numpy()
        axis.imshow(mel_TM.T, origin="lower", aspect="auto", cmap="magma", vmin=-9, vmax=0.5)
        _bare(axis, row.told)
    _save(figure, path)


def curves(training: Mapping[str, Mapping], path: Path) -> None:
    """What each part was measured at while it was trained, on held-out clips."""
    from matplotlib import pyplot

    drawn = [(part, figure) for part, told in training.items() for figure in told["shown"]]
    figure, axes = pyplot.subplots(2, -(-len(drawn) // 2), figsize=(13, 5))
    for axis, (part, name) in zip(axes.flat, drawn, strict=False):
        steps, values = zip(*training[part]["curve"][name], strict=True)
        axis.plot(steps, values, marker=".")
        axis.set_title(f"{part}: {name}", fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(drawn) :]:
        axis.axis("off")
    _save(figure, path)


def _bare(axis, told: str) -> None:  # noqa: ANN001 (matplotlib's)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_ylabel(told, rotation=0, ha="right", va="center", fontsize=8)
    for side in axis.spines.values():
        side.set_visible(False)


def _save(figure, path: Path) -> None:  # noqa: ANN001 (matplotlib's)
    from matplotlib import pyplot

    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def side_by_side(shown: Sequence[Shown], heard: Sequence[int], movie: Path, preview: Path) -> None:
    """The clips beside each other, played once for each of `heard` with the sound of that one, its name lit.

    `movie` is an MP4 with sound, `preview` an animated WebP without.
    """
    frames = [frame for sounding in heard for frame in _panels(shown, sounding)]
    audio_CN = np.concatenate([shown[sounding].clip.audio_CN for sounding in heard], axis=1)
    first = shown[0].clip
    movie.write_bytes(mp4_bytes(Clip(np.stack(frames), Fraction(first.frame_rate), audio_CN, first.sample_rate_hz)))
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(
        preview,
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / float(first.frame_rate)),
        loop=0,
        quality=70,
    )


def _panels(shown: Sequence[Shown], sounding: int) -> list[np.ndarray]:
    _, height, width, _ = shown[0].clip.frames_FHWC.shape
    side = width * _ZOOM + _GAP
    frames = []
    for index in range(shown[0].clip.num_frames):
        canvas = Image.new("RGB", (side * len(shown) - _GAP, height * _ZOOM + _BAND), "white")
        pen = ImageDraw.Draw(canvas)
        for place, one in enumerate(shown):
            picture = Image.fromarray(one.clip.frames_FHWC[index])
            canvas.paste(
                picture.resize((width * _ZOOM, height * _ZOOM), Image.Resampling.NEAREST), (place * side, _BAND)
            )
            sign = "> " if place == sounding else ""
            pen.text((place * side + 4, 4), sign + one.told, fill="black" if place == sounding else "grey")
        frames.append(np.asarray(canvas))
    return frames
