"""A film's dub as a project: one word costs one chunk, a killed run continues, a table that people edit; the model stands in."""

import fcntl
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from doubles.dubbers import EchoDubber
from doubles.films import beat_film
from doubles.releases import CONSENT, tiny_backbone, tiny_release

from dubmill import media
from dubmill.artifacts import files
from dubmill.cli import main as cli
from dubmill.dubbing import open as opening
from dubmill.dubbing.longform import Film
from dubmill.dubbing.project import FilmProject, speakers
from dubmill.faces import NO_DETECTION
from dubmill.worlds.nano import NanoWorld

WORDS = ["uno dos", "tres", "cuatro", "cinco"]
ENGLISH = ["one two", "three", "four", "five"]
FRENCH = ["un deux", "trois", "quatre", "cinq"]


def srt(path, texts):
    """Cues of 0.8 s, every two seconds from the first second on; each is a chunk of its own."""
    clock = "00:00:{:02d},{:03d}".format
    blocks = [f"{n + 1}\n{clock(1 + 2 * n, 0)} --> {clock(1 + 2 * n, 800)}\n{text}\n" for n, text in enumerate(texts)]
    path.write_text("\n".join(blocks))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A film of nine seconds, with a release and a backbone beside it."""
    folder = tmp_path_factory.mktemp("film")
    beat_film(folder / "in.mov", seconds=9)
    tiny_release(folder / "release", tiny_backbone(folder / "backbone"))
    return folder


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """The model that dubs remembers what it dubbed; the command runs in an empty folder."""
    dubber = EchoDubber()
    monkeypatch.setattr(opening, "open_dubber", lambda backbone, source: dubber)
    monkeypatch.setattr(opening, "open_face_masker", lambda backbone: NO_DETECTION)
    monkeypatch.chdir(tmp_path)
    return dubber


@pytest.fixture
def film(source, stand_in, monkeypatch, capsys):
    """The command `dubmill film`: its exit code, and what it wrote."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dubmill", "film", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsys.readouterr()
        return ended.value.code or 0, written.out, written.err

    return run


def new(film, source):
    """A project `p` into Spanish and English, with scripts in French and Spanish; made once, then copied."""
    template = source / "template"
    if not template.exists():
        scripts = ("--script", f"fr={srt(Path('fr.srt'), FRENCH)}", "--script", srt(Path("es.srt"), WORDS))
        models = ("--release", source / "release", "--backbone", source / "backbone")
        languages = ("--from", "fr", "--to", "es,en", "--consent", CONSENT)
        code, _, err = film("new", source / "in.mov", "--project", template, *languages, *scripts, *models)
        assert code == 0, err
    shutil.copytree(template, "p")


def takes():
    return {path.name: path.read_bytes() for path in Path("p/work/takes").glob("*.nut")}


def test_one_word_costs_one_model_call_and_all_other_chunks_keep_their_bytes(film, source, stand_in):
    new(film, source)
    assert film("render", "p")[0] == 0
    assert stand_in.texts == WORDS
    before, first_film = takes(), Path("p/renders/in.es.mp4").read_bytes()
    assert film("edit", "p", "s2", "--to", "es", "--text", "seis")[0] == 0
    assert "s2  3.00 to 3.80 s\n    es  to dub" in film("status", "p")[1]
    assert film("render", "p")[0] == 0
    assert stand_in.texts == [*WORDS, "seis"]
    assert {name: takes()[name] for name in before} == before
    assert len(takes()) == len(before) + 1
    film("edit", "p", "s2", "--to", "es", "--text", "tres")
    assert film("render", "p")[0] == 0
    assert len(stand_in.texts) == len(WORDS) + 1  # the first take is still there
    assert Path("p/renders/in.es.mp4").read_bytes() == first_film


