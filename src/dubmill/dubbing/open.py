"""Opens releases and adapters for dubbing, and dubs a clip or film file without a server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from dubmill import media
from dubmill.artifacts.manifest import read_manifest
from dubmill.artifacts.rows import Line
from dubmill.artifacts.store import Adapter, Backbone, Release
from dubmill.config.params import Params, load, validate
from dubmill.config.sampling import DubSamplingParams
from dubmill.dubbing.clip_dubber import ClipDubber
from dubmill.dubbing.clip_size import SLACK_SECONDS, ClipSize
from dubmill.dubbing.consent import LEDGER, ConsentLedger
from dubmill.dubbing.longform import Film, FilmAnalysis, chunks_folder, plan_chunks, separated_background
from dubmill.dubbing.longform.film import Progress
from dubmill.dubbing.model_source import ModelSource
from dubmill.dubbing.requests import FileDubRequest, FileDubResult, check_file_request
from dubmill.dubbing.service import DubbingService
from dubmill.errors import MediaTooLongError, UsageError
from dubmill.faces import NO_DETECTION, FaceMasker
from dubmill.media.clips import Clip
from dubmill.providers import Separator
from dubmill.text.subtitles import Cue
from dubmill.text.timing import Fit
from dubmill.worlds import fit_line, world_of

FILM_LIMITS = media.Limits(max_seconds=24 * 3600.0)  # a film is read in sliding windows: length costs time, not memory


def open_release(backbone: Path, release: Path) -> tuple[Release, ModelSource]:
    """The release at `release` and its model, after a check that it was trained on this backbone.

    Raises:
        InvalidArtifactError: one of the folders is something else, or the release lacks something that a dub needs.
        BackboneMismatchError: the release was trained on another backbone.
    """
    opened = Release.open(release)
    source = ModelSource.of_release(opened)
    source.check_backbone(_manifest_only(backbone))
    return opened, source


def open_adapter(backbone: Path, adapter: Path, params: Params) -> ModelSource:
    """The model of an adapter that was never released, sampled as `params.dub` says.

    Raises:
        InvalidArtifactError: one of the folders is something else.
        BackboneMismatchError: the adapter was trained on another backbone.
    """
    opened = _manifest_only(backbone)
    source = ModelSource.of_adapter(Adapter.open(adapter), params, opened)
    source.check_backbone(opened)
    return source


def open_model(
    release: Path, adapter: Path | None, backbone: Path, params: Path, overlay: Sequence[Path]
) -> ModelSource:
    """The model of the release, or of the adapter where one is given; a release holds its own values, whatever the overlays.

    Raises:
        DubmillError: see `open_release`, `open_adapter` and `params.load`.
    """
    if adapter is None:
        return open_release(backbone, release)[1]
    return open_adapter(backbone, adapter, load(params, *overlay))


def open_dubber(backbone: Path, source: ModelSource, *, beside: ClipDubber | None = None) -> ClipDubber:
    """The source's adapter on its backbone, or on the backbone that the dubber `beside` has in memory.

    Raises:
        InvalidParamsError: the sampling parameters are not those of this version.
        InvalidArtifactError: the adapter's tensors are not those of its layers.
    """
    from dubmill.dubbing.dubber import Dubber

    sampling = validate(DubSamplingParams, source.sampling, str(source.adapter))
    adapter = Adapter.open(source.adapter)
    if beside is None:
        return Dubber.load(Backbone.open(backbone), adapter, strength=source.strength, sampling=sampling)
    assert isinstance(beside, Dubber), "only a loaded model has a transformer to share"
    return Dubber.load(
        beside.backbone,
        adapter,
        strength=source.strength,
        sampling=sampling,
        modules=beside.modules,
        name=f"dub_{uuid.uuid4().hex[:12]}",
    )


def line_fitter(backbone: Path) -> Callable[[Line, float], Fit]:
    """How well a line fits a number of seconds in the world of a backbone."""
    return partial(fit_line, world_of(_manifest_only(backbone)))


class DeferredDubber:
    """Implements `ClipDubber`; the weights are loaded when the first clip is dubbed, after everything else was checked."""

    def __init__(self, backbone: Path, source: ModelSource) -> None:
        self._backbone, self._source = backbone, source

    @cached_property
    def _dubber(self) -> ClipDubber:
        return open_dubber(self._backbone, self._source)

    def dub(self, clip: Clip, **how: Any) -> Clip:
        """See `ClipDubber.dub`."""
        return self._dubber.dub(clip, **how)

    def quick_dub(self, clip: Clip, **how: Any) -> tuple[Clip, float]:
        """See `ClipDubber.quick_dub`."""
        return self._dubber.quick_dub(clip, **how)

    def follow_voice(self, clip: Clip, voice_CN: np.ndarray, **how: Any) -> Clip:
        """See `ClipDubber.follow_voice`."""
        return self._dubber.follow_voice(clip, voice_CN, **how)

    def detach(self) -> None:
        """See `ClipDubber.detach`."""
        self._dubber.detach()

    def check(self, line: Line, room_seconds: float) -> str:
        """See `ClipDubber.check`."""
        return fit_line(world_of(_manifest_only(self._backbone)), line, room_seconds).check()


def open_face_masker(backbone: Path) -> FaceMasker:
    """The face masker for a backbone's clips: without a detector where none is needed or none is installed."""
    world = world_of(_manifest_only(backbone))
    if world.has_one_face:
        return NO_DETECTION
    try:
        return FaceMasker(world.face_detector(), "")
    except UsageError as error:
        return FaceMasker(None, error.cure)


