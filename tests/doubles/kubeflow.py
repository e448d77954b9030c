"""A Kubeflow Pipelines API on loopback that keeps the real server's rules.

Rules and where they come from (kubeflow/pipelines at 7b70c7b, backend/src/apiserver): a pipeline's name is unique in its namespace and a
version's name in its pipeline, else HTTP 409 with `error_message` (server/pipeline_upload_server.go), while a display name may be any; an
upload makes a first version with the pipeline's name; lists come in pages, 20 entries by default and 200 at most, and a page token holds
for its filter alone (list/list.go, server/list_request_util.go); with many users an experiment needs a namespace, and a stand-alone server
takes any for none (resource_manager.go, ReplaceNamespace); a run of a version that is not there is an internal error (CreateRun); a
schedule may have five fields, which are read as seconds to months (robfig/cron 1.2, DowOptional), and names of schedules are not unique; other
errors have a code of gRPC and a message. Without a valid login the API answers 401, and a gateway in front of it redirects to a login page.
"""

from __future__ import annotations

import http.server
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from doubles.loopback import Loopback

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 20, 200
GRPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13}
API = "/apis/v2beta1"


@dataclass
class State:
    """What the server holds; tests set it up and look at it."""

    token: str = ""  # empty: no login
    cookie: str = ""
    redirects_to_login: bool = False  # as a gateway does, in place of 401
    namespaces: tuple[str, ...] = ()  # empty: stand-alone
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    recurring_runs: list[dict[str, Any]] = field(default_factory=list)  # names are not unique
    num_schedules: int = 0  # that were ever created
    refuses_deletions: bool = False
    run_states: list[str] = field(default_factory=lambda: ["SUCCEEDED"])  # one for each time the run is asked for
    failed_tasks: tuple[str, ...] = ()
    uploads: list[bytes] = field(default_factory=list)
    tokens_seen: list[str] = field(default_factory=list)

    @property
    def is_multi_user(self) -> bool:
        return bool(self.namespaces)

    def add_pipeline(self, name: str, namespace: str = "") -> dict[str, Any]:
        made = {
            "pipeline_id": f"p{len(self.pipelines) + 1}",
            "name": name,
            "display_name": name,
            "namespace": namespace,
        }
        self.pipelines.append(made)
        return made

    def add_version(self, pipeline_id: str, name: str) -> dict[str, Any]:
        version_id = f"v{len(self.versions) + 1}"
        made = {"pipeline_version_id": version_id, "pipeline_id": pipeline_id, "name": name, "display_name": name}
        self.versions.append(made)
        return made


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, *, is_upload: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": message, "code": GRPC_CODES.get(status, 2), "message": message, "details": []}
        if is_upload:
            self.body = {"error_message": message, "error_details": message}


class Kubeflow(Loopback):
    """The server; use it as a context manager."""

    def __init__(self, **state: Any) -> None:
        self.state = State(**state)
        super().__init__(_handler(self.state))


def _handler(state: State) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._run(_get)

        def do_DELETE(self) -> None:
            self._run(_delete)

        def do_POST(self) -> None:
            self._run(_post)

        def _run(self, answer: Any) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            try:
                self._check_login()
                status, found = 200, answer(state, url.path.removeprefix(API), query, body)
            except Refusal as refusal:
                status, found = refusal.status, refusal.body
            data = json.dumps(found).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/oauth2/start")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _check_login(self) -> None:
            if not state.token and not state.cookie:
                return
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            state.tokens_seen.append(token)
            has_cookie = state.cookie and state.cookie in self.headers.get("Cookie", "")
            if not has_cookie and (not state.token or token != state.token):
                raise Refusal(
                    302 if state.redirects_to_login else 401, "Request header error: there is no user identity"
                )

        def log_message(self, *_: object) -> None:
            """Silence."""

    return Handler