def test_what_neither_the_table_nor_the_last_render_uses_is_removed(film, source, stand_in):
    """Three versions of one line: of the first nothing is used, the second is rendered, the third in the table."""
    new(film, source)
    for words, command in (("seis", "render"), ("siete", "render"), ("ocho", "dub")):
        film("edit", "p", "s2", "--to", "es", "--text", words)
        assert film(command, "p")[0] == 0
    work, film_bytes = Path("p/work"), Path("p/renders/in.es.mp4").read_bytes()
    (work / "frames" / "of-another-layout.txt").write_text("digests of frames that no film is made from")
    before = {path: path.stat().st_size for path in work.rglob("*") if path.is_file()}
    dry = film("clean", "p", "--dry-run")[1]
    assert all(path.is_file() for path in before)
    Path("request.json").touch()  # of somebody else
    assert film("clean", "p")[1] == dry.replace("could be removed", "removed")
    removed = [path for path in before if not path.is_file()]
    assert sorted(path.suffix for path in removed) == [".json", ".mov", ".nut", ".txt"]
    assert dry.startswith(f"film: 4 file(s), {sum(before[path] for path in removed) / 1e6:.1f} MB")
    stand_in.texts.clear()
    film("edit", "p", "s2", "--to", "es", "--text", "siete")
    film("render", "p")
    assert Path("p/renders/in.es.mp4").read_bytes() == film_bytes
    film("edit", "p", "s2", "--to", "es", "--text", "ocho")
    film("render", "p")
    assert stand_in.texts == []


def test_a_film_without_a_script_is_transcribed_into_the_table(film, source, endpoint):
    """A segment that is longer than the model's clip is divided, since it could not be dubbed."""
    segments = [
        {"start": 1.0, "end": 1.8, "text": "one two"},
        {"start": 3.0, "end": 4.8, "text": "three four five six"},
    ]
    url, requests = endpoint(lambda number, body: (200, json.dumps({"segments": segments})))
    models = ("--release", source / "release", "--backbone", source / "backbone", "--consent", CONSENT)
    code, _, err = film("new", source / "in.mov", "--project", "p", "--to", "es", *models)
    assert code == 2
    assert "--with whisper or endpoint" in err
    by = ("--with", "endpoint", "--model", "m", "--url", url)
    code, out, err = film("new", source / "in.mov", "--project", "p", "--to", "es", *models, *by)
    assert code == 0, err
    assert "a machine recognised" in out
    assert len(requests) == 1
    rows = [(row.start_seconds, row.end_seconds, row.text) for row in FilmProject.open(Path("p")).rows]
    assert rows == [(1.0, 1.8, "one two"), (3.0, 3.9, "three four"), (3.9, 4.8, "five six")]
    assert "no words" in film("status", "p")[1]
    film("edit", "p", "s1", "--to", "es", "--text", "uno dos")
    assert film("render", "p")[0] == 0


def test_a_recorded_voice_is_the_sound_of_its_language_alone(film, source, stand_in):
    """Its other words are dubbed by the model; another recording is another dub."""
    heard = []
    stand_in.follow_voice = lambda clip, voice_CN, **how: heard.append(np.abs(voice_CN).max()) or clip
    tone = 0.5 * np.sin(np.arange(9 * 16000) / 8)[None].astype(np.float32)
    Path("voice.wav").write_bytes(media.wav_bytes(tone, 16000))
    script = srt(Path("es.srt"), WORDS)
    models = ("--release", source / "release", "--backbone", source / "backbone", "--consent", CONSENT)
    languages = ("--to", "es,en", "--script", f"es={script}", "--script", f"en={script}", "--audio", "es=voice.wav")
    code, _, err = film("new", source / "in.mov", "--project", "p", "--from", "fr", *languages, *models)
    assert code == 0, err
    assert film("render", "p")[0] == 0
    assert (len(heard), stand_in.texts) == (4, WORDS)
    dub = media.read("p/renders/in.es.mp4", frame_rate=None, sample_rate_hz=16000).mono_N[16000 + 3200 : 16000 + 9600]
    assert np.argmax(np.abs(np.fft.rfft(dub))) == pytest.approx(len(dub) / (8 * 2 * np.pi), abs=2)
    film("render", "p")
    assert len(heard) == 4
    Path("voice.wav").write_bytes(media.wav_bytes(tone / 2, 16000))
    assert "to dub" in film("status", "p")[1]


