"""``spikefront pareto-dp``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import rich_click as click

from spikefront.loading import loaded, measured_sensitivity, steps_of_sweep
from spikefront.options import (
    SETTING,
    command,
    energy_option,
    json_option,
    option,
    run_options,
    sweep_options,
    task_options,
)
from spikefront.output import show


@command("pareto-dp")
@task_options
@sweep_options
@option(
    SETTING, "--configs", type=click.IntRange(2), default=12, show_default=True, metavar="N",
    help="Number of configs of its front to measure.",
)  # fmt: skip
@energy_option("horowitz45")
@run_options
@json_option
def pareto_dp(
    device: str,
    batch_size: int | None,
    prices: str,
    timesteps: int,
    phi: list[int],
    rho: list[float],
    configs: int,
    as_json: bool,
    **task: Any,
) -> None:
    """Run the search of Wang et al.: φ, then ρ, assuming additive sensitivities.

    Solves the paper's dynamic programme for a range of budgets on one sensitivity profile, then
    measures each point, without early exit. `spikefront search` measures such points among its
    baselines.

    \b
    spikefront pareto-dp --configs 6
    """  # noqa: D301 - click wants the control character
    from conversion import Choice, ConversionConfig, ExitPolicy, LayerConfig
    from reports import paper_rows, paper_table
    from search import ParetoSearch

    evaluator, _ = loaded(task, device, batch_size, prices)
    timesteps = steps_of_sweep(timesteps, evaluator)
    front = ParetoSearch(measured_sensitivity(evaluator, timesteps, phi, rho)).front(configs)
    measured = []
    for choice in front:
        layers = {n: LayerConfig(phi=choice.phi[n], rho=choice.rho[n]) for n in choice.phi}
        config = ConversionConfig(timesteps=timesteps, layers=layers)
        measured.append(evaluator.measure(Choice(conversion=config, exit=ExitPolicy())))
    ann = evaluator.ann("search")
    show(
        as_json,
        lambda: {
            "timesteps": timesteps, "ann": asdict(ann), "points": paper_rows(front, measured)
        },
        lambda: paper_table(front, measured, ann),
    )  # fmt: skip
