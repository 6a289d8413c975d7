"""``spikefront profile``."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from spikefront.loading import loaded
from spikefront.options import command, json_option, run_options, task_options
from spikefront.output import show


@command()
@task_options
@run_options
@json_option
def profile(device: str, batch_size: int | None, as_json: bool, **task: Any) -> None:
    """List the spiking layers and their statistics on the calibration data.

    \b
    spikefront profile
    spikefront profile --task cifar10 --data ~/data --weights resnet20.safetensors
    """  # noqa: D301 - click wants the control character
    from reports import layer_rows, profile_table

    evaluator, _ = loaded(task, device, batch_size)
    found = evaluator.profile
    show(
        as_json,
        lambda: {
            "layers": layer_rows(found),
            **asdict(replace(found.costs, fan_out={})),
            "analog_nodes": found.network.analog_nodes,
        },
        lambda: profile_table(found),
    )
