"""How long words take, whether they fit, and how a text is shared out over spans."""

import random
from itertools import pairwise

import pytest

from dubmill.artifacts.rows import Line
from dubmill.errors import UnsupportedTextError
from dubmill.nano.lexicon import LANGUAGES as WORDS
from dubmill.nano.lexicon import VOICES, lexicon
from dubmill.nano.world import HALF_SECONDS, WORDS_PER_HALF
from dubmill.prompting.phrases import PHRASES
from dubmill.text import timing
from dubmill.text.languages import LANGUAGES
from dubmill.worlds import fit_line, world_of


def line(tag, text):
    return Line(language=tag, text=text)


class Nano:
    """As much of a backbone as a question of time needs."""

    info = {"source": "nano"}


class Real:
    """Likewise of any backbone that is not nano."""

    info = {"source": "hub"}


@pytest.mark.parametrize(
    ("tag", "text", "count"),
    [
        ("en", "The children moved the tables, times seven.", 10),
        ("es", "¿Qué quiere la guitarra? Fui al país.", 12),
        ("fr", "La petite fille boit de l'eau, quatre fois.", 10),
        ("de", "Die Bäuerin lehrte uns, Brot zu backen.", 11),
        ("ru", "Мой зонт остался в кафе.", 8),
        ("pt", "Amanhã não há pão.", 6),
        ("it", "Il piano è più grande.", 7),
        ("en", "at 9 o'clock", 5),
        ("en", "— no", 1),
    ],
)
def test_syllables_are_counted_from_the_spelling(tag, text, count):
    assert timing.syllables(line(tag, text)) == count


def test_syllables_of_the_phrase_bank_are_those_that_espeak_says():
    """Counted against the vowels among espeak-ng's phonemes: within 3 % in sum and 8 % a sentence on average."""
    pytest.importorskip("espeakng_loader")
    from dubmill.nano.speech import Synthesizer

    synthesizer, vowels = Synthesizer(), set("aeiouyæøœɑɒɐʌəɚɜɝɛɪɨʉʊɔɯɵɤʏ")
    for tag, voice in {"en": "en-us", "es": "es", "fr": "fr", "de": "de", "ru": "ru", "pt": "pt-br"}.items():
        said = [
            sum(
                bool(vowels & set(ipa)) or "̩" in ipa
                for _, ipa in synthesizer.say(phrase[tag], voice=voice, pitch=50, words_per_minute=300).phonemes
            )
            for phrase in PHRASES
        ]
        counted = [timing.syllables(line(tag, phrase[tag])) for phrase in PHRASES]
        assert sum(counted) == pytest.approx(sum(said), rel=0.03), tag
        assert sum(abs(a - b) / b for a, b in zip(counted, said, strict=True)) / len(said) < 0.08, tag


def test_every_language_has_a_rate_and_says_whose_it_is():
    for one in LANGUAGES.values():
        assert 5 < one.syllables_per_second < 8.5
        assert "InfoRateData.csv" in one.rate_source or "UNVERIFIED" in one.rate_source
        assert timing.speaking_seconds(line(one.tag, "a")) == pytest.approx(1 / one.syllables_per_second)


def test_pauses_count_inside_a_text_and_not_at_its_end():
    plain, parted = line("en", "one two three four."), line("en", "one, two. three four.")
    more = timing.speaking_seconds(parted) - timing.speaking_seconds(plain)
    assert more == pytest.approx(timing.PHRASE_PAUSE_SECONDS + timing.SENTENCE_PAUSE_SECONDS)


def test_an_unknown_language_has_no_time():
    with pytest.raises(UnsupportedTextError, match="unknown language 'xx'"):
        timing.fit(line("xx", "one"), 1.0)


def test_a_verdict_goes_from_fits_over_tight_to_cannot_as_time_runs_out():
    said = line("en", "The last train leaves at nine, so we still have time for dinner.")
    needed = timing.speaking_seconds(said)
    assert [timing.fit(said, needed * share).verdict for share in (1.0, 0.9, 0.76)] == ["fits", "tight", "cannot"]
    assert timing.fit(said, needed).check() == ""
    assert timing.fit(said, needed * 0.9).check().startswith("the words need about")


def test_a_line_without_room_is_refused_with_seconds_limit_and_what_to_drop():
    said = line("es", "El último tren sale a las nueve, así que aún tenemos tiempo de cenar.")
    with pytest.raises(UnsupportedTextError) as refused:
        timing.fit(said, 1.0).check()
    assert all(f"{seconds} s" in refused.value.what for seconds in (3.3, 2.5, 1.0))
    assert refused.value.cure == "drop about 9 words (15 syllables)"


def test_dropping_what_the_refusal_names_makes_it_sayable():
    said = line("en", "We have enough paint for the door but not for the old fence around our garden")
    room, words = 2.0, said.text.split()
    told = timing.fit(said, room).message
    dropped = int(told.split("drop about ")[1].split()[0])
    assert timing.fit(line("en", " ".join(words[:-dropped])), room).verdict != "cannot"


