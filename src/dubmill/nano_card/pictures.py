"""Pictures of the card: contact sheet, spectrograms, training curves, and a video of a dub beside its source.

Axes: F frames, H rows, W columns, C colours, N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from dubmill.media import mp4_bytes
from dubmill.media.clips import Clip
from dubmill.report.stills import sampled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ZOOM = 2
_LABEL_PIXELS = 20  # height of the label above a picture
_GAP = 8


@dataclass(frozen=True)
class LabelledClip:
    """A clip and its label in a picture."""

    label: str
    clip: Clip


def labelled_rows(rows: Sequence[LabelledClip], path: Path) -> None:
    """Draws a row of frames per clip, with the label on the left."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(rows), 1, figsize=(11, 0.95 * len(rows)))
    for axis, row in zip(axes, rows, strict=True):
        frames_FHWC = row.clip.frames_FHWC[sampled(row.clip.num_frames)]
        axis.imshow(np.concatenate(list(frames_FHWC), axis=1), interpolation="nearest")
        _label_only(axis, row.label)
    _save(figure, path)


def spectrograms(rows: Sequence[LabelledClip], path: Path) -> None:
    """Draws a log-mel spectrogram per clip as the scorers take it, low frequencies at the bottom."""
    import torch
    from matplotlib import pyplot

    from dubmill.nano.mel import nano_log_mel

    figure, axes = pyplot.subplots(len(rows), 1, figsize=(11, 0.95 * len(rows)))
    for axis, row in zip(axes, rows, strict=True):
        mel_TM = nano_log_mel(torch.from_numpy(np.ascontiguousarray(row.clip.mono_N))[None])[0].numpy()
        axis.imshow(mel_TM.T, origin="lower", aspect="auto", cmap="magma", vmin=-9, vmax=0.5)
        _label_only(axis, row.label)
    _save(figure, path)


def curves(training: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws the held-out figures of each part over its training steps."""
    from matplotlib import pyplot

    shown = [(part, name) for part, log in training.items() for name in log["shown"]]
    figure, axes = pyplot.subplots(2, -(-len(shown) // 2), figsize=(13, 5))
    for axis, (part, name) in zip(axes.flat, shown, strict=False):
        steps, values = zip(*training[part]["curve"][name], strict=True)
        axis.plot(steps, values, marker=".")
        axis.set_title(f"{part}: {name}", fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    _save(figure, path)


def _label_only(axis: Axes, label: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for side in axis.spines.values():
        side.set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def side_by_side(clips: Sequence[LabelledClip], audible: Sequence[int], movie: Path, preview: Path) -> None:
    """Writes a video of the clips beside each other, played once for each of `audible` with that clip's sound.

    The label of the audible clip is black. `movie` is an MP4 with sound, `preview` an animated WebP without.
    """
    frames = [frame for index in audible for frame in _panels(clips, index)]
    audio_CN = np.concatenate([clips[index].clip.audio_CN for index in audible], axis=1)
    first = clips[0].clip
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


def _panels(clips: Sequence[LabelledClip], audible: int) -> list[np.ndarray]:
    """Returns one picture per frame with all clips beside each other, each under its label."""
    _, height, width, _ = clips[0].clip.frames_FHWC.shape
    side = width * _ZOOM + _GAP
    frames = []
    for frame in range(clips[0].clip.num_frames):
        canvas = Image.new("RGB", (side * len(clips) - _GAP, height * _ZOOM + _LABEL_PIXELS), "white")
        pen = ImageDraw.Draw(canvas)
        for place, labelled in enumerate(clips):
            picture = Image.fromarray(labelled.clip.frames_FHWC[frame])
            enlarged = picture.resize((width * _ZOOM, height * _ZOOM), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (place * side, _LABEL_PIXELS))
            mark, colour = ("> ", "black") if place == audible else ("", "grey")
            pen.text((place * side + 4, 4), mark + labelled.label, fill=colour)
        frames.append(np.asarray(canvas))
    return frames
