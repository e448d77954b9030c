"""Several adapters on one backbone: chosen per request, added, replaced and removed while the worker dubs."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from doubles import miniature
from doubles.dubbers import ToneDubber
from doubles.releases import miniature_release, tiny_backbone, tiny_release

from dubmill import media
from dubmill.artifacts.rows import Line
from dubmill.dubbing import open as opening
from dubmill.dubbing.consent import ConsentLedger
from dubmill.dubbing.service import DubbingService
from dubmill.errors import UnsupportedTextError
from dubmill.faces import NO_DETECTION
from dubmill.serving import adapters
from dubmill.serving.adapters import LoadedReleases, ReleaseFolders, UnknownAdapterError, choose

LINE = Line(language="es", text="uno dos")


class Served:
    """The releases of a folder, loaded, and the events that were reported."""

    def __init__(self, folder, backbone, first, dubber):
        self.events, self.others = [], folder / "adapters"
        self.others.mkdir()
        _, source = opening.open_release(backbone.path, first.path)
        ledger = ConsentLedger(folder / "consent.jsonl")
        service = DubbingService(source, dubber(source), NO_DETECTION, ledger, media.Limits())
        folders = ReleaseFolders(first.path, self.others)
        self.releases = LoadedReleases(
            service, folders, backbone=backbone.path, model=threading.Lock(), batch_size=2, report=self.events.append
        )


@pytest.fixture
def tones(tmp_path, monkeypatch):
    """Releases for English and Spanish, whose model is a tone."""
    monkeypatch.setattr(opening, "open_dubber", lambda backbone, source, beside=None: ToneDubber())
    monkeypatch.setattr(adapters, "room_for_clips", lambda dubber, size: lambda: 1)
    backbone = tiny_backbone(tmp_path / "backbone")
    first = tiny_release(tmp_path / "release", backbone)
    served = Served(tmp_path, backbone, first, lambda source: ToneDubber())
    served.backbone = backbone
    return served


def version_of(served, adapter="", tag="es"):
    with served.releases.lease(adapter, tag) as service:
        return service.source.version


def test_a_new_release_is_served_by_its_name_and_for_its_language(tones):
    with pytest.raises(UnsupportedTextError, match="does not dub into 'fr'"):
        tones.releases.sources[choose(tones.releases.sources, "", "fr")].check_language("fr")
    tiny_release(tones.others / "french-1", tones.backbone, version="8", languages=["fr"])
    tiny_release(tones.others / "french-2", tones.backbone, version="9", languages=["fr", "es"])
    tones.releases.refresh()
    assert version_of(tones) == "7"  # the default has the language
    assert version_of(tones, tag="fr") == "9"
    assert version_of(tones, "french-1", "fr") == "8"
    with pytest.raises(UnsupportedTextError, match="use one of en, es, fr"):
        version_of(tones, tag="de")
    with pytest.raises(UnknownAdapterError, match="use release, french-1, french-2"):
        version_of(tones, "german")
    assert [event["adapter"] for event in tones.events] == ["release", "french-1", "french-2"]


def test_batches_that_do_not_fit_the_memory_are_smaller_than_asked_for_and_the_server_says_so(tones, caplog):
    tiny_release(tones.others / "french", tones.backbone, version="8", languages=["fr"])
    tones.releases.refresh()
    assert [event["batch_size"] for event in tones.events] == [1, 1]
    assert "french: up to 1 clip(s) in a batch and not 2" in caplog.text


def test_the_size_of_batches_is_read_while_nothing_is_dubbed(tones, monkeypatch):
    """A batch that was being dubbed held the memory, so that `/v1/limits` said 1 until the next load."""
    locked = []
    monkeypatch.setattr(
        adapters, "room_for_clips", lambda dubber, size: lambda: locked.append(tones.releases._model.locked()) or 2
    )
    tiny_release(tones.others / "late", tones.backbone, version="8")
    tones.releases.refresh()
    assert locked == [True]


def test_a_request_for_an_adapter_that_was_just_added_finds_it(tones):
    tiny_release(tones.others / "late", tones.backbone, version="8")
    assert version_of(tones, "late") == "8"


def test_a_removed_release_is_gone_but_stays_while_a_job_has_it(tones):
    tiny_release(tones.others / "es-2", tones.backbone, version="8")
    tones.releases.refresh()
    detached = []
    with tones.releases.lease("es-2", "es") as service:
        service.dubber.dubber.detach = lambda: detached.append(service.source.version)
        shutil.rmtree(tones.others / "es-2")
        tones.releases.refresh()
        assert detached == []
        with pytest.raises(UnknownAdapterError):
            version_of(tones, "es-2")
    tones.releases.refresh()
    assert detached == ["8"]
    assert tones.events[-1] == {"event": "adapter_removed", "adapter": "es-2"}


def test_a_release_that_cannot_be_served_changes_nothing_and_says_why(tones, tmp_path):
    other = tiny_backbone(tmp_path / "other", name="other")
    place = tones.releases._folders.release
    place.rename(tmp_path / "old")
    tiny_release(place, other, version="8")  # a promotion on another backbone
    tiny_release(tones.others / "untested", tones.backbone, has_selftest=False)
    tones.releases.refresh()
    assert version_of(tones) == "7"
    problems = {event["adapter"]: event["problem"] for event in tones.events if "problem" in event}
    assert "was trained on backbone" in problems["release"]
    assert "no selftest.clip" in problems["untested"]
    num_events = len(tones.events)
    tones.releases.refresh()
    assert len(tones.events) == num_events  # nothing changed, so nothing is tried again


def test_a_promotion_and_its_rollback_are_served_without_a_restart(tones, tmp_path):
    place = tones.releases._folders.release
    place.rename(tmp_path / "old")
    tiny_release(place, tones.backbone, version="8")
    tones.releases.refresh()
    assert version_of(tones) == "8"
    shutil.rmtree(place)
    (tmp_path / "old").rename(place)
    tones.releases.refresh()
    assert version_of(tones) == "7"


def test_adapters_on_one_backbone_dub_as_each_does_alone(mini_backbone, tmp_path):
    """With real LoRA layers: whichever dubbed before, and after one was removed."""
    clip, alone = miniature.clip(), {}
    for name, seed in (("release", 1), ("adapters/two", 2)):
        path = miniature_release(tmp_path / name, mini_backbone, seed=seed).path
        _, source = opening.open_release(mini_backbone.path, path)
        alone[Path(name).name] = opening.open_dubber(mini_backbone.path, source).dub(clip, line=LINE, seed=3)
    assert (alone["release"].audio_CN != alone["two"].audio_CN).any()
    (tmp_path / "adapters").rename(tmp_path / "later")
    first = opening.Release.open(tmp_path / "release")
    served = Served(tmp_path, mini_backbone, first, lambda source: opening.open_dubber(mini_backbone.path, source))
    (tmp_path / "later" / "two").rename(served.others / "two")
    served.releases.refresh()
    for name in ("two", "release", "two"):
        with served.releases.lease(name, "es") as service:
            assert np.array_equal(service.dubber.dub(clip, line=LINE, seed=3).audio_CN, alone[name].audio_CN)
    shutil.rmtree(served.others / "two")
    served.releases.refresh()
    with served.releases.lease("release", "es") as service:
        assert np.array_equal(service.dubber.dub(clip, line=LINE, seed=3).audio_CN, alone["release"].audio_CN)
        assert list(service.dubber.dubber.modules.transformer.peft_config) == ["dub"]
