"""Stand-ins for the model: what `dubmill.dubbing.clip_dubber.ClipDubber` promises, in milliseconds."""

import dataclasses
import os
import time
from pathlib import Path

import numpy as np

from dubmill import media
from dubmill.errors import UnsupportedTextError

HELD = "DUBMILL_TEST_HELD"  # names a file: while it exists, ToneDubber does not finish the text 'lento'


class ToneDubber:
    """The same picture under a tone that the seed picks."""

    def dub(self, clip, *, line, seed, progress=None, speaker=""):
        if line.text == "indecible":
            raise UnsupportedTextError("'indecible' is not a word of this backbone", cure="use a digit")
        while line.text == "lento" and Path(os.environ[HELD]).exists():
            time.sleep(0.02)
            if progress is not None:
                progress(0.5)
        times = np.arange(clip.audio_CN.shape[1]) / clip.sample_rate_hz
        return clip.with_audio(0.3 * np.sin(2 * np.pi * (300 + 100 * seed) * times)[None].astype(np.float32))

    def dub_batch(self, clips, lines, seeds, progress=None, *, speakers=()):
        return [
            self.dub(clip, line=line, seed=seed, progress=progress)
            for clip, line, seed in zip(clips, lines, seeds, strict=True)
        ]

    def quick_dub(self, clip, **how):
        return self.dub(clip, **how), 0.5

    def check(self, line, room_seconds):
        return ""

    def detach(self):
        pass


def tone_hz(mp4):
    """The frequency of the tone in a dub by `ToneDubber`: 300 + 100 times the seed."""
    sound = media.read(mp4, frame_rate=None, sample_rate_hz=16000).mono_N
    return np.argmax(np.abs(np.fft.rfft(sound))) * 16000 / len(sound)


class SilentDubber(ToneDubber):
    """A broken model: its dubs are silent."""

    def dub(self, clip, *, line, seed, progress=None, speaker=""):
        return clip.with_audio(np.zeros_like(clip.audio_CN))


class EchoDubber:
    """The same sound, half as loud, and the same picture with a green corner; remembers the texts it dubbed."""

    def __init__(self, *, dies_after=10**9):
        self.texts, self.dies_after = [], dies_after

    def dub(self, clip, *, line, seed, progress=None, speaker=""):
        if len(self.texts) == self.dies_after:
            raise KeyboardInterrupt
        self.texts.append(line.text)
        frames = clip.frames_FHWC.copy()
        frames[:, -8:, -8:] = (0, 255, 0)
        if progress is not None:
            progress(1.0)
        return dataclasses.replace(clip, frames_FHWC=frames).with_audio(clip.audio_CN / 2)

    def check(self, line, room_seconds):
        return ""
