"""Dubbing without a server: the service, releases and adapters, and the command `dubmill dub`; the model stands in."""

import os
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from doubles import miniature
from doubles.dubbers import EchoDubber, SilentDubber, ToneDubber, tone_hz
from doubles.faces import FixedDetector, face
from doubles.films import beat_film, ffmpeg
from doubles.releases import (
    CONSENT,
    miniature_adapter,
    miniature_release,
    small_clip,
    tiny_backbone,
    tiny_release,
)

from dubmill import media
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Adapter, Release
from dubmill.cli import main as cli
from dubmill.config import params as params_module
from dubmill.dubbing import open as opening
from dubmill.dubbing.clip_size import ClipSize
from dubmill.dubbing.consent import ConsentLedger
from dubmill.dubbing.longform import Film
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.open import dub_clip_file, dub_film_file
from dubmill.dubbing.output import check_outputs
from dubmill.dubbing.requests import FileDubRequest
from dubmill.dubbing.service import DubbingService
from dubmill.errors import (
    BackboneMismatchError,
    InvalidArtifactError,
    MissingConsentError,
    ServiceUnavailableError,
    UnreadableMediaError,
    UnsupportedTextError,
    UsageError,
)
from dubmill.faces import NO_DETECTION, FaceMasker
from dubmill.media.clips import Clip
from dubmill.text import subtitles

ROOT = Path(__file__).parents[1]


@pytest.fixture
def mp4(tmp_path):
    path = tmp_path / "in.mp4"
    path.write_bytes(media.mp4_bytes(small_clip()))
    return path


@pytest.fixture
def folders(tmp_path):
    """A release and its backbone, as options of the command."""
    backbone = tiny_backbone(tmp_path / "backbone")
    return {"release": tiny_release(tmp_path / "release", backbone).path, "backbone": backbone.path}


@pytest.fixture
def stand_in(monkeypatch):
    """The model that dubs is an EchoDubber, without face detection."""
    dubber = EchoDubber()
    monkeypatch.setattr(opening, "open_dubber", lambda backbone, source: dubber)
    monkeypatch.setattr(opening, "open_face_masker", lambda backbone: NO_DETECTION)
    return dubber


def service(folder, dubber, *, masker=NO_DETECTION, ledger=None):
    """A service on a tiny release, and the release."""
    release = tiny_release(folder / "release", tiny_backbone(folder / "backbone"))
    ledger = ConsentLedger(ledger or folder / "consent.jsonl")
    return DubbingService(ModelSource.of_release(release), dubber, masker, ledger, media.Limits()), release


def request_for(path, words="uno", **changes):
    """A request to dub a file into Spanish."""
    plain = {"language": "es", "consent": CONSENT, "seed": 2, "tone_map": False, "face": ""}
    return FileDubRequest(path=path, words=words, **(plain | changes))


