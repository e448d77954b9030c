"""Recording: words are cut where their symbols say, events follow the sound, and every speaker is another one."""

from __future__ import annotations

import numpy as np
import pytest

from dubmill.nano import lexicon, splits
from dubmill.nano.recording import recogniser, record, session, voices
from dubmill.nano.recording.kokoro import SAMPLE_RATE_HZ, Speech

SAID = {"one": "wˌʌn", "five": "fˈIv"}


class Tones:
    """Stands in for Kokoro: symbols of 50 ms at speed 1, each with its own tone, rests silent, all of it `lag` early."""

    def __init__(self) -> None:
        self.voices = {speaker.own: np.zeros((510, 256), np.float32) for speaker in voices.SPEAKERS}
        self.calls: list[tuple[str, float, float]] = []

    def say(self, symbols: str, style_256: np.ndarray, *, speed: float = 1.0, pitch_scale: float = 1.0) -> Speech:
        self.calls.append((symbols, speed, pitch_scale))
        seconds = 0.05 / speed
        starts = tuple(0.1 + seconds * place for place in range(len(symbols) + 1))
        at_N = np.arange(round((starts[-1] + 0.1) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ + record._LAG_SECONDS
        place_N = np.clip(np.searchsorted(starts, at_N, side="right") - 1, 0, len(symbols) - 1)
        loud = np.array([symbol not in " .,ˈˌ" for symbol in symbols])
        is_said_N = (at_N > starts[0]) & (at_N < starts[-1])
        wave_N = np.where(loud[place_N] & is_said_N, 0.3 * np.sin(2 * np.pi * (300 + 40 * place_N) * at_N), 0)
        return Speech(wave_N.astype(np.float32), symbols, starts, 100.0)


@pytest.fixture
def said(monkeypatch) -> dict[str, str]:
    monkeypatch.setattr(record, "symbols", lambda language, word: SAID[word])
    return SAID


@pytest.mark.parametrize("formants", [1.0, 0.85, 1.15])
def test_words_are_cut_where_their_symbols_say(said, formants: float):
    speaker = voices.Speaker(voices.BRIDGE, 1.0, 120, formants)
    takes = record.Booth(Tones()).record(speaker, "en", ("one", "five"))
    for word, take in takes.items():
        is_loud = np.abs(take.wave_N) > 0.02
        spoken = is_loud.nonzero()[0]
        asked = 0.05 * (len(SAID[word]) - 1)  # the stress mark is silent
        assert (spoken[-1] - spoken[0]) / SAMPLE_RATE_HZ == pytest.approx(asked, abs=0.06)
        assert len(take.wave_N) / SAMPLE_RATE_HZ == pytest.approx(0.05 * len(SAID[word]) + 0.05, abs=0.03)
        assert np.sqrt((take.wave_N**2).mean()) == pytest.approx(lexicon.WORD_RMS, rel=0.05)


def test_phonemes_keep_their_times_and_a_stress_mark_lends_its_own(said):
    takes = record.Booth(Tones()).record(voices.SPEAKERS[9], "en", ("one", "five"))
    starts = {ipa: start for start, ipa in takes["five"].phonemes}
    assert list(starts) == ["f", "aɪ", "v"]
    symbol_seconds = 0.05 / record._FIRST_SPEED
    assert starts["aɪ"] - starts["f"] == pytest.approx(symbol_seconds, abs=0.002)
    assert starts["v"] - starts["aɪ"] == pytest.approx(2 * symbol_seconds, abs=0.002)


def test_the_pitch_of_a_speaker_is_asked_for_whatever_the_mixture_says(said):
    tones = Tones()
    speaker = voices.Speaker(voices.BRIDGE, 1.0, 150, 0.9)
    record.Booth(tones).record(speaker, "en", ("one", "five"))
    assert tones.calls[0][2] == 1.0
    assert tones.calls[1][2] == pytest.approx(150 / (100 * 0.9))


def test_a_word_that_is_too_long_is_said_again_faster(monkeypatch):
    monkeypatch.setattr(record, "symbols", lambda language, word: {"one": "wʌn", "long": "a" * 14}[word])
    tones = Tones()
    takes = record.Booth(tones).record(voices.Speaker(voices.BRIDGE, 1.0, 100, 1.0), "en", ("one", "long"))
    assert list(takes) == ["one", "long"]
    assert len(takes["long"].wave_N) / SAMPLE_RATE_HZ <= record.MAX_WORD_SECONDS
    again = [(symbols, speed) for symbols, speed, _ in tones.calls[2:]]
    assert again, "it was too long at first"
    assert all("wʌn" not in symbols and speed > 1 for symbols, speed in again)


def test_speakers_are_many_and_each_is_another():
    shipped = voices.SPEAKERS[: splits.NUM_VOICES]
    assert len(shipped) == 24
    assert len({speaker.own for speaker in shipped}) == 24
    assert len({(speaker.pitch_hz, speaker.formants) for speaker in shipped}) == 24
    assert all(75 < speaker.pitch_hz < 280 and 0.8 < speaker.formants < 1.2 for speaker in shipped)


def test_a_session_is_sealed_as_a_lexicon_and_read_again(tmp_path):
    rng = np.random.default_rng(0)
    takes = {
        f"{language}/{word}": record.Take((0.1 * rng.normal(size=4800)).astype(np.float32), ((0.02, "m"), (0.1, "aɪ")))
        for language, words in lexicon.LANGUAGES.items()
        for word in words
    }
    session._keep(takes, tmp_path / "3.npz")
    session.seal_takes(tmp_path, tmp_path / "lexicon.safetensors")
    words = lexicon.lexicon(tmp_path / "lexicon.safetensors")
    assert set(words) == {(tag, 3, word) for tag, said in lexicon.LANGUAGES.items() for word in said}
    kept, read = takes["de/acht"], words["de", 3, "acht"]
    noise = read.wave_N - kept.wave_N
    assert 10 * np.log10((kept.wave_N**2).mean() / (noise**2).mean()) > 30
    assert [shape[0] for _, shape in read.visemes] == [0.0, 1.0, 0.35]


def test_the_noise_of_storage_lies_where_speech_is(tmp_path):
    """What the mu-law adds is weaker above 6 kHz than below 3 kHz, where speech covers it."""
    tone_N = (0.3 * np.sin(2 * np.pi * 200 * np.arange(24000) / 24000)).astype(np.float32)
    noise_N = lexicon._expanded(lexicon._compressed(tone_N)) - tone_N
    power_K = np.abs(np.fft.rfft(noise_N)) ** 2
    assert power_K[6000:].mean() < 0.3 * power_K[:3000].mean()


@pytest.mark.parametrize(
    ("heard", "missed"),
    [("0, 3, 6, 9, 2", 0), ("Zero three six nine two.", 0), ("03692", 0), ("zero tree six nine two", 1), ("", 5)],
)
def test_words_missed_are_counted_however_a_transcript_spells_them(heard: str, missed: int):
    digits = lexicon.LANGUAGES["en"]
    said = [digits[place] for place in (0, 3, 6, 9, 2)]
    assert recogniser.edits(recogniser.spelled(heard, digits), said) == missed
