"""``spikefront evaluate``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from spikefront.options import (
    choice_options,
    energy_option,
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
    uniform_config,
    working,
)

if TYPE_CHECKING:
    pass


@click.command()
@task_options
@run_options
@energy_option("horowitz45")
@choice_options
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="Exit above this confidence; 1 never exits.",
)
@click.option(
    "--beta",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Part of the exit threshold that follows the calibration entropy.",
)
@split_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    device: str,
    batch_size: int | None,
    prices: str,
    alpha: float,
    beta: float,
    split: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure one uniform choice, without a study."""
    from conversion import Choice, ExitPolicy
    from reports import measurement_table

    choice, task = part_options(options)
    check_learning(choice)
    spec = named_task(task)
    with working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, prices, batch_size)
    conversion = uniform_config(evaluator.layers, of_recordings(choice, evaluator))
    policy = ExitPolicy(
        score=evaluator.profile.outputs.score or "entropy",
        alpha=alpha if evaluator.profile.outputs.score else 1.0,
        beta=beta,
    )
    with learning_bar(conversion) as on_iteration:
        given = Choice(conversion=conversion, exit=policy)
        model = evaluator.convert(given, on_iteration=on_iteration)
    measurement = evaluator.record(model, split).measure(model.exit)
    if as_json:
        click.echo(json.dumps({**measurement.to_dict(), "ann": asdict(evaluator.ann(split))}))
        return
    print_table(measurement_table(measurement, evaluator.ann(measurement.split)))
