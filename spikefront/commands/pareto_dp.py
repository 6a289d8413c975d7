"""``spikefront pareto-dp``."""

from __future__ import annotations

import json
from dataclasses import asdict
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


@click.command("pareto-dp")
@task_options
@run_options
@energy_option("horowitz45")
@sweep_options
@click.option("--points", type=click.IntRange(2), default=12, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pareto_dp(
    device: str,
    batch_size: int | None,
    prices: str,
    timesteps: int,
    phi: list[int],
    rho: list[float],
    points: int,
    as_json: bool,
    **task: Any,
) -> None:
    """The paper's search: φ, then ρ, by sensitivities that add up; each point measured.

    Wang et al.'s dynamic programme for a range of budgets, on one sensitivity profile. Every step
    runs, without early exit; `spikefront search` measures such points among its baselines.
    """
    from conversion import Choice, ConversionConfig, ExitPolicy, LayerConfig
    from reports import paper_rows, paper_table
    from search import ParetoSearch

    spec = named_task(task)
    with working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, prices, batch_size)
    timesteps = steps_of_sweep(timesteps, evaluator)
    front = ParetoSearch(measured_sensitivity(evaluator, timesteps, phi, rho)).front(points)
    measured = []
    for choice in front:
        layers = {n: LayerConfig(phi=choice.phi[n], rho=choice.rho[n]) for n in choice.phi}
        config = ConversionConfig(timesteps=timesteps, layers=layers)
        measured.append(evaluator.measure(Choice(conversion=config, exit=ExitPolicy())))
    ann = evaluator.ann("search")
    if as_json:
        rows = paper_rows(front, measured)
        click.echo(json.dumps({"timesteps": timesteps, "ann": asdict(ann), "points": rows}))
        return
    print_table(paper_table(front, measured, ann))
