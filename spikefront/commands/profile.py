"""``spikefront profile``."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from spikefront.options import run_options, task_options
from spikefront.shared import make_evaluator, named_task, print_table, working

@click.command()
@task_options
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def profile(device: str, batch_size: int | None, as_json: bool, **task: Any) -> None:
    """Print the spiking layers and what the calibration data shows of them."""
    from reports import layer_rows, profile_table

    spec = named_task(task)
    with working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, "horowitz45", batch_size)
    found = evaluator.profile
    if as_json:
        costs = dataclasses.asdict(dataclasses.replace(found.costs, fan_out={}))
        nodes = {"analog_nodes": found.network.analog_nodes}
        click.echo(json.dumps({"layers": layer_rows(found), **costs, **nodes}))
        return
    print_table(profile_table(found))
