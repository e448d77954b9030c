"""The words of a recording and their language, by Whisper (faster-whisper); nothing where nobody speaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dubmill.errors import InvalidArtifactError, UsageError
from dubmill.metrics.scorers import SAMPLE_RATE_HZ
from dubmill.text.languages import LANGUAGES
from dubmill.text.spelling import words_of

MAX_SECONDS = 28.0  # of speech at once: Whisper reads 30 s
ENOUGH_SECONDS = 2.0  # a piece as long as this ends at the next pause: Whisper may stop there and lose the rest
PAD_SECONDS = (5.0, 30.0)  # of silence behind it, in turn until a text is sure; with 3 s Whisper adds words
FULL_SECONDS = 30  # Whisper reads no more
MIN_LANGUAGE = 0.8  # probability of the language, below which the text is searched for in two languages
MIN_LOG_PROBABILITY, MAX_NO_SPEECH = -1.0, 0.6  # Whisper's own bounds of a text to be trusted
MAX_COMPRESSION = 1.4  # a sentence has 0.8 to 1.1 by zlib, said twice 1.7; Whisper's own bound, 2.4, is for three times
BEAMS = 5
TOKENS_PER_SECOND, MORE_TOKENS = 25, 10  # bound of a text, several times what people speak: repeats would go on
FAST_LOG_PROBABILITY = -0.25  # a text found without a beam that is less likely is searched for once more, with beams
FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.json")


def speech_spans(audio_N: np.ndarray) -> list[tuple[int, int]]:
    """Half-open spans of samples in which somebody speaks, by Silero's detector."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    spans = get_speech_timestamps(audio_N, VadOptions(min_silence_duration_ms=500, speech_pad_ms=200))
    return [(span["start"], span["end"]) for span in spans]


@dataclass(frozen=True)
class Reading:
    """A text with Whisper's confidence figures: mean log probability of a token, probability that nobody speaks, and how well it
    compresses."""

    text: str
    log_probability: float
    no_speech: float
    compression: float

    @property
    def is_repeating(self) -> bool:
        """Whether it says the same over and over, each time as likely as the most likely text."""
        return self.compression > MAX_COMPRESSION

    @property
    def is_sure(self) -> bool:
        """Whether it is likely and does not repeat itself."""
        return self.log_probability >= MIN_LOG_PROBABILITY and not self.is_repeating

    @property
    def rank(self) -> tuple[bool, float]:
        """Orders the readings of one piece, the best last."""
        return not self.is_repeating, self.log_probability

    @property
    def is_speech(self) -> bool:
        """Whether it is of speech at all."""
        return self.log_probability >= MIN_LOG_PROBABILITY or self.no_speech <= MAX_NO_SPEECH


