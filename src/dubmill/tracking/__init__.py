"""MLflow as the line uses it: runs, the model registry with its aliases, model cards, and our own promotion ledger.

server    which tracking server, and one sentence when it does not answer
runs      what a run holds: params, figures, loss curves, files
registry  model versions found by the adapter's digest; the aliases challenger, champion and previous
ledger    who was champion, since when and why: a file that only grows (MLflow keeps no such history)
rules     when a challenger becomes champion

MLflow is imported when the first call needs it (1.8 s), with its telemetry switched off.
"""

from dubmill.tracking.ledger import Entry, Ledger
from dubmill.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Version,
    add_report,
    aliased,
    create_version,
    find_version,
    get_version,
    move_alias,
    promote_alias,
    record,
    report_of,
    report_rows,
    report_tags,
    rollback,
    tag_version,
)
from dubmill.tracking.runs import close_run, log_adapter, log_figures, log_losses, log_params, log_report, open_run
from dubmill.tracking.server import answering, client, public_uri, tracking_uri

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "Entry",
    "Ledger",
    "Version",
    "add_report",
    "aliased",
    "answering",
    "client",
    "close_run",
    "create_version",
    "find_version",
    "get_version",
    "log_adapter",
    "log_figures",
    "log_losses",
    "log_params",
    "log_report",
    "move_alias",
    "open_run",
    "promote_alias",
    "public_uri",
    "record",
    "report_of",
    "report_rows",
    "report_tags",
    "rollback",
    "tag_version",
    "tracking_uri",
]
