"""Opens releases for dubbing, and dubs a clip or film file without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dubmill import media
from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter, Backbone, Release, read_manifest
from dubmill.config.params import DubSamplingParams, validate
from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.clip_size import ClipSize, release_info
from dubmill.dubbing.consent import LEDGER, ConsentLedger, check_statement
from dubmill.dubbing.service import DubbingService, DubRequest, FilmRequest, FilmResult, check_request
from dubmill.errors import BackboneMismatchError, UnreadableMediaError, UsageError
from dubmill.faces import NO_DETECTION, FaceMasker, check_face_choice
from dubmill.worlds import fit_line, world_of

FILM_LIMITS = media.Limits(max_seconds=24 * 3600.0)  # a film is read in sliding windows: length costs time, not memory


def open_release(backbone: Path, release: Path) -> Release:
    """The release at `release`, after a check that it was trained on this backbone.

    Raises:
        InvalidArtifactError: one of the folders is something else.
        BackboneMismatchError: the release was trained on another backbone.
    """
    opened = Release.open(release)
    digest = read_manifest(backbone).digest  # the backbone's files are checked when it is loaded
    expected = opened.info.get("backbone") or opened.lineage.backbone
    if expected != digest:
        raise BackboneMismatchError(
            f"the release was trained on backbone {expected[:12]}, this is {digest[:12]}",
            where=str(release),
            cure="give the backbone it was trained on",
        )
    return opened


def open_dubber(backbone: Path, release: Release) -> ClipDubber:
    """The release's adapter on its backbone, with the sampling parameters it was evaluated with."""
    from dubmill.dubbing.dubber import Dubber

    sampling = validate(DubSamplingParams, release_info(release, "sampling"), str(release.path))
    strength = float(release_info(release, "strength"))
    adapter = Adapter.open(release.path / "adapter")
    return Dubber.load(Backbone.open(backbone), adapter, strength=strength, sampling=sampling)


def open_face_masker(backbone: Path) -> FaceMasker:
    """The face masker for a backbone's clips: without a detector where none is needed or none is installed."""
    world = world_of(_manifest_only(backbone))
    if world.has_one_face:
        return NO_DETECTION
    try:
        return FaceMasker(world.face_detector(), "")
    except UsageError as error:
        return FaceMasker(None, error.cure)


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
    """Dub one file without a server, into `out`; returns sentences on what was changed in the given clip.

    Raises:
        DubmillError: see `open_release`, `open_dubber` and `DubbingService.dub`.
    """
    if not clip.is_file():
        raise UnreadableMediaError("there is no such file", where=str(clip), cure="give the path of a video")
    line = Line(language=to, text=text)
    request = DubRequest(video=clip.read_bytes(), line=line, consent=consent, seed=seed, face=face)
    check_request(request)  # before the weights are loaded
    media.probe(clip, limits=media.Limits())
    opened = open_release(backbone, release)
    world = world_of(_manifest_only(backbone))
    warning = fit_line(world, request.line, ClipSize.of(opened).seconds).check()
    result = _service(backbone, opened, ledger, media.Limits()).dub(request)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, result.mp4)
    return (*result.notes, warning) if warning else result.notes


def dub_film_file(
    request: FilmRequest,
    out: Path,
    *,
    release: Path,
    backbone: Path,
    progress: Callable[[float], None],
    ledger: Path = LEDGER,
) -> FilmResult:
    """Dub a video of any length without a server, into `out`.

    Raises:
        DubmillError: see `open_release`, `open_dubber` and `DubbingService.dub_film`.
    """
    check_statement(request.consent)  # before the weights are loaded
    check_face_choice(request.face)
    if not request.path.is_file():
        raise UnreadableMediaError("there is no such file", where=str(request.path), cure="give the path of a video")
    out.parent.mkdir(parents=True, exist_ok=True)
    service = _service(backbone, open_release(backbone, release), ledger, FILM_LIMITS)
    return service.dub_film(request, out, progress)


def _manifest_only(backbone: Path) -> Backbone:
    """The backbone's manifest as an artifact; its files are checked later, when they are loaded."""
    return Backbone(backbone, read_manifest(backbone))


def _service(backbone: Path, release: Release, ledger: Path, limits: media.Limits) -> DubbingService:
    masker = open_face_masker(backbone)
    dubber = open_dubber(backbone, release)
    return DubbingService("dubmill", release, dubber, masker, ConsentLedger(ledger), limits)