def run(monkeypatch, folder, *arguments):
    """The exit code of `dubmill dub` in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["dubmill", "dub", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def options(folders):
    return [part for name, path in folders.items() for part in (f"--{name}", str(path))]


# The service


def test_a_self_test_dub_must_be_heard_and_have_the_right_size(tmp_path):
    class Cutter(ToneDubber):
        def dub(self, clip, **how):
            return super().dub(clip, **how).cut(0, 5)

    class Nan(ToneDubber):
        def dub(self, clip, **how):
            return clip.with_audio(np.full_like(clip.audio_CN, np.nan))

    whole, release = service(tmp_path, ToneDubber())
    whole.selftest(release)
    for broken, trouble in ((SilentDubber, "is silent"), (Nan, "is silent"), (Cutter, "another size")):
        with pytest.raises(InvalidArtifactError, match=trouble):
            replace(whole, dubber=broken()).selftest(release)


def test_a_clip_is_dubbed_on_the_chosen_face_alone(tmp_path):
    source_level, dub_level = 50, 200

    class Bright(ToneDubber):
        def dub(self, clip, **how):
            return replace(super().dub(clip, **how), frames_FHWC=np.full_like(clip.frames_FHWC, dub_level))

    source = replace(small_clip(), frames_FHWC=np.full((13, 64, 64, 3), source_level, np.uint8))
    faces = [[face(14, y=32, side=20), face(50, y=32, side=20)]] * 13
    chosen, _ = service(tmp_path, Bright(), masker=FaceMasker(FixedDetector(faces), ""))
    (tmp_path / "in.mp4").write_bytes(media.mp4_bytes(source))
    request = request_for(tmp_path / "in.mp4", [subtitles.Cue(0.0, 1.04, "uno")], seed=1, face="right")
    out = tmp_path / "out.mp4"
    result = chosen.dub_film(request, out, print)
    frames = media.read(out, frame_rate=None, sample_rate_hz=16_000).frames_FHWC.astype(int)
    assert abs(frames[:, 22:42, 40:60].mean() - dub_level) < 8
    assert abs(frames[:, :, :24].mean() - source_level) < 8
    assert "1 other face left unchanged (0:00:00.0 to 0:00:01.0)" in result.notes
    assert tone_hz(out) == pytest.approx(400, abs=2)
    entries = (tmp_path / "consent.jsonl").read_text()
    with pytest.raises(UnreadableMediaError, match="2 faces"):
        chosen.dub_film(replace(request, face=""), out, print)
    assert (tmp_path / "consent.jsonl").read_text() == entries, "consent to a dub that is not made is not recorded"


def test_nothing_is_dubbed_that_cannot_be_recorded(tmp_path, mp4):
    """The ledger's folder is a file: consent cannot be written, so the dubber must not be called."""

    class Never:
        def dub(self, *_, **__):
            pytest.fail("dubbed without a record")

    (tmp_path / "file").touch()
    unrecorded, _ = service(tmp_path, Never(), ledger=tmp_path / "file" / "consent.jsonl")
    with pytest.raises(ServiceUnavailableError, match="consent cannot be recorded"):
        unrecorded.dub_film(request_for(mp4, [subtitles.Cue(0.0, 1.04, "uno")]), tmp_path / "out.mp4", print)


# Releases and adapters


def test_a_release_that_does_not_state_its_clip_size_is_refused(tmp_path):
    silent = Release.draft(tmp_path, Lineage(step="promote", params={})).seal({})
    with pytest.raises(InvalidArtifactError, match="'clip'"):
        ModelSource.of_release(silent)


def test_a_release_of_a_real_model_opens_passes_its_self_test_and_dubs(mini_backbone, tmp_path):
    """The only stand-in of this file taken away: nothing between the release's folder and the MP4 is fake."""
    release, source = opening.open_release(
        mini_backbone.path, miniature_release(tmp_path / "release", mini_backbone).path
    )
    dubber = opening.open_dubber(mini_backbone.path, source)
    ledger = tmp_path / "consent.jsonl"
    DubbingService(source, dubber, NO_DETECTION, ConsentLedger(ledger), media.Limits()).selftest(release)
    (tmp_path / "in.mp4").write_bytes(media.mp4_bytes(miniature.clip()))
    request = request_for(tmp_path / "in.mp4", "uno dos", face="all")
    out = tmp_path / "out.mp4"
    result = dub_clip_file(request, out, source=source, backbone=mini_backbone.path, ledger=ledger, progress=print)
    info = media.probe(out)
    assert (info.num_frames, info.height, info.width, info.frame_rate) == (17, 64, 96, 25)
    assert info.has_audio
    assert not any("never released" in note for note in result.notes)


def test_an_adapter_dubs_before_any_release_exists_and_the_dub_says_so(mini_backbone, tmp_path, monkeypatch, capsys):
    """Nobody could try a published adapter: only a promoted release could dub."""
    (tmp_path / "in.mp4").write_bytes(media.mp4_bytes(miniature.clip()))
    adapter = miniature_adapter(tmp_path / "adapter", mini_backbone)
    folders = {"adapter": adapter.path, "backbone": mini_backbone.path, "params": ROOT / "params.yaml"}
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "synthesize: {num_frames: 33, height: 64, width: 96, frame_rate: 25.0}\ndub: {sampling: {num_steps: 2, lora: none}}\n"
    )
    words = ["--to", "es", "--text", "uno dos", "--consent", CONSENT, "--face", "all", "--overlay", overlay]
    assert run(monkeypatch, tmp_path, "in.mp4", "--out", "out.mp4", *words, *options(folders)) == 0
    assert "never released" in capsys.readouterr().err
    assert media.probe(tmp_path / "out.mp4").num_frames == 17
    comment = media.metadata(tmp_path / "out.mp4")["comment"]
    assert "unreleased model sha256" in comment
    assert adapter.digest[:12] in comment