def is_film(request: FileDubRequest, size: ClipSize) -> bool:
    """Whether a video has to be dubbed chunk by chunk: it has a script, or is longer than one clip.

    Raises:
        UnreadableMediaError: it is not there or not media.
    """
    if not isinstance(request.words, str):
        return True
    try:
        media.probe(request.path, limits=media.Limits(max_seconds=size.seconds + SLACK_SECONDS))  # reads no further
    except MediaTooLongError:
        return True
    return False


def clip_as_film(request: FileDubRequest, clip_seconds: float) -> FileDubRequest:
    """Returns the request for a clip, whose words are one text, as that for a film in which the text lasts from start to end."""
    return replace(request, words=[Cue(0.0, clip_seconds, str(request.words))])


def dub_clip_file(
    request: FileDubRequest,
    out: Path,
    *,
    source: ModelSource,
    backbone: Path,
    progress: Progress,
    ledger: Path = LEDGER,
) -> FileDubResult:
    """Dub a file of one clip without a server, into `out`: a film whose one text lasts from start to end.

    Raises:
        DubmillError: see `open_dubber` and `DubbingService.dub_film`.
    """
    assert isinstance(request.words, str), "a clip has one text; cues belong to a film"
    check_file_request(request)  # before the weights are loaded
    film_request = clip_as_film(request, media.probe(request.path, limits=media.Limits(), track=request.track).seconds)
    line = Line(language=request.language, text=request.words)
    warning = fit_line(world_of(_manifest_only(backbone)), line, source.size.seconds).check()
    result = film_service(backbone, source, ledger).dub_film(film_request, out, progress)
    return replace(result, notes=(*result.notes, warning)) if warning else result


def dub_film_file(
    request: FileDubRequest,
    out: Path,
    *,
    source: ModelSource,
    backbone: Path,
    progress: Progress,
    ledger: Path = LEDGER,
) -> FileDubResult:
    """Dub a video of any length without a server, into `out`.

    Raises:
        DubmillError: see `open_dubber` and `DubbingService.dub_film`.
    """
    check_file_request(request)  # before the weights are loaded
    return film_service(backbone, source, ledger).dub_film(request, out, progress)


def with_separated_background(
    request: FileDubRequest, out: Path, source: ModelSource, separator: Separator, progress: Progress
) -> FileDubRequest:
    """The request with its film opened, and the background that a separator makes, kept with the chunks of `out` until it is done.

    Raises:
        DubmillError: see `DubbingService.open_film` and `separated_background`.
    """
    source.check_language(request.language)
    film = Film.open(request.path, source.size, limits=FILM_LIMITS, tone_map=request.tone_map, track=request.track)
    if not isinstance(request.words, str):  # what no chunk can hold is refused before minutes of separation
        plan_chunks(request.words, FilmAnalysis(np.zeros(film.num_frames, np.float32), ()), film.size)
    background = separated_background(film, separator, chunks_folder(out), progress)
    return replace(request, film=replace(film, background=background))


def film_service(backbone: Path, source: ModelSource, ledger: Path = LEDGER) -> DubbingService:
    """The service that dubs films without a server; the weights are loaded when they are needed."""
    dubber, masker = DeferredDubber(backbone, source), open_face_masker(backbone)
    return DubbingService(source, dubber, masker, ConsentLedger(ledger), FILM_LIMITS)


def _manifest_only(backbone: Path) -> Backbone:
    """The backbone's manifest as an artifact; its files are checked later, when they are loaded."""
    return Backbone(backbone, read_manifest(backbone))
