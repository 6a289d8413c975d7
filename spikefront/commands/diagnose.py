"""``spikefront diagnose``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from spikefront.loading import (
    check_learning,
    loaded,
    loaded_config,
    of_recordings,
    uniform_config,
)
from spikefront.options import (
    CHOICE,
    SETTING,
    choice_options,
    command,
    figure_option,
    json_option,
    option,
    part_options,
    run_options,
    split_option,
    task_options,
)
from spikefront.output import learning_bar, show
from spikefront.settings import named_options

if TYPE_CHECKING:
    from conversion import SpikingModel
    from evaluators import Task


@command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@task_options
@choice_options
@split_option
@option(
    SETTING, "--samples", type=click.IntRange(1), default=64, show_default=True, metavar="N",
    help="Number of samples to take from the split.",
)  # fmt: skip
@run_options
@figure_option
@json_option
def diagnose(
    config: Path | None,
    device: str,
    batch_size: int | None,
    split: str,
    samples: int,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show where the error of each layer comes from: clipping, rounding, uneven input.

    Diagnoses an exported CONFIG or a uniform setting. An inherited error comes from earlier layers,
    through the input.

    \b
    spikefront diagnose --phi 2 --timesteps 4 --figure errors.png
    spikefront diagnose chosen.json
    """  # noqa: D301 - click wants the control character
    from conversion import Inputs
    from conversion import diagnose as find_errors
    from reports import diagnosis_table, plot_diagnosis, write_figure

    choice, task = part_options(options)
    if config is not None and (given := named_options(*CHOICE)):
        raise click.UsageError(f"give either CONFIG or --{given[0].replace('_', '-')}, not both")
    check_learning(choice)
    if config is not None:
        _, used, model = loaded_config(config, task, device)
    else:
        used, model = _uniform(choice, task, device, batch_size)
    given, _ = next(used.split(split).batches(samples))
    inputs = Inputs.of(given)
    found = find_errors(model, inputs.to(device))
    if figure is not None:
        write_figure(plot_diagnosis(found), figure)
    show(
        as_json,
        lambda: {"split": split, "n": len(inputs), "layers": list(map(asdict, found))},
        lambda: diagnosis_table(found),
    )


def _uniform(
    choice: dict[str, Any], task: dict[str, Any], device: str, batch_size: int | None
) -> tuple[Task, SpikingModel]:
    from conversion import convert

    evaluator, _ = loaded(task, device, batch_size)
    conversion = uniform_config(evaluator.layers, of_recordings(choice, evaluator))
    with learning_bar(conversion) as on_iteration:
        return evaluator.task, convert(evaluator.profile, conversion, on_iteration=on_iteration)
