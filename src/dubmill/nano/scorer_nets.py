"""The networks of nano's scorers: small convolutions over log-mel frames and over pixels.

Axes: B clips, T mel frames (100 a second), M mel bands, F film frames (12.5 a second), C channels, H rows, W columns,
E numbers of an embedding.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from dubmill.nano.lexicon import LANGUAGES, VOICES

MEL_FRAMES_PER_FRAME = 8
SYNC_WINDOW = 5
CLASSES: tuple[tuple[str, str], ...] = tuple((tag, word) for tag, words in LANGUAGES.items() for word in words)
BLANK = len(CLASSES)

_SPEECH_BANDS = slice(4, 54)
"""Mel bands of speech, without the hum and the rising tone of the audible clock."""
SHRINK = 2
"""The pictures are averaged over squares of this side first."""
_MOUTH_ROWS, _MOUTH_COLUMNS = slice(28, 58), slice(12, 52)
_QUIET = -6.5


def speech_mel(mel_BTM: torch.Tensor) -> torch.Tensor:
    """Returns the mel bands of speech (B, M, T), scaled to about one."""
    return ((mel_BTM[:, :, _SPEECH_BANDS].clamp(min=_QUIET) + 3.5) / 2).transpose(1, 2)


NUM_BANDS = _SPEECH_BANDS.stop - _SPEECH_BANDS.start


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.conv = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.conv(functional.silu(self.norm(hidden)))


class WordNet(nn.Module):
    """Recognises words: log-mel (B, M, T) to class scores (B, classes + blank, T / 2)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(NUM_BANDS, width, 5, stride=2, padding=2), *(_Residual(width, dilation) for dilation in (1, 2, 4))
        )
        self.head = nn.Sequential(nn.SiLU(), nn.Conv1d(width, BLANK + 1, 1))

    def forward(self, mel_BMT: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(mel_BMT))


class VoiceNet(nn.Module):
    """Embeds voices: log-mel (B, M, T) to unit vectors (B, E); it is trained to classify the eight voices by `head`."""

    def __init__(self, width: int = 40, embedding: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(NUM_BANDS, width, 5, stride=2, padding=2), _Residual(width, 1), _Residual(width, 2)
        )
        self.attention = nn.Conv1d(width, 1, 1)
        self.project = nn.Linear(width, embedding)
        self.head = nn.Linear(embedding, len(VOICES), bias=False)

    def forward(self, mel_BMT: torch.Tensor) -> torch.Tensor:
        hidden = self.body(mel_BMT)
        weight = torch.softmax(self.attention(hidden), dim=2)
        return functional.normalize(self.project((hidden * weight).sum(2)), dim=1)


class OpeningNet(nn.Module):
    """Estimates the mouth opening (B, F) from log-mel (B, M, T)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(NUM_BANDS, width, 5, padding=2), *(_Residual(width, step) for step in (1, 2, 2))
        )
        self.head = nn.Sequential(nn.SiLU(), nn.Conv1d(width, 1, 1))

    def forward(self, mel_BMT: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(self.body(mel_BMT))[:, 0, ::MEL_FRAMES_PER_FRAME])


def _picture_body(channels: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for narrow, wide in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(4, wide), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(1))


class FaceNet(nn.Module):
    """Embeds faces: frames (B, C, H, W) to unit vectors (B, E)."""

    def __init__(self, embedding: int = 24) -> None:
        super().__init__()
        self.body = _picture_body((3, 16, 24, 40, 48))
        self.project = nn.Linear(48 * 16, embedding)

    def forward(self, frames_BCHW: torch.Tensor) -> torch.Tensor:
        return functional.normalize(self.project(self.body(frames_BCHW)), dim=1)


class MouthNet(nn.Module):
    """Finds mouths: frames (B, C, H, W) to (B, 5), the opening 0..1 and the mouth box as shares of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _picture_body((3, 16, 24, 32, 40))
        self.head = nn.Sequential(nn.Linear(40 * 16, 40), nn.SiLU(), nn.Linear(40, 5))

    def forward(self, frames_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(self.body(frames_BCHW)))


class SyncNet(nn.Module):
    """Embeds five frames of a mouth and 0.4 s of speech; the embeddings are near each other where both are in sync."""

    def __init__(self, embedding: int = 24) -> None:
        super().__init__()
        self.picture = nn.Sequential(_picture_body((3 * SYNC_WINDOW, 24, 32, 40)), nn.Linear(40 * 4 * 5, embedding))
        self.sound = nn.Sequential(
            nn.Conv1d(NUM_BANDS, 40, 5, stride=2, padding=2),
            nn.SiLU(),
            *(
                layer
                for _ in range(2)
                for layer in (nn.Conv1d(40, 40, 5, stride=2, padding=2), nn.GroupNorm(4, 40), nn.SiLU())
            ),
            nn.Flatten(1),
            nn.Linear(40 * 5, embedding),
        )

    def see(self, windows: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings (N, E) of mouth windows (N, C * 5, h, w)."""
        return functional.normalize(self.picture(windows), dim=1)

    def hear(self, windows: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings (N, E) of speech windows (N, M, 40)."""
        return functional.normalize(self.sound(windows), dim=1)


def shrunk(frames: torch.Tensor) -> torch.Tensor:
    """Returns frames (..., H, W) at the size that the networks see, each pixel the mean of a square."""
    return frames.unflatten(-1, (-1, SHRINK)).mean(-1).unflatten(-2, (-1, SHRINK)).mean(-2)


def mouth_windows(frames_BCFHW: torch.Tensor) -> torch.Tensor:
    """Returns (B, F, C * 5, h, w): the mouth region of the five frames around each frame; the first and last are repeated."""
    mouth = frames_BCFHW[:, :, :, _MOUTH_ROWS, _MOUTH_COLUMNS]
    reach = SYNC_WINDOW // 2
    padded = torch.cat([mouth[:, :, :1]] * reach + [mouth] + [mouth[:, :, -1:]] * reach, dim=2)
    windows = padded.unfold(2, SYNC_WINDOW, 1)  # B C F h w 5
    return windows.permute(0, 2, 1, 5, 3, 4).flatten(2, 3)


def speech_windows(mel_BMT: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Returns (B, F, M, 40): the speech around each frame; the first and last mel frames are repeated."""
    width = SYNC_WINDOW * MEL_FRAMES_PER_FRAME
    needed = (num_frames - 1) * MEL_FRAMES_PER_FRAME + width
    left = width // 2
    padded = functional.pad(mel_BMT, (left, max(0, needed - left - mel_BMT.shape[2])), mode="replicate")
    return padded.unfold(2, width, MEL_FRAMES_PER_FRAME)[:, :, :num_frames].permute(0, 2, 1, 3)


class ScorerNets(nn.Module):
    """All scorer networks in one module, so that they are trained, saved and loaded together."""

    def __init__(self) -> None:
        super().__init__()
        self.words = WordNet()
        self.voice = VoiceNet()
        self.opening = OpeningNet()
        self.face = FaceNet()
        self.mouth = MouthNet()
        self.sync = SyncNet()