def test_a_segment_with_a_recording_of_its_own_is_not_spoken_by_the_model(film, source, stand_in):
    """The lips follow the recording from the segment's start; other segments are the model's, and keep their bytes."""
    heard = []
    stand_in.follow_voice = lambda clip, voice_CN, **how: heard.append(voice_CN) or clip
    new(film, source)
    film("render", "p")
    before = {path.name: path.read_bytes() for path in Path("p/work/takes").glob("*.nut")}
    tone = 0.5 * np.sin(np.arange(12000) / 8)[None].astype(np.float32)
    for name, sound in (("s2.wav", tone), ("long.wav", np.tile(tone, 2)), ("silent.wav", 0 * tone)):
        Path(name).write_bytes(media.wav_bytes(sound, 16000))
    for name, sentence in (
        ("long.wav", "until 1.50 s, and its segment lasts 0.80 s"),
        ("silent.wav", "silent"),
        ("no.wav", "not there"),
    ):
        code, _, err = film("edit", "p", "s2", "--to", "es", "--audio", name)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert sentence in err
    assert film("edit", "p", "s2", "--to", "es", "--audio", "s2.wav")[0] == 0
    Path("s2.wav").rename("p/s2.wav")
    code, out, _ = film("status", "p")
    assert (code, out.count("refused"), "not there" in out) == (0, 1, True)
    table = Path("p/segments.csv")
    table.write_text(table.read_text().replace(str(Path("s2.wav").absolute()), "s2.wav"))
    assert film("edit", "p", "s2", "--to", "es", "--text", "tres y")[0] == 0
    assert ",s2.wav\n" in table.read_text()
    assert film("render", "p", "--language", "es")[0] == 0
    ((voice_CN,), texts) = heard, stand_in.texts
    assert (len(texts), len(table.read_text().splitlines())) == (4, 5)
    loud = np.flatnonzero(np.abs(voice_CN[0]) > 0.1)
    assert loud[-1] - loud[0] == pytest.approx(12000, abs=20)
    after = {path.name: path.read_bytes() for path in Path("p/work/takes").glob("*.nut")}
    assert (len(after) - len(before), after | before == after) == (1, True)
    dub = media.read("p/renders/in.es.mp4", frame_rate=None, sample_rate_hz=16000).mono_N
    spoken = dub[round(3.1 * 16000) : round(3.7 * 16000)]
    assert np.argmax(np.abs(np.fft.rfft(spoken))) == pytest.approx(len(spoken) / (8 * 2 * np.pi), abs=2)
    code, _, err = film("edit", "p", "s2", "--to", "es", "--text", "")
    assert (code, "segment s2 has a recording without words" in err) == (2, True)
    assert film("edit", "p", "s2", "--to", "es", "--text", "tres", "--audio", "")[0] == 0
    assert "s2.wav" not in table.read_text()
    assert "to dub" not in film("status", "p")[1]


def test_a_project_keeps_the_background_of_its_film_and_says_if_it_is_gone(film, source, stand_in, monkeypatch):
    heard = []
    original = stand_in.dub
    stand_in.dub = lambda clip, **how: heard.append(np.abs(clip.audio_CN).max()) or original(clip, **how)
    sound_NC = np.concatenate(list(media.sound(source / "in.mov", sample_rate_hz=16000, channels=1)))
    Path("music.wav").write_bytes(media.wav_bytes(0.75 * sound_NC.T, 16000))
    script, models = srt(Path("es.srt"), WORDS), ("--release", source / "release", "--backbone", source / "backbone")
    options = ("--to", "es", "--script", script, "--consent", CONSENT, "--background", "music.wav")
    code, _, err = film("new", source / "in.mov", "--project", "p", *options, *models)
    assert code == 0, err
    assert film("render", "p")[0] == 0
    assert 0 < max(heard) == pytest.approx(np.abs(sound_NC).max() / 4, rel=0.05)
    monkeypatch.setattr(files, "_digests", {})  # as in a new process
    assert "to dub" not in film("status", "p")[1]
    assert str(Path("music.wav").resolve()) not in {path for path, *_ in files._digests}
    Path("music.wav").write_bytes(media.wav_bytes(0.5 * sound_NC.T, 16000))
    assert "to dub" in film("status", "p")[1]
    assert film("render", "p")[0] == 0
    monkeypatch.setattr(files, "_digests", {})
    assert "to dub" not in film("status", "p")[1]
    assert str(Path("music.wav").resolve()) not in {path for path, *_ in files._digests}
    Path("music.wav").rename("gone.wav")
    code, _, err = film("status", "p")
    assert code == 2
    assert "background is not there" in err
    assert "music.wav" in err


