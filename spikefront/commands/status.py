"""``spikefront status``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from spikefront.options import study_options
from spikefront.shared import open_study, print_table

if TYPE_CHECKING:
    pass


@click.command()
@study_options
@click.option("--watch", is_flag=True, help="Look again every few seconds, until it is done.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(
    out: Path, storage: str | None, study_name: str | None, watch: bool, as_json: bool
) -> None:
    """Tell how a study is getting on: trials, workers, rate, time left, its front so far.

    It looks into the storage only, and may run anywhere at any time.
    """
    import time

    from rich.live import Live

    import search as rooms
    from reports import front_so_far, status_table

    study = open_study(out, storage, study_name)
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
