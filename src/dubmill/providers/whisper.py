"""Transcription by Whisper on this machine (faster-whisper): nothing is uploaded or downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dubmill.errors import UsageError
from dubmill.text.subtitles import Cue

FILES = ("model.bin", "config.json", "tokenizer.json")


class Whisper:
    """A loaded CTranslate2 Whisper model, on the GPU where there is one."""

    def __init__(self, folder: Path) -> None:
        """Load the model in `folder`.

        Raises:
            UsageError: faster-whisper is not installed, or the folder holds no such model.
        """
        try:
            from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports] (an extra of its own)
        except ImportError as error:
            raise UsageError(
                "faster-whisper is not installed", where="whisper", cure="pip install 'dubmill[transcribe]'"
            ) from error
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UsageError(
                f"there is no Whisper model ({', '.join(missing)} missing)",
                where=str(folder),
                cure="give --model the folder of a model converted for faster-whisper (CTranslate2)",
            )
        try:
            self._model = WhisperModel(str(folder), device="auto", compute_type="int8", local_files_only=True)
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"the Whisper model cannot be opened ({error})", where=str(folder), cure="convert or copy it again"
            ) from error

    def transcribe(self, audio_N: np.ndarray, *, language: str) -> list[Cue]:
        """Returns Whisper's transcription, one cue for each segment, from its first word's start to its last word's end."""
        segments, _ = self._model.transcribe(np.asarray(audio_N, np.float32), language=language, word_timestamps=True)
        cues = (Cue(float(segment.start), float(segment.end), segment.text.strip()) for segment in segments)
        return [cue for cue in cues if cue.text and cue.seconds > 0]
