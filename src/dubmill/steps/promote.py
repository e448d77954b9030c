"""Step `promote`: makes the challenger champion (Release, alias, ledger entry), or refuses with reasons."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dubmill import tracking
from dubmill.artifacts.draft import Draft
from dubmill.artifacts.files import METRICS_FILE
from dubmill.artifacts.manifest import MANIFEST, Lineage
from dubmill.artifacts.rows import PairRow
from dubmill.artifacts.store import Adapter, Backbone, PairSet, Release, Report
from dubmill.config.params import PromoteParams, RegisterParams, ScorersParams
from dubmill.errors import BackboneMismatchError, InvalidArtifactError, PromotionRefusedError, UsageError
from dubmill.media.clips import Clip
from dubmill.report import model_card
from dubmill.tracking import canary, endpoint, rules
from dubmill.tracking.deployment import inference_service
from dubmill.tracking.ledger import FILE, Entry, Ledger
from dubmill.worlds import world_of

SAME_CLIPS = "evaluate the champion on the same clips, then register it again with that report"
BETTER = "train longer or on better pairs, then register and promote again"


def promote(
    backbone: Backbone,
    adapter: Adapter,
    report: Report,
    pairs: PairSet,
    registered: Path,
    register_params: RegisterParams,
    scorers_params: ScorersParams,
    params: PromoteParams,
    out: Path,
) -> Release:
    """Returns the sealed Release at `out`, whose version is now the champion.

    The order is Release, endpoint, alias, ledger; each does nothing if it was done before, so the next call completes a killed one.
    An endpoint first serves the release as a canary, which dubs `canary_clips` held-out clips; if their figures are too low, nothing moves.
    If the endpoint does not take the release, the alias stays, and if the alias does not move, the endpoint goes back. Of two
    promotions at once the second waits, and is compared with the champion that the first one made.

    Raises:
        RolloutError: the endpoint's pods did not become ready with the release.
        CanaryError: the canary's dubs are worse than the report's.
        PromotionRefusedError: with every reason; the alias stays, and the ledger gets an entry.
        BackboneMismatchError: the adapter was trained on another backbone.
        UsageError: adapter, report, pairs and version do not belong together.
        ServiceUnavailableError: the MLflow server does not answer.
    """
    _check_fit(backbone, adapter, report, pairs)
    with tracking.promotion_lock(register_params.model):
        candidate = _candidate(adapter, report, registered, register_params)
        ledger = Ledger(out.parent / FILE)
        figures = rules.means(candidate.adapter_rows, rules.names_in(params))
        if not candidate.is_champion:
            _refuse_if_not_better(candidate, report, pairs, params, ledger, figures)
        release = _release(backbone, adapter, report, pairs, candidate.version, params, out)
        folders = endpoint.add_files(backbone, release)
        tracking.tag_version(candidate.version, {"release_digest": release.digest})  # it names the folders

        def check(address: str) -> None:
            scorers = world_of(backbone).scorers(scorers_params)
            canary.check_dubs(address, pairs=pairs, measured=candidate.adapter_rows, scorers=scorers, params=params)

        is_champion = functools.partial(tracking.is_champions, register_params.model)
        with endpoint.rollout(folders, is_champion, check=check if params.canary_clips else None):
            old = tracking.promote_alias(candidate.version)
        entry = _entry(candidate.version, old, release.digest, "promoted", [], figures)
        tracking.record(candidate.version, ledger, entry, again=candidate.is_champion)
        heldout = f"{report.digest}:{rules.heldout_digest(pairs)}"
        tracking.tag_version(candidate.version, {"base_model": backbone.info["repo"], "heldout_digest": heldout})
    return release


@dataclass(frozen=True)
class Candidate:
    """The version to be promoted, its figures by pair id, and the present champion."""

    version: tracking.Version
    champion: tracking.Version | None
    rows: list[dict[str, Any]]  # of its report
    adapter_rows: rules.Rows  # of them, the adapter's by pair id

    @property
    def is_champion(self) -> bool:
        """Whether it already is: an interrupted or repeated promotion."""
        return self.champion is not None and self.champion.number == self.version.number


def _check_fit(backbone: Backbone, adapter: Adapter, report: Report, pairs: PairSet) -> None:
    if adapter.lineage.backbone != backbone.digest:
        raise BackboneMismatchError(
            "the adapter was trained on another backbone",
            where=str(adapter.path),
            cure="give the one it was trained on",
        )
    for word, digest in (("Adapter", adapter.digest), ("PairSet", pairs.digest)):
        if report.lineage.inputs.get(word, digest) != digest:
            raise UsageError(
                f"this report was made with another {word}",
                where=str(report.path),
                cure="run `dubmill step evaluate` again",
            )


def _candidate(adapter: Adapter, report: Report, registered: Path, params: RegisterParams) -> Candidate:
    path = registered / "model_version.json" if registered.is_dir() else registered
    try:
        registered_version = json.loads(path.read_bytes())
        name, number = registered_version["name"], int(registered_version["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArtifactError(
            "there is no registered version", where=str(path), cure="run `dubmill step register`"
        ) from error
    version = tracking.get_version(name, number)
    digests = version.tags.get("adapter_digest"), version.tags.get("report_digest")
    if name != params.model or digests != (adapter.digest, report.digest):
        raise UsageError(
            f"{version.uri} is not {params.model!r} with this adapter and this report",
            where=str(path),
            cure="run `dubmill step register` with them first",
        )
    rows = tracking.report_rows(report)
    return Candidate(version, tracking.aliased(name, tracking.CHAMPION), rows, rules.dubs_of(rows, str(report.path)))


def _refuse_if_not_better(
    candidate: Candidate,
    report: Report,
    pairs: PairSet,
    params: PromoteParams,
    ledger: Ledger,
    figures: dict[str, float],
) -> None:
    """Raises PromotionRefusedError with all reasons, after recording it, if the candidate breaks a rule; else returns."""
    better = rules.directions(rules.names_in(params))
    reasons, cure = list(rules.below_shares(candidate.rows, params.min_shares)), BETTER
    if candidate.champion is not None:
        champion_rows = rules.dubs_of(tracking.report_of(candidate.champion), candidate.champion.uri)
        if _are_same_clips(candidate, champion_rows, report, pairs):
            reasons += rules.against(candidate.adapter_rows, champion_rows, params, better)
        else:
            reasons.append(f"the champion (version {candidate.champion.number}) was measured on other held-out clips")
            cure = SAME_CLIPS
    if reasons:
        entry = _entry(
            candidate.version, candidate.champion, candidate.version.tags["adapter_digest"], "refused", reasons, figures
        )
        tracking.record(candidate.version, ledger, entry, again=True)
        raise PromotionRefusedError(f"not promoted: {'; '.join(reasons)}", where=candidate.version.uri, cure=cure)


def _are_same_clips(candidate: Candidate, champion_rows: rules.Rows, report: Report, pairs: PairSet) -> bool:
    """Returns whether both were measured on the same clips: the same pairs, or pairs whose held-out clips are the same."""
    assert candidate.champion is not None
    tags = candidate.champion.tags
    same_pairs = bool(tags.get("report_pairs")) and tags["report_pairs"] == report.lineage.inputs.get("PairSet")
    heldout = f"{tags.get('report_digest')}:{rules.heldout_digest(pairs)}"
    return set(champion_rows) == set(candidate.adapter_rows) and (same_pairs or tags.get("heldout_digest") == heldout)


def _entry(
    version: tracking.Version,
    old: tracking.Version | None,
    digest: str,
    decision: Literal["promoted", "refused"],
    reasons: list[str],
    figures: dict[str, float],
) -> Entry:
    previous = old.number if old is not None else None
    return Entry(
        name=version.name,
        version=version.number,
        previous=previous,
        digest=digest,
        decision=decision,
        reasons=reasons,
        metrics=figures,
    )


def _release(
    backbone: Backbone,
    adapter: Adapter,
    report: Report,
    pairs: PairSet,
    version: tracking.Version,
    params: PromoteParams,
    out: Path,
) -> Release:
    """Returns the sealed Release: all that the endpoint needs except the backbone; equal inputs give equal bytes."""
    judged = {**params.model_dump(), "name": version.name, "version": version.number}
    lineage = Lineage.of("promote", judged, backbone, adapter, report, pairs)
    row, sampling = _selftest_row(pairs), _how_sampled(adapter, report)
    draft = Release.draft(out, lineage)
    if draft.is_sealed:
        return draft.seal()
    clip = pairs.data(row.id, "original.clip")
    info = {**_info(backbone, adapter, version), "selftest": row.counterpart.model_dump(), **sampling}
    info["clip"] = _geometry(Clip.from_bytes(clip))
    _fill(draft, backbone, adapter, report, version)
    draft.write("selftest.clip", clip)
    return draft.seal(info)


def _fill(
    draft: Draft[Release], backbone: Backbone, adapter: Adapter, report: Report, version: tracking.Version
) -> None:
    base = backbone.info["repo"]
    for name in (*adapter.manifest.files, MANIFEST):
        target = draft.path / "adapter" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(adapter.file(name), target)
    draft.write(METRICS_FILE, report.file(METRICS_FILE).read_bytes())
    lineage, info = adapter.lineage, adapter.info
    card = model_card.model_card(lineage, info, name=version.name, base=base, digest=adapter.digest, report=report)
    draft.write(model_card.CARD, card.encode())
    draft.write(model_card.NOTICE, model_card.licence_notice(lineage, base).encode())
    draft.write("inferenceservice.yaml", inference_service(version, adapter.digest).encode())


def _info(backbone: Backbone, adapter: Adapter, version: tracking.Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.number,
        "adapter_digest": adapter.digest,
        "backbone": backbone.digest,
        "base_model": backbone.info["repo"],
        "licence": adapter.lineage.licence,
    }


def _geometry(clip: Clip) -> dict[str, Any]:
    _, height, width, _ = clip.frames_FHWC.shape
    return {
        "num_frames": clip.num_frames,
        "height": height,
        "width": width,
        "frame_rate": f"{clip.frame_rate.numerator}/{clip.frame_rate.denominator}",
        "sample_rate_hz": clip.sample_rate_hz,
    }


def _selftest_row(pairs: PairSet) -> PairRow:
    rows = pairs.split("heldout")
    if not rows:
        raise InvalidArtifactError("no held-out pair to test the release with", where=str(pairs.path), cure="make some")
    return rows[0]


def _how_sampled(adapter: Adapter, report: Report) -> dict[str, Any]:
    """Returns `sampling` and `strength` of the measured dubs, so that what is served is what was measured.

    They are in the report's or the adapter's info, by themselves or in `dub`, the params of that step.
    """
    for info in (report.info, report.info.get("dub", {}), adapter.info):
        strength = info.get("strength", info.get("adapter_strength"))
        if "sampling" in info and strength is not None:
            return {"sampling": info["sampling"], "strength": strength}
    raise InvalidArtifactError(
        "the report does not state the sampling and strength that its clips were dubbed with",
        where=str(report.path),
        cure="run `dubmill step evaluate` again",
    )
