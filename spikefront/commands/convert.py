"""``spikefront convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikefront.options import run_options, split_option, task_options
from spikefront.shared import print_table, recorded_task

if TYPE_CHECKING:
    pass


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@task_options
@run_options
@click.option(
    "--logits",
    type=click.Path(path_type=Path),
    help="Write the outputs and exit steps of a split here (safetensors).",
)
@split_option
def convert(
    config: Path, device: str, batch_size: int | None, logits: Path | None, split: str, **task: Any
) -> None:
    """Rebuild the spiking model of an exported CONFIG and say what it is."""
    import safetensors.torch
    import torch

    from conversion import DeployConfig, Inputs, load, write_file
    from evaluators import load_task
    from reports import model_table

    deployed = DeployConfig.read(config)
    loaded = load_task(recorded_task(deployed.provenance.get("task"), task))
    model = load(config, loaded.model, device=device)
    if logits is not None:
        batches = loaded.split(split).batches(batch_size or 32)
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
    click.echo(f"Every hash of {config} is right; {logits or 'the model'} is ready.")
