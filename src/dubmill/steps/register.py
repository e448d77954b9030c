"""Step `register`: registers an adapter with its figures and its lineage as a model version in MLflow."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from dubmill import tracking
from dubmill.artifacts.code import code_digest
from dubmill.artifacts.files import LOSSES_FILE, digest_of, sha256_of, write_atomically
from dubmill.artifacts.store import Adapter, Report
from dubmill.config.params import Params, RegisterParams
from dubmill.errors import UsageError, without_secrets
from dubmill.report import model_card

MODEL_VERSION = "model_version.json"


def register(
    adapter: Adapter,
    report: Report,
    params: RegisterParams,
    out: Path,
    data: tuple[str, str] = ("", ""),
    all_params: Params | None = None,
) -> Path:
    """Returns `out`/model_version.json, which names the model version of `adapter`, now the challenger.

    One adapter is one version, however often it is registered; a new report of it replaces the old one. `data` is repository
    and revision of its pairs, where they were versioned (`tracking.data_versions`); `all_params` are those of the whole run, for the record, where the
    caller has them: artifacts carry the params of their own step only.

    Raises:
        UsageError: the report is about another adapter, or MLFLOW_RUN_ID names a run of other work.
        ServiceUnavailableError: the MLflow server does not answer.
    """
    if report.lineage.inputs.get("Adapter", adapter.digest) != adapter.digest:
        raise UsageError(
            "this report is about another adapter",
            where=str(report.path),
            cure="evaluate this adapter, then register it",
        )
    version = tracking.find_version(params.model, adapter.digest)
    version = (
        tracking.add_report(version, report) if version else _new_version(adapter, report, params, data, all_params)
    )
    if all(data):
        tracking.tag_version(version, tracking.data_tags(params.model, *data))
    tracking.move_alias(tracking.CHALLENGER, version)
    out.mkdir(parents=True, exist_ok=True)
    description = {
        "name": version.name,
        "version": version.number,
        "run_id": version.run_id,
        "uri": version.uri,
        "alias": tracking.CHALLENGER,
        "adapter_digest": adapter.digest,
        "report_digest": report.digest,
        "tracking_uri": tracking.public_uri(),
    }
    write_atomically(out / MODEL_VERSION, json.dumps(description, indent=1).encode())
    return out / MODEL_VERSION


def _new_version(
    adapter: Adapter, report: Report, params: RegisterParams, data: tuple[str, str], all_params: Params | None
) -> tracking.Version:
    name = f"{params.model}-{adapter.digest[:8]}"
    card = model_card.model_card(
        adapter.lineage,
        adapter.info,
        name=params.model,
        base=model_card.base_of(adapter.info, report),
        digest=adapter.digest,
        report=report,
    )
    others = all_params.model_dump(exclude={adapter.lineage.step, report.lineage.step}) if all_params else {}
    sections = {artifact.lineage.step: artifact.lineage.params for artifact in (adapter, report)} | others
    digests = {**adapter.lineage.inputs, **report.lineage.inputs}
    tags = {"adapter_digest": adapter.digest, tracking.MODEL_TAG: params.model}
    with tracking.logged_run(params.experiment, name=name, tags=tags) as run:
        for word, values in sections.items():
            tracking.log_params(run, values, prefix=word)
        tracking.log_datasets(run, digests, source="@".join(filter(None, map(without_secrets, data))))
        if adapter.has_file(LOSSES_FILE):
            tracking.log_losses(run, adapter.file(LOSSES_FILE))
        tracking.log_report(run, report)
        tracking.log_figures(run, report)
        source = tracking.log_adapter(run, adapter, card)
        return tracking.create_version(
            params.model, source=source, run_id=run.info.run_id, tags=lineage_tags(adapter, report), description=card
        )


def lineage_tags(adapter: Adapter, report: Report) -> dict[str, str]:
    """Returns the adapter's lineage as tags, without those that are unknown."""
    lineage = adapter.lineage
    tags = {
        "adapter_digest": adapter.digest,
        "backbone_digest": lineage.backbone,
        "text_encoder_digest": lineage.text_encoder,
        "params_digest": digest_of(lineage.params),
        "pair_source": lineage.pair_source,
        "licence": lineage.licence,
        "consent": lineage.consent,
        "base_model": model_card.base_of(adapter.info, report),
        "git_revision": git_revision(),
        "dvc_revision": dvc_revision(),
        "code_digest": os.environ.get("DUBMILL_CODE") or code_digest(),
        "kfp_run_id": os.environ.get("KFP_RUN_ID", ""),
        **{f"input.{word}": digest for word, digest in lineage.inputs.items()},
        **tracking.report_tags(report),
    }
    return {key: value for key, value in tags.items() if value}


def git_revision() -> str:
    """Returns the commit of the working directory, with `-dirty` where files differ from it; empty outside of git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def dvc_revision() -> str:
    """Returns the sha256 of dvc.lock in the working directory, which pins every file of the pipeline; empty without one."""
    lock = Path("dvc.lock")
    return sha256_of(lock) if lock.is_file() else ""
