"""One command's recording session: every speaker once, heard by a recogniser if there is one, sealed as the lexicon."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dubmill.nano.lexicon import LANGUAGES, seal
from dubmill.nano.recording.kokoro import Kokoro
from dubmill.nano.recording.record import Booth, Take
from dubmill.nano.recording.voices import SPEAKERS
from dubmill.nano.splits import HELD_OUT_VOICES, NUM_VOICES


def record(kokoro: Path, takes: Path, out: Path, *, whisper: Path | None) -> None:
    """Record the voices that `takes` does not hold yet, then write the lexicon of all of them to `out`.

    With `whisper`, `takes/understood.json` tells how many of ten words it missed, by voice and language.
    """
    takes.mkdir(parents=True, exist_ok=True)
    booth = None
    for voice in sorted(range(NUM_VOICES), key=_turn):
        if not _path(takes, voice).exists():
            speaker = SPEAKERS[voice]
            booth = booth or Booth(Kokoro(kokoro))
            said = {
                f"{language}/{word}": take
                for language, words in LANGUAGES.items()
                for word, take in booth.record(speaker, language, words).items()
            }
            _keep(said, _path(takes, voice))
    if whisper:
        _understand(takes, whisper)
    seal_takes(takes, out)


def seal_takes(takes: Path, out: Path) -> None:
    """The lexicon of the voices that are recorded."""
    sealed = {}
    for voice in range(NUM_VOICES):
        if _path(takes, voice).exists():
            for name, take in _kept(_path(takes, voice)).items():
                language, word = name.split("/")
                sealed[f"{language}/{voice}/{word}"] = take.wave_N, list(take.phonemes)
    seal(sealed, out)


def _understand(takes: Path, whisper: Path) -> None:
    from dubmill.nano.recording.recogniser import Recogniser

    recogniser, report = Recogniser(whisper), takes / "understood.json"
    missed: dict[str, int] = json.loads(report.read_text()) if report.exists() else {}
    for voice in range(NUM_VOICES):
        for language, words in LANGUAGES.items():
            place = f"{language}/{voice}"
            if place not in missed and _path(takes, voice).exists():
                said = _kept(_path(takes, voice))
                waves = [said[f"{language}/{word}"].wave_N for word in words]
                missed[place] = recogniser.words_missed(waves, words, language)
                report.write_text(json.dumps(missed, indent=1) + "\n")


def _turn(voice: int) -> tuple[bool, int]:
    """A trained and a held-out voice first, so that a session cut short has both."""
    return voice not in (0, HELD_OUT_VOICES[0]), voice


def _path(takes: Path, voice: int) -> Path:
    return takes / f"{voice}.npz"


def _keep(said: dict[str, Take], path: Path) -> None:
    tracks = json.dumps({name: take.phonemes for name, take in said.items()}, ensure_ascii=False)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, tracks=np.array(tracks), **{name: take.wave_N for name, take in said.items()})
    partial.rename(path)


def _kept(path: Path) -> dict[str, Take]:
    with np.load(path) as stored:
        tracks = json.loads(str(stored["tracks"]))
        return {
            name: Take(stored[name], tuple((start, ipa) for start, ipa in phonemes))
            for name, phonemes in tracks.items()
        }