def _get(state: State, path: str, query: dict[str, str], _: bytes) -> dict[str, Any]:
    match path.strip("/").split("/"):
        case ["healthz"]:
            return {"multi_user": state.is_multi_user}
        case ["pipelines"]:
            namespace = _namespace(state, query.get("namespace", ""))
            return _page(state, [one for one in state.pipelines if one["namespace"] == namespace], "pipelines", query)
        case ["pipelines", pipeline_id, "versions"]:
            of_pipeline = [one for one in state.versions if one["pipeline_id"] == pipeline_id]
            return _page(state, of_pipeline, "pipeline_versions", query)
        case ["experiments"]:
            namespace = _namespace_of_experiment(state, query.get("namespace", ""))
            of_namespace = [one for one in state.experiments if one["namespace"] == namespace]
            return _page(state, of_namespace, "experiments", query)
        case ["recurringruns"]:
            of_experiment = [one for one in state.recurring_runs if one["experiment_id"] == query["experiment_id"]]
            return _page(state, of_experiment, "recurringRuns", query)
        case ["runs", run_id]:
            return _run_now(state, next(one for one in state.runs if one["run_id"] == run_id))
    raise Refusal(404, f"{path} not found")


def _page(state: State, rows: list[dict[str, Any]], field_name: str, query: dict[str, str]) -> dict[str, Any]:
    given = query.get("filter") or "{}"
    for predicate in json.loads(given).get("predicates", []):
        assert predicate["operation"] in (1, "EQUALS")
        if predicate["key"] not in ("name", "display_name"):
            raise Refusal(400, f"no support for filtering on unrecognized field {predicate['key']!r}")
        rows = [row for row in rows if row.get(predicate["key"], row["display_name"]) == predicate["stringValue"]]
    size = min(int(query.get("page_size") or DEFAULT_PAGE_SIZE), MAX_PAGE_SIZE)
    start, _, of_filter = (query.get("page_token") or f"0 {given}").partition(" ")
    if of_filter != given:
        raise Refusal(400, "page token does not match the supplied sort by and/or filtering criteria")
    end = int(start) + size
    following = {"next_page_token": f"{end} {given}"} if len(rows) > end else {}
    return {field_name: rows[int(start) : end], "total_size": len(rows), **following}


def _namespace(state: State, namespace: str) -> str:
    if namespace and state.is_multi_user and namespace not in state.namespaces:
        raise Refusal(403, f"User is not authorized in namespace {namespace!r}")
    return namespace if state.is_multi_user else ""


def _namespace_of_experiment(state: State, namespace: str) -> str:
    if state.is_multi_user and not namespace:
        raise Refusal(400, "An experiment cannot have an empty namespace in multi-user mode")
    return _namespace(state, namespace)


def _run_now(state: State, run: dict[str, Any]) -> dict[str, Any]:
    now = state.run_states.pop(0) if len(state.run_states) > 1 else state.run_states[0]
    others = "SUCCEEDED" if now == "FAILED" else now
    tasks = [
        {"display_name": name, "state": "FAILED" if name in state.failed_tasks else others} for name in ("train", "dub")
    ]
    return {**run, "state": now, "run_details": {"task_details": tasks}}


