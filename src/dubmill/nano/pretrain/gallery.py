"""A contact sheet and its sound, to look at and to hear."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from dubmill.nano import card, sampling, weights
from dubmill.nano.captions import caption
from dubmill.nano.mel import log_mel
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.sheets import save_mels, save_rows
from dubmill.nano.world import SAMPLE_RATE_HZ


def write(out: Path, *, num_clips: int = 4) -> None:
    """For each of some unseen puppets: its film, the round trip, and what the base makes of the caption."""
    from scipy.io import wavfile

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        weights.materialize(Path(scratch) / "folder")
        pipeline = sampling.load(Path(scratch) / "folder")
    takes = data.held_out_takes(num_clips)
    captions = [caption(one.puppet.describe(), one.film.phrases) for one in takes]
    made = zip(*sampling.generate(pipeline, captions, seed=0), strict=True)
    rows, mels = [], []
    for index, (one, worn, new) in enumerate(zip(takes, card.round_trip(pipeline, takes), made, strict=True)):
        for name, (frames, audio) in (
            ("world", (one.film.frames_FHWC, one.film.audio_N)),
            ("trip", worn),
            ("base", new),
        ):
            rows.append(torch.from_numpy(frames[::2]).permute(3, 0, 1, 2).float() / 127.5 - 1)
            mels.append(log_mel(torch.from_numpy(np.ascontiguousarray(audio))[None])[0])
            wavfile.write(out / f"{index}-{name}.wav", SAMPLE_RATE_HZ, audio)
    save_rows(rows, out / "sheet.png")
    save_mels(mels, out / "mels.png", zoom=2)
    (out / "captions.txt").write_text("\n".join(captions) + "\n")
