"""From directories to a desk that dubs; the server and `dubmill dub` open a release the same way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dubmill import media
from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter, Backbone, Release, read_manifest
from dubmill.config.params import DubSamplingParams, validate
from dubmill.dubbing.consent import LEDGER, Ledger, check_statement
from dubmill.dubbing.service import ClipSize, Desk, Dubbing, DubRequest, FilmDub, FilmRequest, check
from dubmill.errors import BadArtifact, MismatchedBackbone, UnreadableMedia, UsageError
from dubmill.faces import UNWATCHED, Watch, check_choice
from dubmill.worlds import fit_line, world_of

FILM_LIMITS = media.Limits(max_seconds=24 * 3600.0)  # a film is read in windows: its length costs time, not memory


def matched(backbone: Path, release: Path) -> Release:
    """The release, once it is sure that it was trained on this backbone.

    Raises:
        BadArtifact: one of them is something else.
        MismatchedBackbone: it was trained on another one.
    """
    opened, digest = Release.open(release), read_manifest(backbone).digest  # the weights are checked while loading
    wanted = opened.info.get("backbone") or opened.lineage.backbone
    if wanted != digest:
        raise MismatchedBackbone(
            f"the release was trained on backbone {wanted[:12]}, this is {digest[:12]}",
            where=str(release),
            cure="give the backbone it was trained on",
        )
    return opened


def open_dubber(backbone: Path, release: Release) -> Dubbing:
    """The release's adapter on its backbone, sampled as it was evaluated."""
    from dubmill.dubbing.dubber import Dubber

    for name in ("sampling", "strength"):
        if name not in release.info:
            raise BadArtifact(f"the release does not tell its {name!r}", where=str(release.path), cure="promote again")
    sampling = validate(DubSamplingParams, release.info["sampling"], str(release.path))
    adapter = Adapter.open(release.path / "adapter")
    return Dubber.load(Backbone.open(backbone), adapter, strength=float(release.info["strength"]), sampling=sampling)


def open_watch(backbone: Path) -> Watch:
    """Who looks for faces in what this backbone dubs; nobody where its world has one to a picture, or without the extra."""
    seen = Backbone(backbone, read_manifest(backbone))
    world = world_of(seen)
    if world.has_one_face:
        return UNWATCHED
    try:
        return Watch(world.face_finder(), "")
    except UsageError as error:
        return Watch(None, error.cure)


def dub_file(
    clip: Path,
    out: Path,
    *,
    to: str,
    text: str,
    consent: str,
    release: Path,
    backbone: Path,
    seed: int,
    face: str,
    ledger: Path = LEDGER,
) -> tuple[str, ...]:
    """Dub one file without a server, into `out`; answers what had to be changed in the given clip.

    Raises:
        DubmillError: see `matched`, `open_dubber` and `Desk.dub`.
    """
    if not clip.is_file():
        raise UnreadableMedia("there is no such file", where=str(clip), cure="give the path of a video")
    line = Line(language=to, text=text)
    asked = DubRequest(video=clip.read_bytes(), line=line, consent=consent, seed=seed, face=face)
    check(asked)  # before the weights are loaded
    media.probe(clip, limits=media.Limits())
    opened = matched(backbone, release)
    seen = Backbone(backbone, read_manifest(backbone))  # its bytes are checked when it is loaded
    hurried = fit_line(world_of(seen), asked.line, ClipSize.of(opened).seconds).check()
    made = _desk(backbone, opened, ledger, media.Limits()).dub(asked)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, made.mp4)
    return (*made.notes, hurried) if hurried else made.notes


def dub_film_file(
    asked: FilmRequest,
    out: Path,
    *,
    release: Path,
    backbone: Path,
    progress: Callable[[float], None],
    ledger: Path = LEDGER,
) -> FilmDub:
    """Dub a video of any length without a server, into `out`.

    Raises:
        DubmillError: see `matched`, `open_dubber` and `Desk.dub_film`.
    """
    check_statement(asked.consent)  # before the weights are loaded
    check_choice(asked.face)
    if not asked.path.is_file():
        raise UnreadableMedia("there is no such file", where=str(asked.path), cure="give the path of a video")
    out.parent.mkdir(parents=True, exist_ok=True)
    return _desk(backbone, matched(backbone, release), ledger, FILM_LIMITS).dub_film(asked, out, progress)


def _desk(backbone: Path, release: Release, ledger: Path, limits: media.Limits) -> Desk:
    watch = open_watch(backbone)
    return Desk("dubmill", release, open_dubber(backbone, release), watch, Ledger(ledger), limits)
