"""``spikefront verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from spikefront.loading import loaded_config
from spikefront.options import MACHINE, SETTING, command, option, task_options
from spikefront.output import print_table


@command()
@click.argument("config", type=click.Path(path_type=Path))
@task_options
@option(MACHINE, "--device", help="Default: the one that it was measured on.")
@option(
    SETTING,
    "--tolerance",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="FRACTION",
    help="Largest relative difference of accuracy, energy and divergence; 0: the same bits.",
)
def verify(config: Path, device: str | None, tolerance: float, **task: Any) -> None:
    """Measure an exported CONFIG again; fail if the numbers differ.

    \b
    spikefront verify chosen.json
    spikefront verify chosen.json --device cuda --tolerance 0.001
    """  # noqa: D301 - click wants the control character
    from conversion import ConfigError, DeployConfig, DeployError, EnergyModel
    from evaluators import Evaluator, Measurement
    from reports import measurement_table

    recorded = DeployConfig.read(config).provenance
    device = device or recorded.get("device", "cpu")
    deployed, used, model = loaded_config(config, task, device)
    try:
        expected = Measurement.from_dict(deployed.measurement)
        energy = EnergyModel.from_dict(deployed.energy_model)
    except (KeyError, TypeError, ConfigError) as error:
        raise DeployError(f"{config} holds no measurement to verify: {error}") from error
    evaluator = Evaluator(
        used,
        device=device,
        energy=energy,
        batch_size=recorded.get("batch_size"),
        seed=expected.seed,
    )
    found = evaluator.record(model, expected.split).measure(model.exit)
    print_table(measurement_table(found, evaluator.ann(found.split)))
    _compare(config, expected, found, tolerance, recorded)


def _compare(config: Path, expected: Any, found: Any, tolerance: float, recorded: Any) -> None:
    import torch

    from conversion import DeployError

    same_bits = found.same_outputs(expected)
    here = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    there = f"torch {recorded.get('torch')}, {recorded.get('threads')} threads"
    worst = 0.0
    for name in ("accuracy", "energy_pj", "kl", "timesteps"):
        was, now = getattr(expected, name).value, getattr(found, name).value
        worst = max(worst, abs(now - was) / max(abs(was), 1e-12))
    if same_bits and worst == 0:
        click.echo(f"\n{config}: the same outputs, bit for bit (n = {found.n}).")
        return
    if same_bits is None and worst == 0:
        click.echo(f"\n{config}: the same figures; the hash that it holds is of an older format.")
        return
    if worst <= tolerance and tolerance > 0:
        click.echo(f"\n{config}: other bits, but within {worst:.2g} (relative).")
        return
    raise DeployError(
        f"{config} does not verify: {'the same' if same_bits else 'other'} outputs, {found.metric}"
        f" {expected.accuracy.value:.4f} -> {found.accuracy.value:.4f}, energy"
        f" {expected.energy_pj.value:.6g} -> {found.energy_pj.value:.6g} pJ, largest relative"
        f" difference {worst:.2g}; measured with {there}, here {here}. --tolerance allows for"
        " another machine"
    )
