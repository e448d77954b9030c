"""Kubeflow Pipelines over the network: upload a version, start a run."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from dubmill.errors import ServiceUnavailableError
from pipelines.dubbing import NAME

TIMEOUT_SECONDS = 5


def start(package: Path, *, host: str, namespace: str, experiment: str, account: str, version: str) -> str:
    """Upload `package` as version `version` (kept if it is there already), start a run, give the page to watch it on.

    Raises:
        ServiceUnavailableError: nothing that speaks KFP answers at `host`.
    """
    _probe(host)
    from kfp import Client
    from kfp_server_api import ApiException

    try:
        client = Client(host=host, namespace=namespace or "kubeflow")
        pipeline_id, version_id = _upload(client, package, version)
        group = client.create_experiment(experiment, namespace=namespace or None)
        run = client.run_pipeline(
            group.experiment_id,
            f"{NAME}-{version}",
            pipeline_id=pipeline_id,
            version_id=version_id,
            service_account=account or None,
        )
    except ApiException as error:
        raise ServiceUnavailableError(
            f"Kubeflow Pipelines refused ({error.status} {error.reason})",
            where=host,
            cure="check --namespace and login",
        ) from error
    return f"{host.rstrip('/')}/#/runs/details/{run.run_id}"


def _upload(client: object, package: Path, version: str) -> tuple[str, str]:
    pipeline_id = client.get_pipeline_id(NAME)  # type: ignore[attr-defined]
    if pipeline_id is None:
        pipeline_id = client.upload_pipeline(str(package), pipeline_name=NAME).pipeline_id  # type: ignore[attr-defined]
    uploaded = client.upload_pipeline_version(  # type: ignore[attr-defined]
        str(package), pipeline_version_name=f"{NAME}-{version}", pipeline_id=pipeline_id
    )
    return pipeline_id, uploaded.pipeline_version_id


def _probe(host: str) -> None:
    try:
        urllib.request.urlopen(f"{host.rstrip('/')}/apis/v2beta1/healthz", timeout=TIMEOUT_SECONDS).close()
    except (urllib.error.URLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ServiceUnavailableError(
            f"Kubeflow Pipelines does not answer ({reason})", where=host, cure="check --host, or forward its port first"
        ) from error