def test_an_adapter_dubs_clips_of_the_size_it_was_trained_on(mini_backbone, tmp_path):
    params = params_module.load(ROOT / "params.yaml")
    clip = {"num_frames": 9, "height": 32, "width": 64, "frame_rate": "24/1", "sample_rate_hz": 24000}
    draft = Adapter.draft(tmp_path / "adapter", Lineage(step="train", params={}, backbone=mini_backbone.digest))
    adapter = draft.seal({"clip": clip, "languages": ["es"]})
    source = ModelSource.of_adapter(adapter, params, mini_backbone)
    assert source.size == ClipSize(9, 32, 64, Fraction(24), 24000)
    assert (source.languages, source.is_released) == (("es",), False)
    changed = params.dub.model_copy(update={"adapter_strength": 0.5})
    other = ModelSource.of_adapter(adapter, params.model_copy(update={"dub": changed}), mini_backbone)
    assert other.digest != source.digest, "stored chunks of one strength must not serve another"


def test_an_adapter_of_another_backbone_is_refused(mini_backbone, tmp_path):
    draft = Adapter.draft(tmp_path / "adapter", Lineage(step="train", params={}, backbone="0" * 64))
    adapter = draft.seal({"languages": ["es"]})
    params = params_module.load(
        ROOT / "params.yaml", _overlay(tmp_path, "synthesize: {num_frames: 33, height: 64, width: 96}")
    )
    with pytest.raises(BackboneMismatchError) as refused:
        opening.open_adapter(mini_backbone.path, adapter.path, params)
    assert refused.value.where == str(adapter.path)


def _overlay(folder, text):
    (folder / "overlay.yaml").write_text(text)
    return folder / "overlay.yaml"


# Files


def test_a_file_is_dubbed_without_a_server_by_the_same_rules(tmp_path, mp4, folders, stand_in):
    _, source = opening.open_release(folders["backbone"], folders["release"])
    where = {"source": source, "backbone": folders["backbone"], "ledger": tmp_path / "consent.jsonl", "progress": print}
    assert "1 chunk(s), 1.0 of 1.0 s" in dub_clip_file(request_for(mp4), tmp_path / "out.mp4", **where).notes[0]
    assert stand_in.texts == ["uno"]
    assert CONSENT in (tmp_path / "consent.jsonl").read_text()
    with pytest.raises(MissingConsentError):
        dub_clip_file(request_for(mp4, consent=""), tmp_path / "no.mp4", **where)
    with pytest.raises(UnreadableMediaError, match="no such file"):
        dub_clip_file(request_for(tmp_path / "gone.mp4"), tmp_path / "no.mp4", **where)
    assert not (tmp_path / "no.mp4").exists()


def test_words_that_cannot_fit_are_refused_before_weights_are_loaded_and_a_hurried_line_is_a_note(
    tmp_path, mp4, folders, stand_in, monkeypatch
):
    _, source = opening.open_release(folders["backbone"], folders["release"])
    where = {"source": source, "backbone": folders["backbone"], "ledger": tmp_path / "consent.jsonl", "progress": print}
    *_, note = dub_clip_file(request_for(mp4, "Tenemos tiempo para cenar"), tmp_path / "out.mp4", **where).notes
    assert "hurried" in note
    monkeypatch.setattr(opening, "open_dubber", lambda backbone, source: pytest.fail("weights were loaded"))
    request = request_for(mp4, "El último tren sale a las nueve de la noche")
    with pytest.raises(UnsupportedTextError, match=r"1\.0 s"):
        dub_clip_file(request, tmp_path / "no.mp4", **where)


