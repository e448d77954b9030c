"""nano's scorers: measure words, voice, face, mouth and sync of a puppet clip from its pixels and its waveform.

They were trained on rendered clips alone, and none of them was used to train the backbone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from dubmill.nano import scorer_nets as nets
from dubmill.nano.mel import nano_log_mel
from dubmill.nano.puppets import FRAME_RATE
from dubmill.nano.room import FRAME_SIZE

MAX_OFFSET_FRAMES = 5
_MIN_RUN = 3
"""Shortest word, in frames of 20 ms."""
_MAX_BREAK = 4
"""Longest gap inside one word, in frames; gaps between words are longer, since only the middle half of a word is labelled."""

_LOUD, _MIN_LOUD_FRAMES = -1.0, 5
"""Mean of the scaled bands in speech (clean clips: 0.1 in words, under -1.4 between them), and for how long."""


class NanoScorers:
    """Recognisers and embedding networks for puppet clips, on NumPy arrays.

    Frames are uint8 RGB (F, H, W, 3) at 12.5 fps; audio is float32 (N,) in [-1, 1] at 16 kHz.
    """

    def __init__(self, networks: nets.ScorerNets) -> None:
        self.missing: dict[str, str] = {}
        self._nets = networks.eval().requires_grad_(False)

    def troubles(self, frames_FHWC: np.ndarray, audio_N: np.ndarray) -> list[str]:
        """Returns an empty list: every puppet clip shows one face."""
        return []

    def prepare(self, frames_FHWC: np.ndarray, audio_N: np.ndarray) -> None:
        """Nothing to begin: the networks are small."""

    @torch.no_grad()
    def words(self, audio_N: np.ndarray) -> list[tuple[str, str]]:
        """Returns the recognised `(language, word)`s in time order; none for silence."""
        chances_CT = torch.softmax(self._nets.words(_speech(audio_N))[0], dim=0).numpy()
        runs: list[tuple[int, int, int]] = []
        for first, last in _runs(chances_CT.argmax(0) != nets.BLANK):
            word = int(chances_CT[: nets.BLANK, first:last].sum(1).argmax())
            if runs and runs[-1][0] == word and first - runs[-1][2] <= _MAX_BREAK:
                first = runs.pop()[1]
            runs.append((word, first, last))
        return [nets.CLASSES[word] for word, first, last in runs if last - first >= _MIN_RUN]

    @torch.no_grad()
    def voice(self, audio_N: np.ndarray) -> np.ndarray:
        """Returns a unit vector of the speaker's voice; zeros where nobody speaks."""
        mel_BMT = _speech(audio_N)
        embedding = self._nets.voice(mel_BMT)[0].numpy()
        is_said = (mel_BMT[0].mean(0) > _LOUD).sum() >= _MIN_LOUD_FRAMES
        return embedding if is_said else np.zeros_like(embedding)

    @torch.no_grad()
    def identity(self, frames_FHWC: np.ndarray) -> np.ndarray:
        """Returns a unit vector of the face: the mean over frames."""
        mean_E = self._nets.face(_frames(frames_FHWC)).mean(0)
        return (mean_E / mean_E.norm()).numpy()

    @torch.no_grad()
    def mouth(self, frames_FHWC: np.ndarray) -> np.ndarray:
        """Returns (F, 5): opening 0..1, and the mouth box x0, y0, x1, y1 in pixels."""
        seen_F5 = self._nets.mouth(_frames(frames_FHWC)).numpy()
        seen_F5[:, 1:] *= FRAME_SIZE
        return seen_F5

    @torch.no_grad()
    def speech_opening(self, audio_N: np.ndarray, num_frames: int, frame_rate: float = FRAME_RATE) -> np.ndarray:
        """Returns (F,): the mouth opening 0..1 estimated from the sound; the last value is repeated where the sound ends early."""
        opening_F = self._nets.opening(_speech(audio_N))[0].numpy()
        return np.pad(opening_F, (0, max(0, num_frames - len(opening_F))), mode="edge")[:num_frames]

    @torch.no_grad()
    def sync_distances(
        self, frames_FHWC: np.ndarray, audio_N: np.ndarray, frame_rate: float = FRAME_RATE
    ) -> np.ndarray:
        """Returns (2 K + 1,): the mean distance of picture and sound embeddings with the sound shifted by -K..K frames.

        LSE-D is the minimum, LSE-C the median less the minimum, the offset its place less K (Chung and Zisserman, 2016).
        """
        num_frames = len(frames_FHWC)
        picture_FE = self._nets.sync.see(nets.mouth_windows(_frames(frames_FHWC).transpose(0, 1)[None])[0])
        sound_FE = self._nets.sync.hear(nets.speech_windows(_speech(audio_N), num_frames)[0])
        distance_FF = torch.cdist(picture_FE, sound_FE)
        offsets = range(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1)
        return np.array([distance_FF.diagonal(offset).mean().item() for offset in offsets])


def load_scorers(folder: Path) -> NanoScorers:
    """Returns the scorers of an unpacked folder, or of its sub-folder `scorers`."""
    networks = nets.ScorerNets()
    networks.load_state_dict(load_file(next(Path(folder).rglob("scorers.safetensors"))))
    return NanoScorers(networks)


def _speech(audio_N: np.ndarray) -> torch.Tensor:
    """Returns the mel bands of speech (1, M, T)."""
    return nets.speech_mel(nano_log_mel(torch.from_numpy(np.ascontiguousarray(audio_N, np.float32))[None]))


def _frames(frames_FHWC: np.ndarray) -> torch.Tensor:
    """Returns frames (F, C, h, w) in [-1, 1] at the size that the networks see."""
    frames_FCHW = torch.from_numpy(np.ascontiguousarray(frames_FHWC)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return nets.shrunk(frames_FCHW)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Returns the half-open spans where `flags` is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