@pytest.mark.parametrize("name", ["served/dub", "link"])
def test_the_project_of_a_server_is_not_cleaned(film, stand_in, name):
    """Its languages may have adapters of their own."""
    Path("served/dub").mkdir(parents=True)
    Path("served/request.json").touch()
    Path("link").symlink_to("served/dub")
    code, _, err = film("clean", name, "--dry-run")
    assert (code, "project of a server" in err) == (2, True)


def test_a_segment_is_dubbed_again_with_another_seed_and_nothing_else(film, source, stand_in):
    new(film, source)
    film("dub", "p")
    before = takes()
    code, out, err = film("redo", "p", "s3")
    assert (code, out) == (0, "film: 1 chunk(s) with segment s3 dubbed with seed 1\n"), err
    assert stand_in.texts == [*WORDS, "cuatro"]
    assert before.items() < takes().items()
    assert [row.seed for row in FilmProject.open(Path("p")).rows] == [None, None, 1, None]


def test_languages_share_what_was_read_from_the_film(film, source, stand_in, monkeypatch):
    """The film is analysed and counted once, and decoded for the model once."""
    new(film, source)
    for name, text in zip(("s1", "s2", "s3", "s4"), ENGLISH, strict=True):
        assert film("edit", "p", name, "--to", "en", "--text", text)[0] == 0
    read = []
    frames = Film.clip_reader
    monkeypatch.setattr(Film, "clip_reader", lambda film: read.append(film) or frames(film))
    monkeypatch.setattr(Film, "analyze", lambda *_: pytest.fail("the film is analysed again"))
    monkeypatch.setattr(Film, "open", lambda *_: pytest.fail("the film's frames are counted again"))
    code, out, err = film("render", "p")
    assert code == 0, err
    assert stand_in.texts == [*WORDS, *ENGLISH]
    assert len(read) == 1
    assert [media.probe(f"p/renders/in.{tag}.mp4").tracks[0].language for tag in ("es", "en")] == ["spa", "eng"]


def test_shards_in_any_order_give_the_bytes_of_one_run(film, source, stand_in):
    new(film, source)
    film("render", "p")
    whole = takes(), Path("p/renders/in.es.mp4").read_bytes()
    Path("p").rename("q")
    new(film, source)
    for shard in ("3/3", "1/3", "2/3"):
        assert film("dub", "p", "--shard", shard)[0] == 0
    stand_in.texts.clear()
    film("render", "p")
    assert stand_in.texts == []
    assert (takes(), Path("p/renders/in.es.mp4").read_bytes()) == whole


def test_the_table_is_edited_by_hand_and_the_status_says_what_that_costs(film, source, stand_in):
    new(film, source)
    film("dub", "p")
    Path("p/work/takes/of-another-table.json").write_text('{"words": "", "seconds": 1e6}')
    for note in Path("p/work/takes").glob("*.json"):
        if note.stem != "of-another-table":
            note.write_text('{"words": "", "seconds": 40}')
    path = Path("p/segments.csv")
    path.write_text(path.read_text().replace("tres", "siete").replace("cinco", ""))
    code, out, _ = film("status", "p", "--price", "3600")
    assert code == 0
    assert [line.split()[1:3] for line in out.splitlines() if line.startswith("    es")] == [
        ["dubbed", "uno"], ["to", "dub"], ["dubbed", "cuatro"], ["no", "words"],
    ]  # fmt: skip
    assert re.match(r"1 chunks are to be dubbed: about 40 s and [\d.]+ US dollars", out.splitlines()[-1])
    assert film("edit", "p", "s1", "--start", "0:00:00.5", "--speaker", "Ana", "--face", "none")[0] == 0
    row = FilmProject.open(Path("p")).rows[0]
    assert (row.start_seconds, row.speaker, row.face, row.text) == (0.5, "Ana", "none", "un deux")


