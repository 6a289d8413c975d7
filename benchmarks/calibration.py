"""Every way to calibrate over φ, ρ and T: ``python -m benchmarks.calibration [--json]``.

On ``digits``, or on CIFAR-10 with ``--data`` and ``--weights``: none, light, advanced, tuned, error
compensation (learned, with dual-threshold neurons) and this with the weights learned too; accuracy,
and divergence from the ANN, which is far less noisy. n = the search split. The first three are
converted for each T. The others learn at T up to 4, on the images that the task has to learn from;
what they learned at 4 serves the larger T too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from conversion import ConversionConfig, ExitRule, convert, make_calibration
from evaluators import Evaluator, Recording, TaskSpec, load_task
from reports import write_figure

STEPS = (1, 2, 4, 8, 16, 32)
SETTINGS = tuple((phi, rho) for phi in (1, 4, 8) for rho in (1.0, 2.0))
LEARNING = {
    "tuned": "tuned",
    "error compensation": "learned",
    "weights learned": "learned-weights",
}
"""By the name of a calibration."""
WAYS = ("none", "light", "advanced", *LEARNING)
LEARNED_UP_TO = 4


def measured(
    evaluator: Evaluator, iterations: int, ways: tuple[str, ...], phis: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """One row per way, φ, ρ and T."""
    for phi, rho in (s for s in SETTINGS if s[0] in phis):
        for way in ways:
            for steps in STEPS:
                if way not in LEARNING or steps <= LEARNED_UP_TO:
                    recording = record(evaluator, way, phi, rho, steps, iterations)
                yield row(recording, way, phi, rho, steps)


def record(
    evaluator: Evaluator, way: str, phi: int, rho: float, steps: int, iterations: int
) -> Recording:
    """One pass; what learned at the largest T of learning runs on to the last T."""
    goes_on = way in LEARNING and steps == LEARNED_UP_TO
    config = ConversionConfig.uniform(
        evaluator.layers,
        timesteps=STEPS[-1] if goes_on else steps,
        calibration_timesteps=steps,
        phi=phi,
        rho=rho,
        neuron="dual-threshold" if way in list(LEARNING)[1:] else "adafire",
        calibration=make_calibration(
            LEARNING.get(way, way), **({"iterations": iterations} if way in LEARNING else {})
        ),
    )
    data = evaluator.task.batches_to_learn_from() if way in LEARNING else None
    return evaluator.record(convert(evaluator.profile, config, data=data), "search")


def row(recording: Recording, way: str, phi: int, rho: float, steps: int) -> dict[str, Any]:
    """What the recording says after some steps."""
    stops = tuple(float(step != steps) for step in range(1, recording.steps + 1))
    last = recording.measure(ExitRule(score="entropy", thresholds=stops))
    return {
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
    panels = figure.subplots(2, 3, sharex=True, sharey="col")
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
@click.option("--way", "ways", type=click.Choice(WAYS), multiple=True, default=WAYS)
@click.option("--phi", "phis", type=click.Choice(["1", "4", "8"]), multiple=True)
@click.option("--iterations", default=100, show_default=True, help="Gradient steps.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it, as .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, last.")
def main(
    data: str | None,
    weights: str | None,
    samples: int,
    ways: tuple[str, ...],
    phis: tuple[str, ...],
    iterations: int,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Measure every way to calibrate over T, φ and ρ."""
    spec = TaskSpec()
    if data:
        spec = TaskSpec(task="cifar10", data=data, weights=weights, search_samples=samples)
    evaluator = Evaluator(load_task(spec))
    ann = evaluator.ann("search")
    rows = []
    limits = tuple(map(int, phis)) or (1, 4, 8)
    for row in measured(evaluator, iterations, ways, limits):
        rows.append(row)
        click.echo(json.dumps(row), err=True)
    if figure:
        write_figure(drawn(rows, ann.accuracy.value), figure)
    if as_json:
        click.echo(json.dumps({"ann_accuracy": ann.accuracy.value, "n": ann.n, "rows": rows}))
        return
    console = Console(width=100)
    for title, form in (
        ("accuracy, %", lambda r: f"{100 * r['accuracy']:.1f}"),
        ("symmetric KL from the ANN, nats", lambda r: f"{r['kl']:.3f}"),
    ):
        console.print(table_of(rows, form, f"{spec.task}, n = {ann.n}: {title}"))
    console.print(f"the ANN: {ann.accuracy.value:.1%}")


def table_of(
    rows: list[dict[str, Any]], form: Callable[[dict[str, Any]], str], title: str
) -> Table:
    """A row per φ, ρ and way, a column per T."""
    table = Table("φ", "ρ", "calibration", *(f"T = {steps}" for steps in STEPS), title=title)
    for phi, rho in SETTINGS:
        for way in WAYS:
            line = [r for r in rows if (r["phi"], r["rho"], r["calibration"]) == (phi, rho, way)]
            if line:
                table.add_row(str(phi), f"{rho:g}", way, *map(form, line))
        table.add_section()
    return table


if __name__ == "__main__":
    main()
