"""Film projects as a worker serves them, without a server: who has the lock, what expires, and what a failure leaves."""

import errno
import json
import os
import queue
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import pytest
from doubles.dubbers import ToneDubber
from doubles.releases import CONSENT, small_clip, tiny_backbone, tiny_release
from sqlalchemy.exc import OperationalError

from dubmill import media
from dubmill.dubbing.consent import Consent, ConsentLedger
from dubmill.dubbing.longform import Film
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.project import FilmProject
from dubmill.dubbing.project.project import SETTINGS, BusyProjectError, locked
from dubmill.dubbing.service import DubbingService
from dubmill.errors import DiskFullError, UsageError
from dubmill.faces import NO_DETECTION
from dubmill.media import Limits
from dubmill.serving.fields import DubFields
from dubmill.serving.jobs import RESULT
from dubmill.serving.project_routes import _entry
from dubmill.serving.projects import (
    DUB,
    FILM,
    REQUEST,
    Projects,
    SegmentChanges,
    TooManyProjectsError,
    UnknownProjectError,
    lock_project,
)
from dubmill.serving.runner import CancelledJobError, Runner

SCRIPT = "1\n00:00:00,400 --> 00:00:01,200\nuno\n\n2\n00:00:02,000 --> 00:00:02,800\ndos\n"
ID = "a" * 32


class Table:
    """Attributes of jobs, and those that are cancelled."""

    def __init__(self):
        self.stages, self.cancelled = [], set()

    def set_attributes(self, job_id, attributes):
        self.stages.append(attributes["stage"])

    def is_cancelled(self, job_id):
        return job_id in self.cancelled

    def reserve(self, job_id, owner, seconds, limit_seconds):
        return seconds


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A service with a stand-in for the model, the folders of its model, and the file of a film."""
    folder = tmp_path_factory.mktemp("model")
    backbone = tiny_backbone(folder / "backbone")
    release = tiny_release(folder / "release", backbone)
    (folder / "in.mp4").write_bytes(media.mp4_bytes(small_clip(num_frames=40)))
    ledger = ConsentLedger(folder / "consent.jsonl")
    source = ModelSource.of_release(release)
    service = DubbingService(source, ToneDubber(), NO_DETECTION, ledger, Limits(max_seconds=60.0))
    film = Film.open(folder / "in.mp4", source.size, limits=service.limits, tone_map=False)
    return service, {"backbone": folder / "backbone", "release": folder / "release"}, film


@pytest.fixture
def projects(tmp_path):
    return Projects(tmp_path / "projects", hours=1.0, max_per_caller=2)


def create(projects, model, *, project_id=ID, **fields):
    """A project of the model's film."""
    _, folders, film = model
    upload = projects.folder.parent / f"upload-{project_id}"
    upload.write_bytes(film.path.read_bytes())
    fields = DubFields(**{"language": "es", "script": SCRIPT, "consent": CONSENT} | fields)
    projects.create(project_id, "ana", fields, upload, film, model=folders)
    return projects.get(project_id, "ana")


def runner_of(projects, table, places, releases=None):
    return Runner(
        releases, None, projects.folder, projects, table, lambda event: None,
        places=places, film_limits=None, fetch=print, credentials=None,
    )  # fmt: skip


def wait_for(stages, count):
    until = time.monotonic() + 30
    while len(stages) < count:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_job_waits_for_its_project_without_a_place_at_the_model_and_can_be_cancelled(projects, model):
    """It failed with `busy_project` when an edit or another job had the project, and held the model meanwhile."""
    served, table, places, results = create(projects, model), Table(), threading.Semaphore(), []
    runner = runner_of(projects, table, places)
    task = {"kind": "redo", "project": ID, "segment": "s1", "seed": 3, "language": "es"}
    with locked(served.folder / DUB):
        job = threading.Thread(
            target=lambda: results.append(runner._work_on_project(model[0], "j", "ana", task, float))
        )
        job.start()
        wait_for(table.stages, 1)
        assert places.acquire(blocking=False)
        places.release()
        table.cancelled.add("k")
        with pytest.raises(CancelledJobError):
            runner._work_on_project(model[0], "k", "ana", task, float)
        assert not results
    job.join(timeout=60)
    assert [result["seed"] for result in results] == [3]