@pytest.mark.parametrize(
    ("find", "put", "sentence"),
    [
        ("s2,3.000", "s1,3.000", "two segments have the name 's1'"),
        ("s2,3.000", ",3.000", "a segment has no name"),
        ("3.800", "2.900", "segment s2 ends before it starts"),
        ("3.800", "5.100", "segment s3 begins before s2 ends"),
        ("3.800", "soon", "line 3: the end 'soon' is no time"),
        ("3.800,,", "3.800,,middle", "segment s2: 'middle' is no face"),
        ("3.800,,,", "3.800,,,x", "line 3: 'x' is no seed"),
        ("tres", "tres,more,more", "line 3: the line has another number of columns"),
        ("seed,text", "seed,words", "the columns text are missing"),
        ("tres", '"tres', "the table cannot be read"),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence_with_its_line(film, source, find, put, sentence):
    new(film, source)
    path = Path("p/segments.csv")
    assert find in path.read_text()
    path.write_text(path.read_text().replace(find, put))
    for command in (("status", "p"), ("render", "p"), ("edit", "p", "s1", "--to", "es", "--text", "x")):
        code, _, err = film(*command)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert sentence in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("status", "gone"), "there is no project"),
        (("render", "gone"), "the project cannot be used"),
        (("redo", "p", "s9"), "there is no segment 's9'; they are s1, s2, s3, s4"),
        (("edit", "p", "s1"), "nothing was changed"),
        (("edit", "p", "s1", "--text", "x", "--to", "de"), "--to 'de' is no language of this project"),
        (("edit", "p", "s1", "--end", "9"), "segment s2 begins before s1 ends"),
        (("dub", "p", "--shard", "4/3"), "'4/3' is no shard"),
        (("render", "p", "--language", "fr"), "'fr' is no language of this project"),
        (("fit", "p", "--model", "m", "--url", "http://x"), "--model and --url without --with; give --with, or"),
        (
            ("new", "f.mp4", "--to", "es", "--script", "a.srt", "--with", "whisper"),
            "--with beside --script; leave --script out",
        ),
        (
            ("new", "f.mp4", "--to", "es", "--script", "a.srt", "--overlay", "o"),
            "leave --overlay out, or give --adapter",
        ),
        (("new", "f.mp4", "--to", "es", "--script", "a.srt", "--url", "http://x"), "--url beside --script"),
        (("new", ".", "--to", "es", "--script", "es.srt"), "there is no consent statement"),
        (("new", "f.mp4", "--to", ",", "--script", "es.srt"), "--to names no language"),
    ],
)
def test_a_wrong_command_is_refused_in_one_sentence(film, source, arguments, sentence):
    new(film, source)
    before = Path("p/segments.csv").read_bytes()
    code, _, err = film(*arguments)
    assert code == 2
    assert sentence in err
    assert Path("p/segments.csv").read_bytes() == before