def script(path, *cues):
    lines = [f"00:00:{start:06.3f} --> 00:00:{end:06.3f}\n{text}\n" for start, end, text in cues]
    path.write_text("WEBVTT\n\n" + "\n".join(lines))
    return path


def test_the_command_dubs_a_video_of_any_length_and_marks_it(tmp_path, folders, stand_in, monkeypatch, capsys):
    beat_film(tmp_path / "in.mov", seconds=6)
    script(tmp_path / "in.vtt", (1.0, 2.0, "uno dos"), (4.0, 4.9, "tres"))
    words = ["--to", "es", "--script", "in.vtt", "--out", "new/out.mp4", "--consent", "Ana Ruiz agrees"]
    assert run(monkeypatch, tmp_path, "in.mov", *words, *options(folders)) == 0
    assert "2 chunk(s)" in capsys.readouterr().err
    assert "machine-generated dub" in media.metadata("new/out.mp4")["comment"]
    assert "Ana Ruiz" in Path("consent.jsonl").read_text()
    assert media.probe("new/out.mp4").num_frames == media.probe("in.mov").num_frames


def test_a_text_alone_is_distributed_over_the_speech_of_a_film_and_written_as_captions(
    tmp_path, folders, stand_in, monkeypatch, capsys
):
    seconds_N = np.arange(8 * 16000) / 16000
    is_speech_N = ((seconds_N > 1) & (seconds_N < 2)) | ((seconds_N > 5) & (seconds_N < 6))
    sound_N = np.random.default_rng(0).normal(0, 0.2, len(seconds_N)).astype(np.float32) * (is_speech_N + 0.001)
    film = Clip(np.full((100, 64, 64, 3), 90, np.uint8), Fraction(25, 2), sound_N[None].astype(np.float32), 16000)
    (tmp_path / "in.mp4").write_bytes(media.mp4_bytes(film))
    words = ["--to", "es", "--text", "uno, dos.", "--out", "out.mp4", "--consent", "Ana Ruiz agrees"]
    opened, analyzed, open_film, analyze = [], [], Film.open, Film.analyze
    monkeypatch.setattr(Film, "open", lambda *what, **how: opened.append(what) or open_film(*what, **how))
    monkeypatch.setattr(Film, "analyze", lambda film, *progress: analyzed.append(film) or analyze(film, *progress))
    code = run(monkeypatch, tmp_path, "in.mp4", *words, "--captions", "out.srt", *options(folders))
    assert code == 0, capsys.readouterr().err
    cues = subtitles.read_cues(Path("out.srt"))
    assert [cue.text for cue in cues] == ["uno,", "dos."]
    assert cues[0].start_seconds == pytest.approx(1, abs=0.3)
    assert cues[1].start_seconds == pytest.approx(5, abs=0.3)
    assert media.probe("out.mp4").num_frames == 100
    assert (len(opened), len(analyzed)) == (1, 1)


def test_a_text_for_a_film_without_speech_is_refused(tmp_path, folders, stand_in, monkeypatch):
    film = Clip(np.full((100, 64, 64, 3), 90, np.uint8), Fraction(25, 2), np.zeros((1, 8 * 16000), np.float32), 16000)
    (tmp_path / "in.mp4").write_bytes(media.mp4_bytes(film))
    monkeypatch.chdir(tmp_path)
    _, source = opening.open_release(folders["backbone"], folders["release"])
    request = request_for(Path("in.mp4"))
    with pytest.raises(UnreadableMediaError) as refused:
        dub_film_file(request, tmp_path / "out.mp4", source=source, backbone=folders["backbone"], progress=print)
    assert (refused.value.where, refused.value.cure) == ("in.mp4", "give the words with --script")


