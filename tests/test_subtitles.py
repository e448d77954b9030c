"""Scripts in SRT and WebVTT: read whatever people have, refuse with the line, write what players read."""

from dataclasses import replace

import pytest

from dubmill.errors import UsageError
from dubmill.prompting.phrases import PHRASES
from dubmill.text import subtitles
from dubmill.text.subtitles import Cue, split_cues
from dubmill.text.timing import speaking_seconds

SRT = """1
00:00:01,000 --> 00:00:02,500
Buenos días.

2
00:00:03,000 --> 00:00:05,250
¿Cómo <i>estás</i>
hoy?
"""
CUES = [Cue(1.0, 2.5, "Buenos días."), Cue(3.0, 5.25, "¿Cómo estás hoy?")]


def cues(text):
    return subtitles.parse(text, "x.srt")


def test_a_plain_srt_is_read():
    assert cues(SRT) == CUES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_every_common_encoding_is_read(tmp_path, encoding):
    (tmp_path / "x.srt").write_bytes(SRT.encode(encoding))
    assert subtitles.read_cues(tmp_path / "x.srt") == CUES


def test_a_file_that_is_not_utf8_is_read_and_reported(tmp_path, caplog):
    (tmp_path / "x.srt").write_bytes(SRT.encode("latin-1"))
    subtitles.read_cues(tmp_path / "x.srt")
    assert "not UTF-8" in caplog.text
    caplog.clear()
    (tmp_path / "x.srt").write_bytes(SRT.encode())
    subtitles.read_cues(tmp_path / "x.srt")
    assert not caplog.text


@pytest.mark.parametrize(
    "text",
    [
        SRT.replace("\n", "\r\n"),
        SRT.replace("\n", "\r"),
        "\n\n" + SRT.rstrip() + "\n\n\n",
        SRT.replace(",", "."),
        SRT.replace("00:00:0", "00:0"),
        SRT.replace("00:00:0", "0:0:"),
        SRT.replace("2,500", "2,5").replace("5,250", "5,25"),
        SRT.replace("1\n", "", 1).replace("2\n", "", 1),
        SRT.replace("días.\n\n2", "días.\n2"),
        SRT.replace("2,500", "2,500 X1:10 X2:200 Y1:5 Y2:60"),
        SRT.replace("Buenos", r"{\an8}<font color='#fff'>Buenos</font>"),
        "WEBVTT - a title\nKind: captions\n\nNOTE made by\nhand\n\nSTYLE\n::cue { color: red }\n\n"
        + SRT.replace(",", ".").replace("5.250", "5.250 line:0 position:20%").replace("1\n", "intro\n", 1),
        "WEBVTT\n\n" + SRT.replace("Buenos", "<v Ana>Buenos</v>").replace("días", "d&iacute;as"),
    ],
)
def test_the_same_cues_are_read_from_every_dialect(text):
    assert [replace(cue, speaker="") for cue in cues(text)] == CUES


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SRT.replace("00:00:03,000", "00:00:xx,000"), "line 6"),
        (SRT.replace("00:00:03,000", "00:00:09,000"), "line 6 ends before it starts"),
        (SRT.replace("00:00:03,000", "00:61:03,000"), "line 6 has more than 59 minutes"),
        (SRT.replace("<i>estás</i>\n", "estás\n\n"), "line 9 belongs to no cue"),
        (SRT.replace("-->", "->"), "line 1 belongs to no cue"),
        ("just some words", "line 1 belongs to no cue"),
        ("", "no cue in it"),
        ("WEBVTT\n", "no cue in it"),
    ],
)
def test_a_fault_is_one_sentence_that_names_the_line(text, told):
    with pytest.raises(UsageError, match=told) as refused:
        cues(text)
    assert refused.value.sentence.startswith("x.srt: ")
    assert "\n" not in refused.value.sentence


def test_a_file_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        subtitles.read_cues(tmp_path / "none.srt")


def test_an_empty_cue_is_left_out():
    assert cues(SRT.replace("Buenos días.", "<i> </i>")) == CUES[1:]


def test_cues_out_of_order_are_sorted_and_reported(caplog):
    first, second = SRT.split("\n\n")
    assert cues(f"{second}\n\n{first}") == CUES
    assert "sorted" in caplog.text


def test_a_cue_that_overlaps_the_next_is_cut_there_and_reported(caplog):
    assert cues(SRT.replace("2,500", "3,700")) == [Cue(1.0, 3.0, "Buenos días."), CUES[1]]
    assert "overlap at 00:00:03.000" in caplog.text


def test_cues_that_start_together_become_one():
    assert cues(SRT.replace("00:00:03,000", "00:00:01,000")) == [Cue(1.0, 5.25, "Buenos días. ¿Cómo estás hoy?")]


@pytest.mark.parametrize("ending", ["srt", "vtt"])
def test_what_is_written_is_read_again(tmp_path, ending):
    said = [*CUES, Cue(3599.9996, 7322.001, "1 < 2 & 3 > 2")]
    subtitles.write_cues(tmp_path / f"made/x.{ending}", said)
    again = subtitles.read_cues(tmp_path / f"made/x.{ending}")
    assert [cue.text for cue in again] == [cue.text for cue in said]
    for one, other in zip(said, again, strict=True):
        assert other.start_seconds == pytest.approx(one.start_seconds, abs=0.0006)
        assert other.end_seconds == pytest.approx(one.end_seconds, abs=0.0006)


def test_a_time_never_shows_sixty_seconds():
    assert subtitles.timestamp(59.9996) == "00:01:00.000"
    assert subtitles.timestamp(3599.9999, ",") == "01:00:00,000"


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.srt or \.vtt"):
        subtitles.write_cues(tmp_path / "x.txt", CUES)


