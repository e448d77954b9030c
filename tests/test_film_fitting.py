"""Words that do not fit their time: spoken faster within a bound, later into the pause, or translated anew; never unnoted."""

import json
from functools import partial

import pytest

from dubmill.dubbing.project.fitting import fit_rows, shorten_rows
from dubmill.dubbing.project.table import Row, Target, read_script, read_table, write_table
from dubmill.errors import UnsupportedTextError, UsageError
from dubmill.providers import translator
from dubmill.text import timing
from dubmill.text.subtitles import Cue

LONG = "Mañana por la mañana tenemos que hablar de todo esto otra vez"


def row(seconds, text, *, start=1.0, name="s1"):
    return Row(name, start, start + seconds, text="We have to talk", targets={"es": Target(text)})


def fitted(rows, film_seconds=60.0):
    return [one.targets["es"] for one in fit_rows(rows, "es", film_seconds, timing.fit)]


NEEDED = timing.fit(timing.Line(language="es", text=LONG), 1.0)


def test_words_that_fit_have_no_note_and_hurried_ones_say_by_how_much():
    assert fitted([row(NEEDED.needed_seconds, LONG)]) == [Target(LONG)]
    assert fitted([row(NEEDED.needed_seconds / 1.2, LONG)]) == [Target(LONG, "spoken 1.20 times as fast as usual")]


def test_time_is_borrowed_from_the_pause_after_the_words_and_no_more_than_it_has():
    short = NEEDED.quickest_seconds - 0.3
    (words,) = fitted([row(short, LONG)])
    assert words.end_seconds == pytest.approx(1 + min(NEEDED.needed_seconds, short + 1.0), abs=0.001)
    assert "later, in the pause after it" in words.note
    (words, _) = fitted([row(short, LONG), row(1.0, "Sí", start=1.0 + short + 0.6, name="s2")])
    assert words.end_seconds == pytest.approx(1 + short + 0.4, abs=0.001)  # 0.2 s of the pause stay
    assert "spoken 1.2" in words.note
    (words, _) = fitted([row(short, LONG), row(1.0, "Sí", start=1.0 + short + 0.3, name="s2")])
    assert words.end_seconds is None
    assert words.note.startswith("does not fit: the words need about")
    assert fitted([row(short, LONG)], film_seconds=1.0 + short)[0].end_seconds is None  # the film ends


def test_words_that_cannot_be_said_at_all_are_noted():
    def never(line, seconds):
        raise UnsupportedTextError("not a word", cure="use a digit")

    assert (
        fit_rows([row(3, "hola")], "es", 60.0, never)[0].targets["es"].note == "does not fit: not a word; use a digit"
    )


def test_a_shorter_translation_is_requested_with_the_reason_and_noted(endpoint):
    """Only the one segment is sent; an answer that is too long again is requested again, and the words before are kept in the note."""

    def reply(number, body):
        texts = [LONG, "Hay que hablar"]
        return 200, {"choices": [{"message": {"content": json.dumps({"cues": {"2": texts[number - 1]}})}}]}

    url, requests = endpoint(lambda number, body: (reply(number, body)[0], json.dumps(reply(number, body)[1])))
    rows = [row(3, "Hola"), row(1.0, LONG, start=5.0, name="s2"), row(1.0, "Sí", start=6.1, name="s3")]
    shorten = partial(shorten_rows, translator=translator("endpoint", model="m", url=url), source="en", attempts=3)
    words = [one.targets["es"] for one in shorten(rows, "es", 60.0, timing.fit)]
    assert words[1] == Target("Hay que hablar", f"shortened by the translator, before: {LONG}")
    assert (words[0], words[2]) == (Target("Hola"), Target("Sí"))
    sent = [json.loads(body["messages"][1]["content"])["cues"] for _, _, body in requests]
    assert [[cue["number"] for cue in cues] for cues in sent] == [[2], [2]]
    assert sent[0][0]["fault"].startswith("does not fit: the words need about")


def test_a_translation_that_stays_too_long_changes_nothing_and_says_so(endpoint):
    answer = json.dumps({"choices": [{"message": {"content": json.dumps({"cues": {"1": LONG}})}}]})
    url, requests = endpoint(lambda number, body: (200, answer))
    rows = [row(1.0, LONG), row(1.0, "Sí", start=2.1, name="s2")]
    model = translator("endpoint", model="m", url=url)
    words = shorten_rows(rows, "es", 60.0, timing.fit, translator=model, source="en", attempts=2)[0].targets["es"]
    assert (words.text, len(requests)) == (LONG, 2)
    assert words.note.startswith("does not fit")


def test_end_and_note_of_the_words_are_in_the_table(tmp_path):
    rows = [Row("s1", 1.0, 2.0, "Ana", "left", 3, "one", {"es": Target("uno", "a note, and more", 2.5)})]
    write_table(tmp_path / "t.csv", rows, ["es"])
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "id,start,end,speaker,face,seed,text,es,es end,es note",
        's1,1.000,2.000,Ana,left,3,one,uno,2.500,"a note, and more"',
    ]
    assert read_table(tmp_path / "t.csv", ["es"]) == rows
    assert rows[0].segment("es").end_seconds == 2.5


def test_a_script_may_be_a_table_with_a_speaker_column(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("text,start,end,speaker\nhello,0:00:01,2.5,Ana\nyou,3,4,\n")
    assert read_script(path) == [Cue(1.0, 2.5, "hello", "Ana"), Cue(3.0, 4.0, "you")]
    path.write_text("text,start,end\nhello,1,x\n")
    with pytest.raises(UsageError, match=r"s\.csv, line 2: the end 'x' is no time"):
        read_script(path)