def test_no_film_is_dubbed_without_consent_or_with_text_and_script(tmp_path, folders, stand_in, monkeypatch, capsys):
    _, source = opening.open_release(folders["backbone"], folders["release"])
    where = {"source": source, "backbone": folders["backbone"], "progress": print}
    with pytest.raises(MissingConsentError):
        dub_film_file(request_for(tmp_path / "in.mov", [], consent=""), tmp_path / "out.mp4", **where)
    script(tmp_path / "in.vtt", (1.0, 2.0, "uno dos"))
    assert run(monkeypatch, tmp_path, "x.mp4", "--script", "in.vtt", "--text", "uno", "--out", "o.mp4") == 2
    assert "--text beside --script" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", [1, 3])
def test_a_wrong_face_choice_is_refused_before_weights_are_loaded(
    tmp_path, folders, stand_in, monkeypatch, capsys, seconds
):
    """A clip and a film: the release of this file dubs 1.04 seconds."""
    monkeypatch.setattr(opening, "open_dubber", lambda backbone, source: pytest.fail("weights were loaded"))
    beat_film(tmp_path / "in.mov", seconds=seconds)
    words = ["--to", "es", "--text", "uno", "--out", "out.mp4", "--consent", "Ana Ruiz agrees", "--face", "middle"]
    assert run(monkeypatch, tmp_path, "in.mov", *words, *options(folders)) == 2
    assert "'middle' is no face; choose left, right, all, none or a number" in capsys.readouterr().err
    assert not Path("consent.jsonl").exists()


