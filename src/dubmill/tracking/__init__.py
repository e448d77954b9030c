"""MLflow runs, the model registry with its aliases, the promotion ledger, and the manifest of a release.

server      the tracking server, and one error where it does not answer
runs        params, figures, loss curves and files of a run
live        the loss curves of a training while it runs
registry    model versions by the adapter's digest; the aliases challenger, champion and previous
lock        one promotion at a time
ledger      the history of promotions, an append-only file (MLflow keeps no such history)
changes     whether a recurring run has something to do
data_versions  gated pairs in git and DVC
notices     the notice at the end of a run
rules       conditions under which a challenger becomes champion
deployment  the KServe manifest of a release
endpoint    rolls the InferenceService together with the alias, after a canary
canary      dubs held-out clips with it and compares their figures
git         git and DVC as commands
backup      backup and restore of registry and ledger

MLflow is imported by the first call that needs it (1.8 s), with its telemetry disabled.
"""

from dubmill.tracking.changes import data_tags, reason_to_train
from dubmill.tracking.ledger import Entry, Ledger
from dubmill.tracking.lock import promotion_lock
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
    is_champions,
    move_alias,
    promote_alias,
    record,
    report_of,
    report_rows,
    report_tags,
    rollback,
    tag_version,
)
from dubmill.tracking.runs import (
    MODEL_TAG,
    log_adapter,
    log_datasets,
    log_figures,
    log_losses,
    log_params,
    log_report,
    logged_run,
)
from dubmill.tracking.server import answering, client, public_uri, tracking_uri

__all__ = [
    "MODEL_TAG",
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
    "create_version",
    "data_tags",
    "find_version",
    "get_version",
    "is_champions",
    "log_adapter",
    "log_datasets",
    "log_figures",
    "log_losses",
    "log_params",
    "log_report",
    "move_alias",
    "logged_run",
    "promote_alias",
    "promotion_lock",
    "public_uri",
    "reason_to_train",
    "record",
    "report_of",
    "report_rows",
    "report_tags",
    "rollback",
    "tag_version",
    "tracking_uri",
]
