"""``spikefront check``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit

from spikefront.loading import loaded_config
from spikefront.options import (
    SETTING,
    TARGET,
    command,
    json_option,
    option,
    read_by,
    split_option,
    task_options,
    whole_numbers,
)
from spikefront.output import print_table

if TYPE_CHECKING:
    from conversion import SpikingModel
    from evaluators import Evaluator, Measurement


@command()
@click.argument("config", type=click.Path(path_type=Path))
@option(
    SETTING,
    "--target",
    "name",
    type=TARGET,
    required=True,
    help="The chip; built in:",
)
@option(
    SETTING,
    "--bits",
    callback=read_by(whole_numbers),
    metavar="N,N,…",
    help="Weight bits to measure, like 8,6,4. Default: the target's.",
)
@task_options
@split_option
@json_option
def check(
    config: Path, name: str, bits: tuple[int, ...], split: str, as_json: bool, **task: Any
) -> None:
    """List what in an exported CONFIG does not fit a chip, layer by layer, and what to change.

    The network then runs in integers of the chip's widths, to show their accuracy. The exit code
    is 1 if something does not fit.

    \b
    spikefront check chosen.json --target speck
    spikefront check chosen.json --target xylo --bits 8,6,4
    """  # noqa: D301 - click wants the control character
    from conversion.export import program_of
    from conversion.targets import check as violations_of
    from conversion.targets import target
    from evaluators import Evaluator
    from reports import bits_table, violations_table

    chip = target(name)
    deployed, used, model = loaded_config(config, task)
    program = program_of(model)
    found = violations_of(program, chip)
    evaluator = Evaluator(used, seed=deployed.provenance.get("seed", 0))
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
        raise Exit(1)


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
