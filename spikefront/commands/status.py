"""``spikefront status``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.table import Table

from spikefront.loading import open_study
from spikefront.options import OUTPUT, command, json_option, option, study_options
from spikefront.output import print_table


@command()
@study_options
@option(OUTPUT, "--watch", is_flag=True, help="Refresh every few seconds until the study is done.")
@json_option
def status(
    out: Path, storage: str | None, study_name: str | None, watch: bool, as_json: bool
) -> None:
    """Show how a study is getting on: trials, workers, rate, time left, the front so far.

    Reads the storage only, so it may run anywhere at any time.

    \b
    spikefront status --watch
    spikefront status --storage postgresql+psycopg://user@host/db --study digits --json
    """  # noqa: D301 - click wants the control character
    import time

    from rich.live import Live

    study = open_study(out, storage, study_name)
    import search as rooms
    from reports import front_so_far, status_table

    if as_json:
        click.echo(json.dumps(asdict(rooms.study_status(study))))
        return

    def view() -> Table:
        front = front_so_far(study)  # before the counts, which may then be newer, but never older
        return status_table(rooms.study_status(study), front)

    if not watch:
        print_table(view())
        return
    with Live(view(), console=Console(), auto_refresh=False, vertical_overflow="visible") as live:
        while not rooms.study_status(study).is_done:
            time.sleep(2)
            live.update(view(), refresh=True)
        live.update(view(), refresh=True)
