"""``spikefront check``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikefront.options import TARGET, read_whole_numbers, split_option, task_options
from spikefront.shared import print_table, recorded_task, working

if TYPE_CHECKING:
    from conversion import SpikingModel
    from evaluators import Evaluator, Measurement


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--target", "name", type=TARGET, required=True, help="The chip, or a file of limits.")
@task_options
@click.option(
    "--bits",
    callback=lambda context, option, text: read_whole_numbers(text) if text else (),
    help="Weight bits to measure, like 8,6,4. Default: the target's.",
)
@split_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    config: Path, name: str, bits: tuple[int, ...], split: str, as_json: bool, **task: Any
) -> None:
    """Say what of an exported CONFIG does not fit a chip, layer by layer, and what to change.

    The network is then run in integers of the chip's widths, and its accuracy shown. Fails if
    something does not fit.

    \b
    spikefront check runs/digits/trial-59.json --target speck
    spikefront check runs/digits/trial-59.json --target xylo --bits 8,6,4
    """  # noqa: D301 - click wants the control character
    from conversion import DeployConfig, load
    from conversion.export import program_of
    from conversion.targets import check as violations_of
    from conversion.targets import target
    from evaluators import Evaluator, load_task
    from reports import bits_table, violations_table

    chip = target(name)
    deployed = DeployConfig.read(config)
    spec = recorded_task(deployed.provenance.get("task"), task)
    with working(f"loading {spec.task}"):
        loaded = load_task(spec)
        model = load(config, loaded.model)
    program = program_of(model)
    found = violations_of(program, chip)
    evaluator = Evaluator(loaded, seed=spec.seed)
    widths = bits or ((chip.weight_bits,) if chip.weight_bits else ())
    state = min(chip.state_bits or 16, 32)
    measured, failed = _measured(model, evaluator, widths, split, state)
    if as_json:
        fixed = [{"bits": width, **_figures(m)} for width, m in measured]
        lines = [asdict(one) for one in found]
        click.echo(
            json.dumps(
                {"target": chip.name, "fits": not found, "violations": lines, "measured": fixed}
            )
        )
    else:
        click.echo("" if found else f"{config} fits {chip.title}.")
        if found:
            print_table(violations_table(found, chip.title))
        print_table(bits_table(measured, program))
        click.echo(f"\nLimits: {chip.source}")
    if failed:
        click.echo(f"error: {failed}", err=True)
    if found or failed:
        raise click.exceptions.Exit(1)


def _measured(
    model: SpikingModel, evaluator: Evaluator, widths: tuple[int, ...], split: str, state: int
) -> tuple[list[tuple[int | None, Measurement]], str]:
    """The model in floating point and with weights of some bits; and why it has no integers."""
    from conversion import ConversionError, in_integers

    found: list[tuple[int | None, Measurement]] = []
    for width in (None, *widths):
        try:
            run = in_integers(model.with_bits(width), state_bits=state)
        except ConversionError as error:
            return found, str(error)
        found.append((width, evaluator.record(run, split).measure(model.exit)))
    return found, ""


def _figures(m: Measurement) -> dict[str, float]:
    return {
        m.metric.replace(" ", "_"): m.accuracy.value,
        "drop": m.drop.mean if m.drop else 0.0,
        "energy_ratio": m.energy_ratio,
        "timesteps_mean": m.timesteps.value,
    }