def test_rates_measured_on_invented_speech_are_the_ones_it_was_made_with():
    rng = random.Random(3)
    samples = [
        (
            line(tag, phrase[tag]),
            timing.syllables(line(tag, phrase[tag])) / rate * rng.uniform(0.9, 1.1)
            + timing.pauses_seconds(phrase[tag]),
        )
        for phrase in PHRASES
        for tag, rate in (("en", 4.0), ("fr", 9.0))
    ]
    assert timing.measured_rates(samples) == pytest.approx({"en": 4.0, "fr": 9.0}, rel=0.03)


def test_rates_measured_on_nanos_lexicon_tell_its_words_seconds():
    """nano's words have at most a few syllables, each hurried into a slot: single words are far off, sums are not."""
    spoken = {
        tag: [(line(tag, word), lexicon()[tag, voice, word].seconds) for word in words for voice in range(len(VOICES))]
        for tag, words in WORDS.items()
    }
    rates = timing.measured_rates(sample for samples in spoken.values() for sample in samples)
    assert set(rates) == set(WORDS)
    for tag, samples in spoken.items():
        predicted = sum(timing.syllables(said) / rates[tag] for said, _ in samples)
        assert predicted == pytest.approx(sum(seconds for _, seconds in samples), rel=0.2), tag


def test_nano_takes_its_words_seconds_from_its_lexicon():
    for tag, words in WORDS.items():
        said = line(tag, " ".join(words[:WORDS_PER_HALF]))
        exact = [
            sum(lexicon()[tag, voice, word].seconds for word in words[:WORDS_PER_HALF]) for voice in range(len(VOICES))
        ]
        assert min(exact) <= world_of(Nano).speaking_seconds(said) <= max(exact)
        assert fit_line(world_of(Nano), said, HALF_SECONDS).verdict == "fits"
        assert fit_line(world_of(Nano), said, 0.9 * world_of(Nano).speaking_seconds(said)).verdict == "cannot", (
            "its words cannot be hurried"
        )


def test_a_real_backbone_uses_the_languages_rate_and_refuses_unknown_languages():
    said = line("fr", "Le dernier train part à neuf heures.")
    assert world_of(Real).speaking_seconds(said) == timing.speaking_seconds(said)
    assert fit_line(world_of(Real), said, 0.9 * timing.speaking_seconds(said)).verdict == "tight"
    with pytest.raises(UnsupportedTextError, match="unknown language"):
        fit_line(world_of(Real), line("xx", "one"), 9.0)


# Sharing a text out


STORY = line("en", " ".join(phrase["en"] for phrase in PHRASES))


def test_a_shared_out_text_keeps_every_word_in_order():
    spans = [(0.0, 5.0), (6.0, 12.0), (14.0, 20.0)]
    parts = timing.share_out(STORY, spans)
    assert len(parts) == len(spans)
    assert " ".join(parts) == STORY.text


def test_a_text_is_parted_where_sentences_end_when_the_time_allows():
    spans = [(at, at + 12.0) for at in range(0, 96, 12)]
    parts = timing.share_out(STORY, spans)
    assert all(part.endswith((".", "?", "!")) for part in parts)
    seconds = [timing.speaking_seconds(line("en", part)) for part in parts]
    assert max(seconds) < 1.35 * sum(seconds) / len(seconds)


def test_a_long_span_gets_more_words_than_a_short_one():
    said = line("en", "One two three four five six seven eight nine ten")
    seconds = timing.speaking_seconds(said)
    short, long = timing.share_out(said, [(0.0, 0.25 * seconds), (1.0, 1.0 + 0.75 * seconds)])
    assert len(short.split()) in (2, 3)
    assert len(long.split()) == 10 - len(short.split())


def test_a_word_is_never_parted_from_its_phrase_when_a_comma_is_near():
    said = line("en", "We have enough paint for the door, but not for the old fence.")
    assert timing.share_out(said, [(0.0, 2.1), (2.1, 3.9)]) == [
        "We have enough paint for the door,",
        "but not for the old fence.",
    ]


def test_half_an_hour_of_text_is_shared_out_without_drift():
    """What comes late in the text comes late in time: the words before a border fill the share of time before it."""
    story = line("en", " ".join([STORY.text] * 18))
    spans = [(at, at + 5.0) for at in range(0, 1800, 5)]
    parts = timing.share_out(story, spans)
    assert " ".join(parts) == story.text
    told = [timing.speaking_seconds(line("en", part)) if part else 0.0 for part in parts]
    total, sums = sum(told), [sum(told[:at]) for at in range(0, 361, 60)]
    for at, before in zip(range(0, 361, 60), sums, strict=True):
        assert abs(before / total - at / 360) < 0.01
    assert all(late > early for early, late in pairwise(sums))


def test_fewer_words_than_spans_leave_some_spans_silent_and_no_word_lost():
    parts = timing.share_out(line("en", "Hello there."), [(0, 1), (1, 2), (2, 3), (3, 4)])
    assert " ".join(part for part in parts if part) == "Hello there."


def test_no_spans_are_no_time():
    with pytest.raises(UnsupportedTextError, match="no time"):
        timing.share_out(STORY, [])
