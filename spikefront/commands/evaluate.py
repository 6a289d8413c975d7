"""``spikefront evaluate``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import rich_click as click

from spikefront.loading import check_learning, loaded, of_recordings, uniform_config
from spikefront.options import (
    SETTING,
    choice_options,
    command,
    energy_option,
    json_option,
    option,
    part_options,
    run_options,
    split_option,
    task_options,
)
from spikefront.output import learning_bar, show


@command()
@task_options
@choice_options
@option(
    SETTING,
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="A sample exits above this confidence; 1: never.",
)
@option(
    SETTING,
    "--beta",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Part of the exit threshold that follows the entropy of the calibration samples.",
)
@split_option
@energy_option("horowitz45")
@run_options
@json_option
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
    """Measure one uniform setting, without a study.

    \b
    spikefront evaluate --phi 4 --rho 2 --timesteps 8
    spikefront evaluate --phi 1 --timesteps 2 --calibration learned --alpha 1
    """  # noqa: D301 - click wants the control character
    from conversion import Choice, ExitPolicy
    from reports import measurement_table

    choice, task = part_options(options)
    check_learning(choice)
    evaluator, _ = loaded(task, device, batch_size, prices)
    conversion = uniform_config(evaluator.layers, of_recordings(choice, evaluator))
    policy = ExitPolicy(
        score=evaluator.profile.outputs.score or "entropy",
        alpha=alpha if evaluator.profile.outputs.score else 1.0,
        beta=beta,
    )
    with learning_bar(conversion) as on_iteration:
        given = Choice(conversion=conversion, exit=policy)
        model = evaluator.convert(given, on_iteration=on_iteration)
    m = evaluator.record(model, split).measure(model.exit)
    ann = evaluator.ann(split)
    show(as_json, lambda: {**m.to_dict(), "ann": asdict(ann)}, lambda: measurement_table(m, ann))