@pytest.mark.parametrize("kind", ["redo", "open"])
def test_a_job_that_goes_back_to_the_queue_has_freed_what_it_held_and_never_ends(projects, model, kind):
    """It kept its project locked until the old worker ended, so that the worker that took it waited."""
    service, served, table, leased, put_back = model[0], create(projects, model), Table(), [], queue.Queue()

    @contextmanager
    def lease(adapter, tag):
        leased.append(tag)
        try:
            yield service
        finally:
            leased.remove(tag)

    def fail(job_id):
        put_back.put((job_id, list(leased)))
        raise OperationalError("update", {}, OSError("the database is away"))

    table.put_back = fail
    releases = SimpleNamespace(sources={"release": service.source}, lease=lease)
    runner = runner_of(projects, table, threading.Semaphore(0), releases)
    runner.ledger = service.ledger
    task = {"kind": kind, "project": ID, "segment": "s1", "seed": 3}
    document = {"fields": served.fields.model_dump(mode="json"), "task": task, "upload": "../upload", "owner": "ana"}
    if kind == "open":
        assert runner.drain(0.0)  # before it decodes
    job = threading.Thread(target=runner.dub, args=("j", document), daemon=True)
    job.start()
    if kind == "redo":
        wait_for(table.stages, 2)  # it has the project, and waits for a place
        with pytest.raises(BusyProjectError), lock_project(served.folder):
            pass
        assert runner.drain(0.0)
    assert put_back.get(timeout=30) == ("j", [])
    with lock_project(served.folder):
        assert job.is_alive()  # a step that ends has an outcome, also where the database is away
    assert table.stages == (["waiting", "waiting"] if kind == "redo" else [])


def test_a_project_does_not_expire_while_a_job_has_it_and_a_job_begins_its_time_again(projects, model):
    served = create(projects, model)
    os.utime(served.folder / REQUEST, (0, 0))
    with locked(served.folder / DUB):
        projects.delete_expired()
    assert projects.get(ID, "ana") == served
    with runner_of(projects, Table(), threading.Semaphore())._locked_project("j", ID, "ana"):
        assert (served.folder / REQUEST).stat().st_mtime > 0
    projects.delete_expired()
    assert projects.get(ID, "ana") == served
    os.utime(served.folder / REQUEST, (0, 0))
    projects.delete_expired()
    assert not served.folder.exists()
    with pytest.raises(UnknownProjectError):
        served.touch()


@pytest.mark.parametrize("speaker", ["a\rb", "a\n b", " a\tb "])
def test_a_speaker_with_line_breaks_leaves_the_project_readable(projects, model, speaker):
    """The table's writer does not quote a carriage return, and its reader then refused the whole project."""
    served = create(projects, model)
    assert served.edit("s1", SegmentChanges(speaker=speaker), "es", model[1]["backbone"]).speaker == "a b"
    assert FilmProject.open(served.folder / DUB).row("s1").speaker == "a b"


def test_a_row_with_control_characters_is_refused(projects, model):
    served = create(projects, model)
    project = FilmProject.open(served.folder / DUB)
    with pytest.raises(UsageError, match="control characters"):
        project.with_rows([type(row)(**{**vars(row), "speaker": "a\rb"}) for row in project.rows[:1]])


def test_consent_and_label_are_kept_whole_for_the_command_line(projects, model):
    """`dubmill film` on the folder of a served project knew the statement alone, and burned in no label."""
    consent = {"statement": CONSENT, "scope": "the trailer", "until": "2099-12-31", "evidence_sha256": "ab" * 32}
    served = create(projects, model, consent=consent, label=True)
    request = FilmProject.open(served.folder / DUB).settings
    assert request.consent == Consent(CONSENT, "the trailer", date(2099, 12, 31), "ab" * 32)
    request = served.work(model[0], "es").request("es")
    assert (request.consent.scope, request.has_label) == ("the trailer", True)


