"""Accuracy of every way to calibrate: ``python -m benchmarks.calibration [--json]``.

On ``digits``, or on CIFAR-10 with ``--data`` and ``--weights``: none, light, advanced and error
compensation (learned thresholds, dual-threshold neurons, light) at φ × ρ × T, each
converted for its T; n = the search split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from conversion import (
    ConversionConfig,
    convert,
    learn_thresholds,
)
from evaluators import Evaluator, TaskSpec, load_task
from reports import write_figure

STEPS = (1, 2, 4, 8, 16, 32)
SETTINGS = tuple((phi, rho) for phi in (1, 4, 8) for rho in (1.0, 2.0))
WAYS = ("none", "light", "advanced", "error compensation")


def measured(evaluator: Evaluator, batches: list[Tensor]) -> Iterator[dict[str, Any]]:
    """One row per way, φ, ρ and T."""
    for phi, rho in SETTINGS:
        for steps in STEPS:
            for way in WAYS:
                compensates = way == "error compensation"
                config = ConversionConfig.uniform(
                    evaluator.layers,
                    timesteps=steps,
                    phi=phi,
                    rho=rho,
                    neuron="dual-threshold" if compensates else "adafire",
                    calibration="light" if compensates else way,
                )
                learn = learn_thresholds if compensates else None
                thetas = learn(evaluator.profile, config, batches) if learn else None
                found = evaluator.record(
                    convert(evaluator.profile, config, thetas=thetas), "search"
                )
                last = found.measure()
                yield {
                    "calibration": way,
                    "phi": phi,
                    "rho": rho,
                    "timesteps": steps,
                    "accuracy": last.accuracy.value,
                    "accuracy_low": last.accuracy.low,
                    "accuracy_high": last.accuracy.high,
                    "kl": last.kl.value,
                    "energy_ratio": last.energy_ratio,
                }


def drawn(rows: list[dict[str, Any]], ann: float) -> Figure:
    """Accuracy over T, a panel per φ and ρ."""
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    for (phi, rho), axes in zip(SETTINGS, panels.T.flat, strict=True):
        for way in WAYS:
            line = [r for r in rows if (r["phi"], r["rho"], r["calibration"]) == (phi, rho, way)]
            axes.plot(
                [r["timesteps"] for r in line], [100 * r["accuracy"] for r in line], marker="o",
                markersize=3.5, linewidth=1.3, label=way,
            )  # fmt: skip
        axes.axhline(100 * ann, color="#333333", linestyle=":", linewidth=1)
        axes.set_title(f"φ = {phi}, ρ = {rho:g}", fontsize=10)
        axes.set_xscale("log", base=2)
        axes.set_xticks(STEPS, map(str, STEPS))
        axes.grid(alpha=0.25)
    figure.supxlabel("timesteps T", fontsize=10)
    figure.supylabel("accuracy, % (dotted: the ANN)", fontsize=10)
    panels[1, 0].legend(fontsize=8, loc="lower right")
    return figure


@click.command()
@click.option("--data", help="Folder of CIFAR-10; without it, digits.")
@click.option("--weights", help="Weights of a ResNet-20 for it.")
@click.option("--samples", default=450, show_default=True, help="Of the search split (CIFAR-10).")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it, as .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, last.")
def main(
    data: str | None, weights: str | None, samples: int, figure: Path | None, as_json: bool
) -> None:
    """Measure every way to calibrate over T, φ and ρ."""
    spec = TaskSpec()
    if data:
        spec = TaskSpec(task="cifar10", data=data, weights=weights, search_samples=samples)
    evaluator = Evaluator(load_task(spec))
    ann = evaluator.ann("search")
    batches = [x for x, _ in evaluator.task.calibration.batches(64)]
    rows = []
    for row in measured(evaluator, batches):
        rows.append(row)
        click.echo(json.dumps(row), err=True)
    if figure:
        write_figure(drawn(rows, ann.accuracy.value), figure)
    if as_json:
        click.echo(json.dumps({"ann_accuracy": ann.accuracy.value, "n": ann.n, "rows": rows}))
        return
    table = Table("φ", "ρ", "calibration", *(f"T = {steps}" for steps in STEPS))
    for phi, rho in SETTINGS:
        for way in WAYS:
            line = [r for r in rows if (r["phi"], r["rho"], r["calibration"]) == (phi, rho, way)]
            cells = (f"{100 * r['accuracy']:.1f}" for r in line)
            table.add_row(str(phi), f"{rho:g}", way, *cells)
        table.add_section()
    table.title = f"{spec.task}: accuracy, %, n = {ann.n}; the ANN {ann.accuracy.value:.1%}"
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