def test_speakers_and_faces_are_found_and_a_person_corrects_them(film, source, monkeypatch):
    class Voices:
        def voice(self, audio_N):
            return np.array([1.0, 0.0]) if np.abs(audio_N).max() > 0.5 else np.array([0.0, 1.0])

        def speech_opening(self, audio_N, num_frames, frame_rate):
            return np.zeros(num_frames)

    class Nobody:
        def detect(self, frames_FHWC):
            return [[] for _ in frames_FHWC]

    new(film, source)
    tools = speakers.SpeakerTools(NanoWorld, Nobody(), Voices())
    monkeypatch.setattr(speakers, "open_tools", lambda settings: tools)
    code, out, err = film("speakers", "p")
    assert code == 0, err
    assert out.splitlines()[0] == "s1  1.00 to 1.80 s  speaker 1  face none"
    assert film("edit", "p", "s1", "--speaker", "Ana", "--face", "40%")[0] == 0
    film("speakers", "p")
    row = FilmProject.open(Path("p")).row("s1")
    assert (row.speaker, row.face) == ("Ana", "40%")


def test_a_killed_render_continues_to_the_bytes_of_one_that_was_not_killed(film, source, stand_in, monkeypatch):
    new(film, source)
    film("render", "p")
    whole = takes(), Path("p/renders/in.es.mp4").read_bytes()
    shutil.rmtree("p")
    new(film, source)
    for num_done in (1, 2, 3):
        monkeypatch.setattr(opening, "open_dubber", lambda *_: EchoDubber(dies_after=1))
        assert film("render", "p")[0] != 0
        assert len(takes()) == num_done
    Path("p/work/takes/.left.1a2b3c4d.partial").write_bytes(b"half")
    monkeypatch.setattr(opening, "open_dubber", lambda *_: stand_in)
    stand_in.texts.clear()
    assert film("render", "p")[0] == 0
    assert stand_in.texts == WORDS[3:]
    assert (takes(), Path("p/renders/in.es.mp4").read_bytes()) == whole
    assert not list(Path("p/work").rglob("*.partial"))


def test_two_processes_on_one_project_are_refused_in_one_sentence_but_shards_share_it(film, source, stand_in):
    new(film, source)
    with Path("p/.lock").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for command in (
            ("render", "p"),
            ("edit", "p", "s1", "--to", "es", "--text", "x"),
            ("redo", "p", "s1"),
            ("dub", "p"),
        ):
            code, _, err = film(*command)
            assert (code, "another process works on this project" in err) == (2, True)
        fcntl.flock(other, fcntl.LOCK_SH)
        assert film("dub", "p")[0] == 0
        assert film("render", "p")[0] == 2
    assert stand_in.texts == WORDS


def test_another_film_in_its_place_and_a_second_project_are_refused(film, source, stand_in):
    new(film, source)
    code, _, err = film(
        "new", source / "in.mov", "--to", "es", "--project", "p", "--consent", CONSENT, "--script", "es.srt",
        "--release", source / "release", "--backbone", source / "backbone",
    )  # fmt: skip
    assert (code, "there is a project already" in err) == (2, True)
    settings = Path("p/project.json")
    other = beat_film(Path("other.mov").absolute(), seconds=2)
    settings.write_text(settings.read_text().replace(str(source / "in.mov"), str(other)))
    code, _, err = film("render", "p")
    assert (code, "the film is another one than the project was made for" in err) == (2, True)
    settings.write_text("{}")
    code, _, err = film("status", "p")
    assert (code, "the settings cannot be read" in err) == (2, True)


def test_scripts_of_other_times_are_refused(film, source, stand_in):
    srt(Path("es.srt"), WORDS)
    Path("fr.srt").write_text("1\n00:00:01,000 --> 00:00:01,800\nun\n")
    models = ("--release", source / "release", "--backbone", source / "backbone", "--consent", CONSENT)
    scripts = ("--from", "fr", "--script", "fr=fr.srt", "--script", "es.srt")
    code, _, err = film("new", source / "in.mov", "--to", "es", "--project", "p", *scripts, *models)
    assert (code, "the cue at 3.00 s is where the first script has no words" in err) == (2, True)
    assert not Path("p").exists()


def test_a_project_that_was_made_with_an_overlay_beside_its_release_can_be_opened(film, source):
    new(film, source)
    settings = json.loads(Path("p/project.json").read_text())
    Path("p/project.json").write_text(json.dumps(settings | {"overlay": ["other.yaml"]}))
    assert film("status", "p")[0] == 0
