"""``spikefront verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikefront.options import task_options
from spikefront.shared import print_table, recorded_task

if TYPE_CHECKING:
    pass


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@task_options
@click.option("--device", help="Default: the one that it was measured on.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Largest relative difference of accuracy, energy and KL. 0: the same bits.",
)
def verify(config: Path, device: str | None, tolerance: float, **task: Any) -> None:
    """Measure an exported CONFIG again; fail if the numbers differ."""
    from conversion import ConfigError, DeployConfig, DeployError, EnergyModel, load
    from evaluators import Evaluator, Measurement, load_task
    from reports import measurement_table

    deployed = DeployConfig.read(config)
    spec = recorded_task(deployed.provenance.get("task"), task)
    loaded = load_task(spec)
    recorded = deployed.provenance
    try:
        expected = Measurement.from_dict(deployed.measurement)
        energy = EnergyModel.from_dict(deployed.energy_model)
    except (KeyError, TypeError, ConfigError) as error:
        raise DeployError(f"{config} holds no measurement to verify: {error}") from error
    evaluator = Evaluator(
        loaded,
        device=device or recorded.get("device", "cpu"),
        energy=energy,
        batch_size=recorded.get("batch_size"),
        seed=expected.seed,
    )
    model = load(config, loaded.model, device=evaluator.device)
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
