"""``spikefront sensitivity``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikefront.options import energy_option, run_options, sweep_options, task_options
from spikefront.shared import (
    make_evaluator,
    measured_sensitivity,
    named_task,
    print_table,
    steps_of_sweep,
    working,
)

if TYPE_CHECKING:
    pass


@click.command()
@task_options
@run_options
@energy_option("horowitz45")
@sweep_options
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it, as .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sensitivity(
    device: str,
    batch_size: int | None,
    prices: str,
    timesteps: int,
    phi: list[int],
    rho: list[float],
    figure: Path | None,
    as_json: bool,
    **task: Any,
) -> None:
    """Tell how much each layer's φ and ρ matter: divergence and energy when it alone changes.

    On the calibration inputs, without labels; everything is calibrated anew for each change. Kept
    on disk, so that a second time costs nothing.
    """
    from reports import sensitivity_figure, sensitivity_table, write_figure

    spec = named_task(task)
    with working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, prices, batch_size)
    timesteps = steps_of_sweep(timesteps, evaluator)
    found = measured_sensitivity(evaluator, timesteps, phi, rho)
    if figure is not None:
        write_figure(sensitivity_figure(found), figure)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    print_table(sensitivity_table(found))
