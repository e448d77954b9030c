"""Submits the pipeline to Kubeflow Pipelines: logs in, uploads a version once, starts a run and waits for it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dubmill import __version__
from dubmill.errors import DubmillError, ServiceUnavailableError, UsageError
from pipelines.login import Login

TIMEOUT_SECONDS = 5
POLL_SECONDS = 15
PAGE_SIZE = 100
EQUALS = 1  # of the API's filter operations
NUM_CRON_FIELDS = 6
FINAL_STATES = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")


class FailedRunError(DubmillError):
    """A run on the cluster ended without success."""


@dataclass(frozen=True)
class Run:
    """A started run."""

    run_id: str
    page: str
    version: str
    is_new_version: bool


def version_name(package: Path) -> str:
    """Returns the name of the pipeline version: the same for equal code, images, params and target, else another one."""
    return f"{__version__}-{hashlib.sha256(package.read_bytes()).hexdigest()[:12]}"


class Cluster:
    """Kubeflow Pipelines at an address, logged in."""

    def __init__(self, host: str, *, namespace: str, login: Login) -> None:
        """Checks address, login and namespace.

        Raises:
            ServiceUnavailableError: nothing that speaks the API answers, or the login is refused.
            UsageError: a namespace is missing (Kubeflow for many users) or not allowed (stand-alone).
        """
        self.host, self.login = host.rstrip("/"), login
        is_multi_user = bool(self._health().get("multi_user"))
        if is_multi_user and not namespace:
            raise UsageError(
                "this Kubeflow serves many users, so a run needs a namespace",
                where=host,
                cure="give --namespace with the name of your profile, where the volume claims are",
            )
        if namespace and not is_multi_user:
            raise UsageError(
                "this Kubeflow is stand-alone: its tasks run in its own namespace",
                where=host,
                cure="leave --namespace out, and put the volume claims into the namespace of Kubeflow Pipelines",
            )
        self.namespace = namespace or None
        self.client = self._connect()

    def start(self, package: Path, *, pipeline: str, experiment: str, account: str, cron: str = "") -> Run:
        """Uploads `package` as a version of `pipeline` unless it exists, and starts a run, or a recurring one with `cron`."""
        with self._answering():
            name = version_name(package)
            pipeline_id = self._pipeline_id(pipeline) or self._create_pipeline(package, pipeline)
            version_id = self._version_id(pipeline_id, name)
            is_new = version_id is None
            if version_id is None:
                version_id = self._create_version(package, pipeline_id, name)
            experiment_id = self._experiment_id(experiment)
            chosen = {"pipeline_id": pipeline_id, "version_id": version_id, "service_account": account or None}
            if cron:
                return Run("", self._schedule(experiment_id, pipeline, cron, chosen), name, is_new)
            run = self.client.run_pipeline(experiment_id, f"{pipeline} {name}", **chosen)
        return Run(str(run.run_id), f"{self.host}/#/runs/details/{run.run_id}", name, is_new)

    def _schedule(self, experiment_id: str, pipeline: str, cron: str, chosen: dict[str, Any]) -> str:
        """Makes this the only schedule of the pipeline in its experiment; returns its page.

        It starts one run at a time and makes up for no missed ones. An equal schedule is kept, and enabled if a person disabled it. The new
        one is there before older ones are deleted, so that a failure in between leaves two, which the next call mends; of two calls at
        the same time the later schedule remains.
        """
        before = self._schedules(experiment_id, pipeline, chosen["pipeline_id"])
        equal = [one for one in before if _is_schedule(one, cron, chosen)]
        kept = equal[-1] if equal else self._create_schedule(experiment_id, pipeline, cron, chosen)
        if kept.mode == "DISABLE":
            self.client.enable_recurring_run(kept.recurring_run_id)
        older = {one.recurring_run_id for one in before} - {kept.recurring_run_id}
        after = self._schedules(experiment_id, pipeline, chosen["pipeline_id"])
        last = [one for one in after if one.recurring_run_id not in older][-1:] or [kept]
        for one in after:
            if one.recurring_run_id != last[0].recurring_run_id:
                self._unless_gone(lambda name=one.recurring_run_id: self.client.delete_recurring_run(name))
        return f"{self.host}/#/recurringrun/details/{last[0].recurring_run_id}"

    def _create_schedule(self, experiment_id: str, pipeline: str, cron: str, chosen: dict[str, Any]) -> Any:
        return self.client.create_recurring_run(
            experiment_id, pipeline, cron_expression=cron, max_concurrency=1, no_catchup=True, **chosen
        )

    def _schedules(self, experiment_id: str, pipeline: str, pipeline_id: str) -> list[Any]:
        """Returns the schedules that `submit` made for a pipeline, oldest first; those made by hand have other names."""
        found = [
            one
            for one in _pages(self.client.list_recurring_runs, "recurring_runs", experiment_id=experiment_id)
            if one.display_name == pipeline and one.pipeline_version_reference.pipeline_id == pipeline_id
        ]
        return sorted(found, key=lambda one: (str(one.created_at), one.recurring_run_id))

    def _unless_gone(self, delete: Callable[[], Any]) -> None:
        """Deletes what another call may have deleted in the meantime (HTTP 404)."""
        from kfp_server_api import ApiException

        try:
            delete()
        except ApiException as error:
            if error.status != 404:
                raise

    def wait(self, run: Run, *, tell: Callable[[str], None], poll_seconds: float = POLL_SECONDS) -> None:
        """Waits until the run ends; calls `tell` with each task's name and state when it changes.

        Raises:
            FailedRunError: it did not succeed; the failed tasks are named.
        """
        seen: dict[str, str] = {}
        while True:
            with self._answering():
                found = self._get_run(run.run_id)
            states = {task.display_name: task.state for task in _tasks(found) if task.state}
            for name, state in states.items():
                if seen.get(name) != state:
                    tell(f"{name:<12} {state.lower()}")
            seen = states
            if found.state in FINAL_STATES:
                break
            time.sleep(poll_seconds)
        if found.state != "SUCCEEDED":
            failed = ", ".join(name for name, state in seen.items() if state == "FAILED") or "no task"
            raise FailedRunError(
                f"the run ended as {found.state}: {failed} failed", where=run.page, cure="see its logs"
            )

    def _health(self) -> dict[str, Any]:
        """Returns the health page; a login page in its place means that the login is missing or expired."""
        headers = self.login.headers
        try:
            request = urllib.request.Request(f"{self.host}/apis/v2beta1/healthz", headers=headers)
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            if error.code in (301, 302, 303, 307, 308, 401, 403):
                raise ServiceUnavailableError(
                    f"Kubeflow Pipelines wants a login (HTTP {error.code})",
                    where=self.host,
                    cure="give --token, --cookie or --token-file, or renew it",
                ) from error
            raise self._no_answer(f"HTTP {error.code}") from error
        except ValueError as error:
            raise self._no_answer("no address of a Kubeflow API") from error
        except (urllib.error.URLError, OSError) as error:
            raise self._no_answer(getattr(error, "reason", error)) from error

    def _no_answer(self, reason: object) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            f"Kubeflow Pipelines does not answer ({reason})",
            where=self.host,
            cure="check --host, or forward its port first",
        )

    def _connect(self) -> Any:
        from kfp import Client

        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return Client(
                host=self.host,
                namespace=self.namespace or "kubeflow",
                existing_token=self.login.current_token or None,
                cookies=self.login.cookie or None,
            )

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Turns the API's refusals into one sentence; KFP's own prints are dropped."""
        from kfp_server_api import ApiException

        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except ApiException as error:
            raise ServiceUnavailableError(
                f"Kubeflow Pipelines refused ({error.status} {error.reason}): {_message(error)}",
                where=self.host,
                cure="check the login, --namespace and --account",
            ) from error

    def _pipeline_id(self, name: str) -> str | None:
        pages = _pages(
            self.client.pipelines.pipeline_service_list_pipelines,
            "pipelines",
            namespace=self.namespace or "",
            filter=_name_is(name),
        )
        return next((found.pipeline_id for found in pages if found.name == name), None)

    def _create_pipeline(self, package: Path, name: str) -> str:
        return self._unless_it_exists(
            lambda: self.client.upload_pipeline(str(package), pipeline_name=name, namespace=self.namespace).pipeline_id,
            lambda: self._pipeline_id(name),
        )

    def _experiment_id(self, name: str) -> str:
        def create_or_find() -> str:
            return str(self.client.create_experiment(name, namespace=self.namespace).experiment_id)

        return self._unless_it_exists(create_or_find, create_or_find)

    def _version_id(self, pipeline_id: str, name: str) -> str | None:
        pages = _pages(
            self.client.pipelines.pipeline_service_list_pipeline_versions,
            "pipeline_versions",
            pipeline_id=pipeline_id,
            filter=_name_is(name),
        )
        return next((found.pipeline_version_id for found in pages if found.name == name), None)

    def _create_version(self, package: Path, pipeline_id: str, name: str) -> str:
        return self._unless_it_exists(
            lambda: (
                self.client.upload_pipeline_version(
                    str(package), pipeline_version_name=name, pipeline_id=pipeline_id
                ).pipeline_version_id
            ),
            lambda: self._version_id(pipeline_id, name),
        )

    def _unless_it_exists(self, create: Callable[[], str], find: Callable[[], str | None]) -> str:
        """Returns what `create` makes, or what `find` finds where somebody else made it in the meantime (HTTP 409)."""
        from kfp_server_api import ApiException

        try:
            return create()
        except ApiException as error:
            found = find() if error.status == 409 else None
            if found is None:
                raise
            return found

    def _get_run(self, run_id: str) -> Any:
        """Returns the run; a service account's token may have been renewed since the last call, so it is read again."""
        if self.login.token_file is not None:
            self.client = self._connect()
        return self.client.get_run(run_id)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A gateway redirects to its login page, which would look like an answer."""

    def redirect_request(self, *_: Any) -> None:
        """Follows nothing."""
        return


def _pages(list_page: Callable[..., Any], field: str, **arguments: Any) -> Iterator[Any]:
    """Yields the entries of every page of a list."""
    token = ""
    while True:
        page = list_page(page_token=token, page_size=PAGE_SIZE, **arguments)
        yield from getattr(page, field) or []
        token = page.next_page_token
        if not token:
            return


def _name_is(name: str) -> str:
    """Returns a filter for the name that is unique; a person may have changed the display name."""
    return json.dumps({"predicates": [{"operation": EQUALS, "key": "name", "stringValue": name}]})


def check_schedule(cron: str) -> None:
    """Checks that a schedule, if any, has the six fields of Kubeflow, or is one like `@daily`.

    Kubeflow takes five as well, but reads them as second, minute, hour, day and month: `0 2 * * *` would start a run every hour.

    Raises:
        UsageError: it has not.
    """
    if cron and not cron.startswith("@") and len(cron.split()) != NUM_CRON_FIELDS:
        raise UsageError(
            f"the schedule {cron!r} has {len(cron.split())} fields, and Kubeflow reads six",
            where="--cron",
            cure='give second, minute, hour, day, month and weekday: "0 0 2 * * *" is two in the night',
        )


def _is_schedule(found: Any, cron: str, chosen: dict[str, Any]) -> bool:
    """Returns whether a recurring run starts this version at these times with this account."""
    version = found.pipeline_version_reference.pipeline_version_id
    now = (found.trigger.cron_schedule.cron if found.trigger.cron_schedule else "", version)
    has_account = chosen["service_account"] in (None, found.service_account)
    return now == (cron, chosen["version_id"]) and has_account


def _tasks(run: Any) -> list[Any]:
    return (run.run_details.task_details if run.run_details else None) or []


def _message(error: Any) -> str:
    """Returns the API's own message in an error's body."""
    try:
        body = json.loads(error.body)
    except (TypeError, ValueError):
        return "no reason given"
    return str(body.get("message") or body.get("error_message") or "no reason given")
