"""From directories to a desk that dubs; the server and `dubmill dub` open a release the same way."""

from __future__ import annotations

from pathlib import Path

from dubmill import media
from dubmill.artifacts import Adapter, Backbone, Release, read_manifest
from dubmill.backbone import fit_line
from dubmill.errors import BadArtifact, MismatchedBackbone, UnreadableMedia
from dubmill.files import write_atomically
from dubmill.params import SamplingParams, validate
from dubmill.rows import Line
from dubmill.serving.consent import LEDGER, Ledger
from dubmill.serving.desk import ClipSize, Desk, Dubbing, DubRequest, check


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
    from dubmill.dubber import Dubber

    for name in ("sampling", "strength"):
        if name not in release.info:
            raise BadArtifact(f"the release does not tell its {name!r}", where=str(release.path), cure="promote again")
    sampling = validate(SamplingParams, release.info["sampling"], str(release.path))
    adapter = Adapter.open(release.path / "adapter")
    return Dubber.load(Backbone.open(backbone), adapter, strength=float(release.info["strength"]), sampling=sampling)


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
    ledger: Path = LEDGER,
) -> tuple[str, ...]:
    """Dub one file without a server, into `out`; answers what had to be changed in the given clip.

    Raises:
        DubmillError: see `matched`, `open_dubber` and `Desk.dub`.
    """
    if not clip.is_file():
        raise UnreadableMedia("there is no such file", where=str(clip), cure="give the path of a video")
    asked = DubRequest(video=clip.read_bytes(), line=Line(language=to, text=text), consent=consent, seed=seed)
    check(asked)  # before the weights are loaded
    media.probe(clip, limits=media.Limits())
    opened = matched(backbone, release)
    seen = Backbone(backbone, read_manifest(backbone))  # its bytes are checked when it is loaded
    hurried = fit_line(seen, asked.line, ClipSize.of(opened).seconds).check()
    desk = Desk("dubmill", opened, open_dubber(backbone, opened), Ledger(ledger), media.Limits())
    made = desk.dub(asked)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, made.mp4)
    return (*made.notes, hurried) if hurried else made.notes