def _post(state: State, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
    match path.strip("/").split("/"):
        case ["pipelines", "upload"]:
            return _upload_pipeline(state, query, body)
        case ["pipelines", "upload_version"]:
            return _upload_version(state, query, body)
        case ["experiments"]:
            return _create_experiment(state, json.loads(body))
        case ["runs"]:
            return _create_run(state, json.loads(body))
        case ["recurringruns"]:
            return _create_recurring_run(state, json.loads(body))
        case ["recurringruns", verb] if verb.endswith(":enable"):
            _recurring_run(state, verb.removesuffix(":enable"))["mode"] = "ENABLE"
            return {}
    raise Refusal(404, f"{path} not found")


def _upload_pipeline(state: State, query: dict[str, str], body: bytes) -> dict[str, Any]:
    name, namespace = query["name"], query.get("namespace", "")
    if namespace and state.is_multi_user and namespace not in state.namespaces:
        raise Refusal(400, "Failed to create a pipeline", is_upload=True)
    namespace = _namespace(state, namespace)
    if any((one["name"], one["namespace"]) == (name, namespace) for one in state.pipelines):
        raise Refusal(409, "Failed to create a pipeline and a pipeline version", is_upload=True)
    state.uploads.append(body)
    made = state.add_pipeline(name, namespace)
    state.add_version(made["pipeline_id"], name)
    return made


def _upload_version(state: State, query: dict[str, str], body: bytes) -> dict[str, Any]:
    pipeline_id, name = query["pipelineid"], query["name"]
    if pipeline_id not in [one["pipeline_id"] for one in state.pipelines]:
        raise Refusal(400, "Failed to create a pipeline version", is_upload=True)
    if any((one["pipeline_id"], one["name"]) == (pipeline_id, name) for one in state.versions):
        raise Refusal(409, "Failed to create a pipeline version", is_upload=True)
    state.uploads.append(body)
    return state.add_version(pipeline_id, name)


def _create_experiment(state: State, body: dict[str, Any]) -> dict[str, Any]:
    namespace = _namespace_of_experiment(state, body.get("namespace") or "")
    if any((one["display_name"], one["namespace"]) == (body["display_name"], namespace) for one in state.experiments):
        raise Refusal(409, "Already exist error: Failed to create a new experiment")
    experiment_id = f"e{len(state.experiments) + 1}"
    made = {"experiment_id": experiment_id, "display_name": body["display_name"], "namespace": namespace}
    state.experiments.append(made)
    return made


def _create_recurring_run(state: State, body: dict[str, Any]) -> dict[str, Any]:
    """Checks what server/api_converter.go and resource/resource_manager.go check: schedule, concurrency, version."""
    reference, fields = body["pipeline_version_reference"], body["trigger"]["cron_schedule"]["cron"].split()
    known = [(one["pipeline_id"], one["pipeline_version_id"]) for one in state.versions]
    if not 1 <= int(body["max_concurrency"]) <= 10:
        raise Refusal(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
    if len(fields) not in (5, 6) and not fields[0].startswith("@"):
        raise Refusal(400, f"Schedule cron is not a supported format: Expected 5 to 6 fields, found {len(fields)}")
    if (reference.get("pipeline_id"), reference.get("pipeline_version_id")) not in known:
        raise Refusal(500, "Failed to create a recurring run with an invalid pipeline spec manifest")
    number = state.num_schedules = state.num_schedules + 1
    made = {**body, "recurring_run_id": f"s{number}", "created_at": f"2026-01-01T00:00:{number:02}Z"}
    state.recurring_runs.append(made)
    return made


def _recurring_run(state: State, recurring_run_id: str) -> dict[str, Any]:
    for one in state.recurring_runs:
        if one["recurring_run_id"] == recurring_run_id:
            return one
    raise Refusal(404, f"ResourceNotFoundError: Job {recurring_run_id} not found.")


def _delete(state: State, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
    if state.refuses_deletions:
        raise Refusal(500, "InternalServerError")
    state.recurring_runs.remove(_recurring_run(state, path.rsplit("/", 1)[-1]))
    return {}


def _create_run(state: State, body: dict[str, Any]) -> dict[str, Any]:
    reference = body["pipeline_version_reference"]
    known = [(one["pipeline_id"], one["pipeline_version_id"]) for one in state.versions]
    if (reference.get("pipeline_id"), reference.get("pipeline_version_id")) not in known:
        raise Refusal(500, "Failed to create a run due to error fetching manifest")
    if body["experiment_id"] not in [one["experiment_id"] for one in state.experiments]:
        raise Refusal(404, "ResourceNotFoundError: Experiment not found")
    made = {**body, "run_id": f"r{len(state.runs) + 1}"}
    state.runs.append(made)
    return made
