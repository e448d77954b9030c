"""One job as the API shows it, read from its workflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What a job does, its `kind`: dub a clip in one request or a video of any length, or make a project of a film, dub one of its
# segments again, or dub what is missing and join it; the last three name the `project`.
TASKS = ("clip", "dub", "open", "redo", "render")
FILE_TASKS = ("clip", "dub", "render")  # their result is a file
State = Literal["queued", "running", "done", "failed", "cancelled"]
OPEN = ["ENQUEUED", "DELAYED", "PENDING"]  # as the queue calls a job that is not over
STATES: dict[str, State] = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "done",
    "CANCELLED": "cancelled",
}


@dataclass(frozen=True)
class Job:
    """One job at one moment; times are seconds since 1970, `progress` is the share done, 0 to 1.

    `fields` are what was submitted, without the media, which is in the file `upload` (empty for a job of an older version); `task` says what is
    done with it, see `TASKS`; `result` is empty until the state is done, and `problem` unless it is failed.
    """

    id: str
    owner: str
    state: State
    fields: Mapping[str, Any]
    upload: str
    created: float
    started: float | None
    finished: float | None
    task: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    problem: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the job will not change any more."""
        return self.state in ("done", "failed", "cancelled")

    @property
    def progress(self) -> float:
        """Share done, 0 to 1."""
        return 1.0 if self.state == "done" else float(self.attributes.get("progress", 0.0))


def job_of(status: Any) -> Job:
    """A workflow as a job: a dub that was refused is a workflow that succeeded, with a problem as output."""
    output = status.output if isinstance(status.output, Mapping) else {}
    state, problem = STATES.get(status.status, "failed"), dict(output.get("problem", {}))
    document: Mapping[str, Any] = status.input["args"][0] if status.input else {"fields": {}}
    if state == "failed" or problem:
        state = "failed"
        problem = problem or {
            "kind": "DubmillError",
            "what": "the dub failed",
            "where": "",
            "cure": "see the server's log",
        }
    return Job(
        id=status.workflow_id,
        owner=status.authenticated_user or "",
        state=state,
        fields=document["fields"],
        upload=document.get("upload", ""),
        created=status.created_at / 1000,
        started=status.dequeued_at / 1000 if status.dequeued_at else None,
        finished=status.completed_at / 1000 if status.completed_at else None,
        task=document.get("task") or {"kind": "clip" if document.get("is_clip") else "dub"},  # older jobs have no task
        attributes=status.attributes or {},
        result={} if state != "done" else output,
        problem=problem,
    )
