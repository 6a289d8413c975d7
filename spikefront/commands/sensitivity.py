"""``spikefront sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikefront.loading import loaded, measured_sensitivity, steps_of_sweep
from spikefront.options import (
    command,
    energy_option,
    figure_option,
    json_option,
    run_options,
    sweep_options,
    task_options,
)
from spikefront.output import show


@command()
@task_options
@sweep_options
@energy_option("horowitz45")
@run_options
@figure_option
@json_option
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
    """Show how much each layer's φ and ρ matter: divergence and energy when it alone changes.

    Measured on the calibration inputs, without labels; the network is calibrated anew for each
    change. The result is cached on disk.

    \b
    spikefront sensitivity --figure sensitivity.png
    """  # noqa: D301 - click wants the control character
    from reports import draw_sensitivity, sensitivity_table, write_figure

    evaluator, _ = loaded(task, device, batch_size, prices)
    timesteps = steps_of_sweep(timesteps, evaluator)
    found = measured_sensitivity(evaluator, timesteps, phi, rho)
    if figure is not None:
        write_figure(draw_sensitivity(found), figure)
    show(as_json, found.to_dict, lambda: sensitivity_table(found))