def long_cue():
    text = " ".join(phrase["en"] for phrase in PHRASES[:4])
    return Cue(10.0, 26.0, text)


def test_captions_have_two_short_lines_and_all_words():
    made = subtitles.captions([long_cue()], "en")
    assert len(made) >= 3
    assert " ".join(" ".join(cue.text.split()) for cue in made) == long_cue().text
    for cue in made:
        lines = cue.text.split("\n")
        assert len(lines) <= 2
        assert max(map(len, lines)) <= subtitles.MAX_LINE_CHARACTERS


def test_captions_fill_the_cue_in_the_order_and_share_of_speech():
    made = subtitles.captions([long_cue()], "en")
    assert made[0].start_seconds == 10.0
    assert made[-1].end_seconds == pytest.approx(26.0)
    for one, following in zip(made, made[1:], strict=False):
        assert one.end_seconds <= following.start_seconds + 1e-9

    def said(cue):
        return speaking_seconds(subtitles.Line(language="en", text=cue.text))

    rates = [said(cue) / (cue.end_seconds - cue.start_seconds) for cue in made]
    assert max(rates) == pytest.approx(min(rates))


def test_a_caption_that_is_said_faster_than_read_stays_while_there_is_room():
    quick = Cue(1.0, 1.5, "Nobody expected the team to win.")
    alone, _ = subtitles.captions([quick, Cue(9.0, 10.0, "No.")], "en")
    assert len(quick.text) / alone.seconds == pytest.approx(subtitles.MAX_CHARACTERS_PER_SECOND)
    crowded, _ = subtitles.captions([quick, Cue(1.9, 3.0, "No.")], "en")
    assert crowded.end_seconds == pytest.approx(1.9 - subtitles.GAP_SECONDS)


def test_a_word_longer_than_a_line_is_kept_whole():
    word = "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz"
    (made,) = subtitles.captions([Cue(0.0, 4.0, word)], "de")
    assert made.text == word


def test_a_line_of_one_blank_belongs_to_its_cue_in_webvtt():
    """As the largest video site writes automatic captions; the words behind the blank belonged to no cue."""
    text = "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n \nhello there\n\n00:00:03.000 --> 00:00:04.000\nbye\n \n"
    assert subtitles.parse(text, "x.vtt") == [Cue(0.0, 2.0, "hello there"), Cue(3.0, 4.0, "bye")]


def test_rolling_captions_say_every_word_once():
    text = (
        "WEBVTT\nKind: captions\n\n"
        "00:00:00.000 --> 00:00:02.000\n \nhello<00:00:00.500><c> there</c>\n\n"
        "00:00:02.000 --> 00:00:02.010\nhello there\n \n\n"
        "00:00:02.010 --> 00:00:04.000\nhello there\nhow<00:00:03.000><c> are you</c>\n\n"
        "00:00:04.000 --> 00:00:04.010\nhow are you\n \n\n"
        "00:00:04.010 --> 00:00:06.000\nhow are you\nfine\n"
    )
    cues = subtitles.parse(text, "x.vtt")
    assert [cue.text for cue in cues] == ["hello there", "how are you", "fine"]
    assert [cue.start_seconds for cue in cues] == [0.0, 2.01, 4.01]


def test_a_line_that_somebody_says_twice_stays_twice():
    text = "1\n00:00:01,000 --> 00:00:02,000\nNo.\n\n2\n00:00:02,000 --> 00:00:03,000\nNo.\n"
    assert [cue.text for cue in subtitles.parse(text, "x.srt")] == ["No.", "No."]


def test_a_cue_without_length_is_prolonged_and_the_script_is_read(caplog):
    text = "1\n00:00:01,000 --> 00:00:01,000\nHello there\n\n2\n00:00:01,300 --> 00:00:02,000\nYes.\n"
    cues = subtitles.parse(text, "x.srt")
    assert cues == [Cue(1.0, 1.3, "Hello there"), Cue(1.3, 2.0, "Yes.")]
    assert "no length" in caplog.text


def test_a_cue_that_ends_before_it_starts_is_still_refused():
    with pytest.raises(UsageError, match="ends before it starts"):
        subtitles.parse("1\n00:00:02,000 --> 00:00:01,000\nHello\n", "x.srt")


def test_the_voice_tags_of_webvtt_say_who_speaks_and_of_two_people_in_a_cue_nobody():
    head = "WEBVTT\n\n"
    cues = [
        ("00:01.000 --> 00:02.000", "<v Ana>Hello"),
        ("00:03.000 --> 00:04.000", "<v.loud Ben Ruiz>Hello <i>you</i></v>"),
        ("00:05.000 --> 00:06.000", "<v Ana>One <v Ben>two"),
        ("00:07.000 --> 00:08.000", "plain"),
    ]
    parsed = subtitles.parse(head + "\n\n".join("\n".join(cue) for cue in cues), "x.vtt")
    assert [(cue.speaker, cue.text) for cue in parsed] == [
        ("Ana", "Hello"), ("Ben Ruiz", "Hello you"), ("", "One two"), ("", "plain"),
    ]  # fmt: skip


def test_a_cue_that_is_too_long_is_divided_and_its_words_with_it():
    cues = [Cue(0.0, 2.0, "short"), Cue(2.0, 11.0, "one two three four five six", "Ana"), Cue(11.0, 14.0, "just fits")]
    assert split_cues(cues, 3.0) == [
        cues[0],
        Cue(2.0, 5.0, "one two", "Ana"),
        Cue(5.0, 8.0, "three four", "Ana"),
        Cue(8.0, 11.0, "five six", "Ana"),
        cues[2],
    ]