class WordScorer:
    """A loaded recogniser."""

    def __init__(self, files: Mapping[str, bytes], *, num_threads: int) -> None:
        """Open a Whisper of CTranslate2's form from its files.

        Raises:
            UsageError: faster-whisper is not installed.
            InvalidArtifactError: the files are no such model.
        """
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise UsageError(
                "recognising words needs faster-whisper", where="scorers.words", cure="pip install 'dubmill[real]'"
            ) from error
        try:
            self._whisper = WhisperModel(
                "scorers.words", compute_type="int8", cpu_threads=num_threads, files=dict(files)
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise InvalidArtifactError(
                f"the files are no Whisper of CTranslate2's form ({error})",
                where="scorers.words",
                cure=f"name {', '.join(FILES)}",
            ) from error

    def hear(self, audio_N: np.ndarray, spans: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
        """(BCP-47 language, word) in order of time, spelled for comparison; (N,) float32 at 16 kHz, spoken in `spans`."""
        return [pair for piece_N in _pieces(audio_N, spans) for pair in self._read(piece_N)]

    def _read(self, speech_N: np.ndarray) -> list[tuple[str, str]]:
        """The words of one piece: read once more with more silence behind it where a text repeats itself or is unlikely."""
        all_seconds = (min(len(speech_N) / SAMPLE_RATE_HZ + pad_seconds, FULL_SECONDS) for pad_seconds in PAD_SECONDS)
        for seconds in dict.fromkeys(all_seconds):
            language, best = self._attempt(speech_N, round(seconds * SAMPLE_RATE_HZ))
            if best.is_sure:
                break
        return [(language, word) for word in words_of(best.text, language)] if best.is_speech else []

    def _attempt(self, speech_N: np.ndarray, num_samples: int) -> tuple[str, Reading]:
        """(language, reading) of speech with silence behind it; of two languages, the one whose text ranks higher."""
        whisper: Any = self._whisper
        padded_N = np.pad(speech_N, (0, max(0, num_samples - len(speech_N))))
        num_frames = 2 * (len(padded_N) // whisper.feature_extractor.hop_length // 2)  # its encoder halves them
        encoded = whisper.encode(whisper.feature_extractor(padded_N)[:, :num_frames])
        is_multilingual = whisper.model.is_multilingual
        [chances] = whisper.model.detect_language(encoded) if is_multilingual else [[("<|en|>", 1.0)]]
        languages = _candidates([(tag.strip("<|>"), chance) for tag, chance in chances])
        max_tokens = round(TOKENS_PER_SECOND * len(speech_N) / SAMPLE_RATE_HZ) + MORE_TOKENS
        readings = [(language, self._search(encoded, language, max_tokens)) for language in languages]
        return max(readings, key=lambda pair: pair[1].rank)

    def _search(self, encoded: Any, language: str, max_tokens: int) -> Reading:
        """The text in one language: the likeliest next words, and beams where that text is not likely.

        A text that repeats itself does so with beams too, and needs more silence.
        """
        reading = self._decode(encoded, language, max_tokens, num_beams=1)
        if reading.log_probability >= FAST_LOG_PROBABILITY or reading.is_repeating:
            return reading
        return self._decode(encoded, language, max_tokens, num_beams=BEAMS)

    def _decode(self, encoded: Any, language: str, max_tokens: int, *, num_beams: int) -> Reading:
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_compression_ratio

        whisper: Any = self._whisper
        tokenizer = Tokenizer(whisper.hf_tokenizer, whisper.model.is_multilingual, task="transcribe", language=language)
        prompt = whisper.get_prompt(tokenizer, [], without_timestamps=True)
        [best] = whisper.model.generate(
            encoded, [prompt], beam_size=num_beams, max_length=min(whisper.max_length // 2, len(prompt) + max_tokens),
            return_scores=True, return_no_speech_prob=True,
        )  # fmt: skip
        text = tokenizer.decode(best.sequences_ids[0])
        return Reading(text, best.scores[0], best.no_speech_prob, get_compression_ratio(text or " "))


def _candidates(chances: list[tuple[str, float]]) -> list[str]:
    """The languages in which to read speech: the likeliest where it is sure, else the two likeliest that dubmill knows.

    Whisper takes a short sentence with an accent for Hebrew, Latin or Finnish.
    """
    if chances[0][1] >= MIN_LANGUAGE:
        return [chances[0][0]]
    known = [language for language, _ in chances if language in LANGUAGES]
    return known[:2] or [chances[0][0]]


def _pieces(audio_N: np.ndarray, spans: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The speech in pieces that Whisper reads at once, cut at pauses of half a second where there are any."""
    limit, enough = round(MAX_SECONDS * SAMPLE_RATE_HZ), round(ENOUGH_SECONDS * SAMPLE_RATE_HZ)
    start = stop = 0
    for first, last in spans:
        if stop and (last - start > limit or stop - start >= enough):
            yield audio_N[start:stop]
            stop = 0
        start, stop = (start if stop else first), last
        while stop - start > limit:
            yield audio_N[start : start + limit]
            start += limit
    if stop > start:
        yield audio_N[start:stop]