def test_a_films_title_stays_its_language_is_tagged_and_what_is_left_out_is_named(
    tmp_path, folders, stand_in, monkeypatch, capsys
):
    """Tracks, subtitles and chapters were dropped without a word, and always the first track was dubbed."""
    (tmp_path / "subs.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    sounds = [part for hz in (400, 800) for part in ("-f", "lavfi", "-i", f"sine={hz}:d=4:r=16000")]
    tags = ["-metadata", "title=A film", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra"]
    maps = ["-map", 0, "-map", 1, "-map", 2, "-map", 3]
    picture = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=25:d=4"]
    ffmpeg(*picture, *sounds, "-i", tmp_path / "subs.srt", *maps, *tags, "-c:a", "pcm_s16le", tmp_path / "in.mkv")
    script(tmp_path / "in.vtt", (1.0, 2.0, "uno dos"))
    words = ["--to", "es", "--script", "in.vtt", "--out", "out.mp4", "--consent", CONSENT, "--track", "2"]
    assert run(monkeypatch, tmp_path, "in.mkv", *words, *options(folders)) == 0
    notes = capsys.readouterr().err
    assert "sound track 1 (eng) follows the dub's, coded as aac" in notes
    info = media.probe("out.mp4")
    assert [(track.language, track.is_default) for track in info.tracks] == [("spa", True), ("eng", False)]
    assert [(stream.kind, stream.codec) for stream in info.others] == [("Subtitle", "mov_text")]
    assert media.metadata("out.mp4")["title"] == "A film"
    sound_N = media.read("out.mp4", frame_rate=None, sample_rate_hz=16000).mono_N[3 * 16000 :]
    assert np.argmax(np.abs(np.fft.rfft(sound_N))) == pytest.approx(800 * len(sound_N) / 16000, abs=3)


def test_the_command_keeps_the_picture_and_refuses_other_choices_before_work(
    tmp_path, folders, stand_in, monkeypatch, capsys
):
    beat_film(tmp_path / "in.mov", seconds=3)
    script(tmp_path / "in.vtt", (1.0, 1.8, "uno dos"))
    words = ["--to", "es", "--script", "in.vtt", "--consent", CONSENT, *options(folders)]
    how = ["--picture", "keep", "--quality", "30", "--out", "out.mkv"]
    assert run(monkeypatch, tmp_path, "in.mov", *words, *how) == 0, capsys.readouterr().err
    assert media.probe("out.mkv").num_frames == media.probe("in.mov").num_frames
    monkeypatch.setattr(opening, "open_dubber", lambda backbone, source: pytest.fail("weights were loaded"))
    for wrong in (["--picture", "mouth"], ["--quality", "99"], ["--audio", "gone.wav"]):
        assert run(monkeypatch, tmp_path, "in.mov", *words, *wrong, "--out", "no.mkv") == 2
    assert not Path("no.mkv").exists()


# Places to write


@pytest.mark.parametrize(
    ("out", "captions", "what"),
    [
        ("folder.mp4", None, "folder"),
        ("out.avi", None, "ending"),
        ("out", None, "ending"),
        ("in.mp4", None, "overwritten"),
        ("./other/../in.mp4", None, "overwritten"),
        ("link.mp4", None, "overwritten"),
        ("old.mp4", None, "exists"),
        ("in.mp4/out.mp4", None, "a folder is needed"),
        (f"{'é' * 122}.mp4", None, "longer than"),
        ("new.mp4", "words.txt", "SubRip"),
        ("new.mp4", "old.srt", "exists"),
        ("new.mp4", "words.srt", "overwritten"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path, monkeypatch, out, captions, what):
    """They were found out after the dub was made and consent recorded, some as a traceback."""
    monkeypatch.chdir(tmp_path)
    for name in ("in.mp4", "old.mp4", "old.srt", "words.srt"):
        Path(name).touch()
    Path("folder.mp4").mkdir()
    Path("other").mkdir()
    Path("link.mp4").symlink_to("in.mp4")
    captions = captions and Path(captions)
    with pytest.raises(UsageError, match=what):
        check_outputs(source=Path("in.mp4"), out=Path(out), captions=captions, script=Path("words.srt"), force=False)


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o500)
    if os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(UsageError, match="nothing can be written"):
        check_outputs(
            source=tmp_path / "in.mp4",
            out=tmp_path / "locked" / "new" / "out.mp4",
            captions=None,
            script=None,
            force=False,
        )


def test_force_overwrites_an_old_file_and_never_the_source(tmp_path):
    source, old = tmp_path / "in.mp4", tmp_path / "old.mp4"
    source.touch()
    old.touch()
    check_outputs(source=source, out=old, captions=None, script=None, force=True)
    with pytest.raises(UsageError, match="overwritten"):
        check_outputs(source=source, out=source, captions=None, script=None, force=True)


def test_the_command_checks_places_before_it_opens_anything(tmp_path, stand_in, monkeypatch, capsys):
    (tmp_path / "in.mp4").touch()
    words = ["--to", "es", "--text", "uno", "--consent", CONSENT]
    assert run(monkeypatch, tmp_path, "in.mp4", "--out", "out.mp4", "--captions", "words.txt", *words) == 2
    assert "words.txt" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path, "in.mp4", "--out", "in.mp4", *words) == 2
    assert (tmp_path / "in.mp4").read_bytes() == b""


def test_a_trouble_with_a_file_is_a_sentence(tmp_path, stand_in, folders, monkeypatch, capsys):
    """Whatever the checks before work cannot foresee: another process takes the folder away meanwhile."""
    beat_film(tmp_path / "in.mov", seconds=1)

    def gone(*_, **__):
        raise PermissionError(13, "Permission denied", "out.mp4")

    monkeypatch.setattr(media, "write_film", gone)
    words = ["--to", "es", "--text", "uno", "--consent", CONSENT, "--out", "out.mp4"]
    assert run(monkeypatch, tmp_path, "in.mov", *words, *options(folders)) == 2
    error = capsys.readouterr().err
    assert "out.mp4: the file cannot be used (Permission denied)" in error
    assert "Traceback" not in error


def test_who_speaks_reaches_the_dubber_of_every_chunk(tmp_path):
    """The captions of the training name the speaker; a dub that always says `A person` leaves that out."""
    speakers = []

    class Listening(EchoDubber):
        def dub(self, clip, **how):
            speakers.append(how["speaker"])
            return super().dub(clip, **how)

    film, (dubbing, _) = tmp_path / "film.mp4", service(tmp_path, Listening())
    beat_film(film, seconds=3)
    cues = [subtitles.Cue(0.2, 0.9, "uno"), subtitles.Cue(1.8, 2.6, "dos")]
    dubbing.dub_film(request_for(film, cues, speaker="a man"), tmp_path / "out.mp4", lambda share: None)
    assert speakers == ["a man", "a man"]