@pytest.mark.parametrize("has_links", [True, False])
def test_the_film_of_a_project_takes_no_second_place_where_the_disk_has_links(projects, model, monkeypatch, has_links):
    if not has_links:

        def refuse(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    served = create(projects, model)
    film, upload = served.folder / FILM, projects.folder.parent / f"upload-{ID}"
    assert film.read_bytes() == upload.read_bytes()
    assert film.samefile(upload) == has_links


@pytest.mark.parametrize("error", [DiskFullError("the disk is full"), OSError(errno.ENOSPC, "no room")])
def test_a_project_that_cannot_be_made_leaves_nothing(projects, model, monkeypatch, error):
    """Its film stayed, and its caller could not delete it."""

    def fail(*_):
        raise error

    monkeypatch.setattr(FilmProject, "create", fail)
    with pytest.raises(type(error)):
        create(projects, model)
    assert list(projects.folder.iterdir()) == []


def test_a_caller_has_only_so_many_projects(projects, model):
    create(projects, model, project_id="b" * 32)
    create(projects, model, project_id="c" * 32)
    with pytest.raises(TooManyProjectsError, match="2 projects"):
        create(projects, model)
    projects.check_room("eve")
    create(projects, model, project_id="c" * 32)  # again after a kill
    projects.delete("b" * 32, "ana")
    create(projects, model)


def test_a_project_gets_another_language_and_each_keeps_its_own_words(projects, model):
    served, backbone = create(projects, model), model[1]["backbone"]
    served.put_script("en", SCRIPT.replace("uno", "one").replace("dos", "two\nthree"), backbone)
    served.edit("s1", SegmentChanges(text="tres", speaker="Ana"), "es", backbone)
    words = {row.id: {tag: target.text for tag, target in row.targets.items()} for row in served.open().rows}
    assert words == {"s1": {"es": "tres", "en": "one"}, "s2": {"es": "dos", "en": "two three"}}
    assert [row.speaker for row in served.open().rows] == ["Ana", ""]
    served.put_script("en", SCRIPT[: SCRIPT.index("2\n00")], backbone)
    assert [row.targets["en"].text for row in served.open().rows] == ["uno", ""]
    assert served.open().settings.languages == ("es", "en")
    assert (served.language_of(""), served.language_of("EN")) == ("es", "en")
    with pytest.raises(UnknownProjectError, match="use es, en"):
        served.language_of("fr")


def test_a_new_script_keeps_the_recordings_of_its_segments(projects, model, tmp_path):
    """They were dropped without a word."""
    served, backbone = create(projects, model), model[1]["backbone"]
    project, recording = served.open(), tmp_path / "s1.wav"
    row = project.row("s1")
    words = replace(row.targets["es"], recording=recording)
    project.with_rows([replace(row, targets={**row.targets, "es": words})]).save()
    served.put_script("es", SCRIPT.replace("uno", "tres"), backbone)
    served.put_script("en", SCRIPT, backbone)
    rows = served.open().rows
    assert [(row.targets["es"].text, row.targets["es"].recording) for row in rows] == [
        ("tres", recording),
        ("dos", None),
    ]
    assert [row.targets["en"].recording for row in rows] == [None, None]
    with pytest.raises(UsageError, match="segment s1 has a recording without words"):
        served.put_script("es", SCRIPT[SCRIPT.index("2\n00") :], backbone)


def test_a_language_whose_writing_was_interrupted_leaves_the_project_as_it_was(projects, model, monkeypatch):
    served = create(projects, model)
    before = served.open()
    monkeypatch.setattr(FilmProject, "save_with_settings", FilmProject.save)  # killed between the two files
    served.put_script("en", SCRIPT, model[1]["backbone"])
    assert served.open() == before


def test_projects_are_listed_by_their_last_use_and_only_to_their_caller(projects, model):
    for name, seconds in (("b", 100), ("c", 300)):
        served = create(projects, model, project_id=name * 32)
        os.utime(served.folder / REQUEST, (seconds, seconds))
    assert [one.folder.name[0] for one in projects.list("ana", limit=5, offset=0)] == ["c", "b"]
    assert [one.folder.name[0] for one in projects.list("ana", limit=5, offset=1)] == ["b"]
    assert projects.list("eve", limit=5, offset=0) == []


def test_a_render_removes_dubs_that_nothing_uses_and_keeps_those_of_other_languages(projects, model, monkeypatch):
    monkeypatch.setattr("dubmill.dubbing.open.open_face_masker", lambda _: NO_DETECTION)
    served = create(projects, model)
    served.put_script("en", SCRIPT, model[1]["backbone"])
    releases = SimpleNamespace(sources={"release": model[0].source}, backbone=model[1]["backbone"])
    runner = runner_of(projects, Table(), threading.Semaphore(), releases)
    takes = served.folder / DUB / "work" / "takes"
    redo = {"kind": "redo", "project": ID, "segment": "s1", "language": "es"}
    for seed in (3, 4):
        runner._work_on_project(model[0], "j", "ana", {**redo, "seed": seed}, float)
    runner._work_on_project(model[0], "j", "ana", {**redo, "seed": 4, "language": "en"}, float)
    before = {path.stem for path in takes.iterdir()}
    (projects.folder / "j").mkdir()
    done = runner._work_on_project(model[0], "j", "ana", {"kind": "render", "project": ID, "language": "es"}, float)
    assert 0.0 < done["dubbed_seconds"] < done["seconds"]  # the segment that was missing, and not the film
    assert (projects.folder / "j" / RESULT).is_file()
    after = {path.stem for path in takes.iterdir()}
    assert (len(before), len(before & after)) == (3, 2)  # the dub of the older seed is gone


def _damage_settings(served):
    (served.folder / DUB / SETTINGS).write_text("{")


def _lose_half(served):
    """As a delete that was interrupted before the request was deleted first."""
    shutil.rmtree(served.folder / DUB)


@pytest.mark.parametrize("damage", [_damage_settings, _lose_half])
def test_a_damaged_project_is_left_out_of_the_list_and_can_be_deleted(projects, model, caplog, damage):
    """One broke its caller's whole list, with the server's path in the sentence."""
    create(projects, model)
    damaged = create(projects, model, project_id="b" * 32)
    damage(damaged)
    with pytest.raises(UnknownProjectError) as caught:
        damaged.edit("s1", SegmentChanges(text="tres"), "es", model[1]["backbone"])
    assert str(projects.folder) not in caught.value.sentence
    assert str(projects.folder) in caplog.text
    api = SimpleNamespace(projects=projects)
    entries = [_entry(api, served) for served in projects.list("ana", limit=5, offset=0)]
    assert [entry["id"] for entry in entries if entry is not None] == [ID]
    assert len(entries) == 2
    projects.delete(damaged.folder.name, "ana")
    assert not damaged.folder.exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"owner": "ana", "fields": {}}), "\x00"])
