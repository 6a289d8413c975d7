"""``spikefront diagnose``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikefront.options import (
    CHOICE,
    choice_options,
    named_options,
    part_options,
    run_options,
    split_option,
    task_options,
)
from spikefront.shared import (
    check_learning,
    learning_bar,
    make_evaluator,
    named_task,
    of_recordings,
    print_table,
    recorded_task,
    uniform_config,
    working,
)

if TYPE_CHECKING:
    pass


@click.command()
@task_options
@run_options
@choice_options
@split_option
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Look into this exported config instead of a uniform choice.",
)
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True)
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it, as .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diagnose(
    device: str,
    batch_size: int | None,
    split: str,
    config: Path | None,
    samples: int,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Tell which layer to mend: how much of its error is clipping, rounding, uneven input.

    The figure shows the same. Inherited is what came with the input, from the layers before.
    """
    from conversion import DeployConfig, Inputs, load
    from conversion import convert as make_spiking
    from conversion import diagnose as find_errors
    from reports import diagnosis_figure, diagnosis_table, write_figure

    choice, task = part_options(options)
    if config is not None and (given := named_options(*CHOICE)):
        raise click.UsageError(f"give either --config or --{given[0].replace('_', '-')}, not both")
    check_learning(choice)
    deployed = DeployConfig.read(config) if config else None
    spec = recorded_task(deployed.provenance.get("task"), task) if deployed else named_task(task)
    with working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, "horowitz45", batch_size)
    if config:
        model = load(config, evaluator.task.model, device=device)
    else:
        conversion = uniform_config(evaluator.layers, of_recordings(choice, evaluator))
        with learning_bar(conversion) as on_iteration:
            model = make_spiking(evaluator.profile, conversion, on_iteration=on_iteration)
    given, _ = next(evaluator.task.split(split).batches(samples))
    inputs = Inputs.of(given)
    found = find_errors(model, inputs.to(evaluator.device))
    if figure is not None:
        write_figure(diagnosis_figure(found), figure)
    if as_json:
        click.echo(
            json.dumps({"split": split, "n": len(inputs), "layers": list(map(asdict, found))})
        )
        return
    print_table(diagnosis_table(found))
