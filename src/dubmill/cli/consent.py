"""The command `dubmill consent`: verifies the ledger of dubs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check the ledger of dubs and their consent statements.", no_args_is_help=True)


@app.callback()
def consent() -> None:
    """Check the ledger of dubs and their consent statements."""


@app.command()
def verify(
    ledger: Annotated[Path, typer.Argument(help="the ledger file, which has one line per dub")] = Path("consent.jsonl"),
    head: Annotated[
        str, typer.Option(help="hash of an entry that must be in it, such as a job's `consent_entry`")
    ] = "",
) -> None:
    """Check the hash chain of a consent ledger; the error names the line where an entry was changed, removed or added."""
    from dubmill.dubbing.consent import verify_ledger

    num_entries, last_hash = verify_ledger(ledger, head=head)
    typer.echo(f"verify: {num_entries} entries are in order; the last one is {last_hash}")