def test_a_request_that_cannot_be_read_is_nobodys_project(projects, model, caplog, text):
    served = create(projects, model)
    damaged = create(projects, model, project_id="b" * 32)
    (damaged.folder / REQUEST).write_text(text)
    (projects.folder / "a file").touch()
    assert projects.list("ana", limit=5, offset=0) == [served]
    assert REQUEST in caplog.text


def test_a_project_that_was_deleted_after_it_was_listed_has_no_entry(projects, model):
    """Its time of use was null, which the list's document excludes: status 500."""
    served = create(projects, model)
    (served.folder / REQUEST).unlink()
    assert _entry(SimpleNamespace(projects=projects), served) is None


def test_a_delete_that_is_interrupted_leaves_what_is_nobodys_and_expires(projects, model, monkeypatch):
    served = create(projects, model)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        projects.delete(ID, "ana")
    assert served.folder.exists()
    assert projects.list("ana", limit=5, offset=0) == []
    os.utime(served.folder, (0, 0))
    projects.delete_expired()
    assert not served.folder.exists()


def test_a_busy_project_is_named_without_the_servers_path(projects, model):
    served = create(projects, model)
    with locked(served.folder / DUB):
        with pytest.raises(BusyProjectError) as edited:
            served.edit("s1", SegmentChanges(text="tres"), "es", model[1]["backbone"])
        with pytest.raises(BusyProjectError) as deleted:
            projects.delete(ID, "ana")
    assert {caught.value.where for caught in (edited, deleted)} == {ID}
    assert projects.get(ID, "ana") == served
