"""``spikefront convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from spikefront.loading import loaded_config
from spikefront.options import (
    OUTPUT,
    command,
    option,
    run_options,
    split_option,
    task_options,
)
from spikefront.output import print_table


@command()
@click.argument("config", type=click.Path(path_type=Path))
@task_options
@split_option
@run_options
@option(
    OUTPUT,
    "--logits",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the outputs and exit steps of the split here (.safetensors).",
)
def convert(
    config: Path, device: str, batch_size: int | None, logits: Path | None, split: str, **task: Any
) -> None:
    """Rebuild the spiking model of an exported CONFIG and describe it.

    \b
    spikefront convert chosen.json
    spikefront convert chosen.json --split test --logits answers.safetensors
    """  # noqa: D301 - click wants the control character
    import safetensors.torch
    import torch

    from conversion import Inputs, write_file
    from reports import model_table

    _, task_loaded, model = loaded_config(config, task, device)
    if logits is not None:
        batches = task_loaded.split(split).batches(batch_size or 32)
        answers = [model.infer(Inputs.of(x).to(device)) for x, _ in batches]
        names = [name for name in answers[0].answers if name != model.outputs.output]
        write_file(
            logits,
            safetensors.torch.save(
                {
                    "logits": torch.cat([a.logits for a in answers]).cpu(),
                    **{n: torch.cat([a.answers[n] for a in answers]).cpu() for n in names},
                    "timesteps": torch.cat([a.timesteps for a in answers]).cpu(),
                }
            ),
        )
    print_table(model_table(model))
    written = f"; the outputs are in {logits}" if logits else ""
    click.echo(f"Every hash of {config} is right{written}.")
