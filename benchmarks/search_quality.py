"""Samplers judged: ``python -m benchmarks.search_quality [--json]``.

Hypervolume against the number of evaluations, median over seeds: ours, and Optuna's samplers, each
with and without a warm start (the uniform settings, and points of ``pareto_dp`` with the cost of
their sensitivities). ``--space fixed`` chooses φ and ρ at T = 4; ``iat`` everything that a search
chooses but what learns; further exits of a pass are free, for every sampler. Ours starts with the
uniform settings, as every search does. Evaluations and the runs of
Optuna's samplers are kept on disk, under the fingerprints of model, data and space: a second run
costs what our sampler costs.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import optuna
from matplotlib.figure import Figure
from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table

from benchmarks.synthetic import Synthetic
from conversion import Profile, write_file
from evaluators import Evaluator, Measurement, TaskSpec, load_task
from reports import write_figure
from search import ParetoSearch, make_sampler, measured_exits, sensitivity, warm_start_attrs
from search._study import add_exit, enqueue, known_points
from spaces import LayerSpace

CHECKPOINTS = (20, 60, 120, 200, 600)
TIMESTEPS = 4
STORE = user_cache_path("spikefront") / "benchmarks"

CHEAPEST, DEAREST = 0.02, 1.0
"""The box of the hypervolume: share of the ANN's energy, on a logarithmic axis …"""

FINEST, COARSEST = 1e-3, 1.0
"""… against the divergence in nats, on another one …"""

POINTS = 0.10
"""… or against this much accuracy below the ANN's; more than the ANN's counts as the ANN's."""


@dataclass(frozen=True)
class Spent:
    """One measured point, and how many evaluations were spent when it was known."""

    evaluations: float
    accuracy: float
    energy: float
    divergence: float


@dataclass
class Landscape:
    """A task on which samplers are judged; on a synthetic one the best trade-off is known."""

    evaluator: Evaluator
    space: LayerSpace
    synthetic: Synthetic | None = None

    @property
    def profile(self) -> Profile:
        """Of the network."""
        return self.evaluator.profile

    @property
    def ann(self) -> float:
        """Accuracy of the ANN."""
        if self.synthetic is not None:
            return self.synthetic.ann
        return self.evaluator.ann("search").accuracy.value

    def key(self, *parts: Any) -> str:
        """Hash of the model, the data and whatever else a result hangs on."""
        whole = (
            self.evaluator.profile.network.fingerprint,
            self.evaluator.profile.data_fingerprint,
            self.evaluator.search_fingerprint,
            *parts,
        )
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def measure(self, params: Mapping[str, Any]) -> Measurement:
        """From the store, or measured."""
        if self.synthetic is not None:
            return self.synthetic.measure(params)
        choice = self.space.choice(params)
        key = self.key(choice.conversion.to_json(), vars(choice.exit))
        found = kept(key, lambda: self.evaluator.measure(choice).to_dict())
        return Measurement.from_dict(found)


def kept(key: str, compute: Callable[[], Any]) -> Any:
    """A JSON-able result, computed once in the life of the store."""
    path = STORE / key[:2] / f"{key}.json"
    if not path.exists():
        write_file(path, json.dumps(compute()))
    return json.loads(path.read_text())


def landscape(spec: TaskSpec, kind: str, *, synthetic: bool = False) -> Landscape:
    """``"fixed"``: φ and ρ at fixed T, calibrated light, no exit; ``"iat"``: nearly everything."""
    evaluator = Evaluator(load_task(spec))
    if kind == "iat":
        return Landscape(evaluator, LayerSpace(layers=evaluator.layers))
    space = LayerSpace(
        layers=evaluator.layers,
        timesteps=(TIMESTEPS,),
        neurons=("adafire",),
        calibrations=("light",),
        calibration_timesteps=(TIMESTEPS,),
        beta_max=0.0,
        pins={"iat/alpha": 1.0},
    )
    if not synthetic:
        return Landscape(evaluator, space)
    choice = space.choice(space.uniform(phi=8, rho=1.0, alpha=1.0))
    truth = Synthetic(evaluator.profile, space, evaluator.measure(choice))
    return Landscape(evaluator, space, truth)


def warm_start(there: Landscape, points: int) -> tuple[list[dict[str, Any]], float]:
    """The uniform settings and points of ``pareto_dp``; and what their sensitivities cost.

    The cost is in evaluations: samples × steps × the share of the network that each branch runs.
    """
    evaluator = there.evaluator
    if there.synthetic is not None:  # whose layers no profile can be taken of
        return there.space.baselines(), 0.0
    found = sensitivity(there.profile, evaluator.energy, timesteps=TIMESTEPS)
    uniform = there.space.uniform(phi=1, rho=1.0, alpha=0.6) | dict(there.space.pins)
    chosen = [{**uniform, **choice.params()} for choice in ParetoSearch(found).front(points)]
    layers, changes = len(found.layers), len(found.phis) + len(found.rhos) - 2
    branches = changes * (layers + 1) / 2 + 1
    calibration = len(there.profile.inputs) * TIMESTEPS
    evaluation = len(evaluator.task.search) * TIMESTEPS + calibration
    return [*there.space.baselines(), *chosen], branches * calibration / evaluation


def run(
    there: Landscape,
    sampler: str,
    seed: int,
    evaluations: int,
    warm: Sequence[Mapping[str, Any]] = (),
    spent: float = 0,
) -> list[Spent]:
    """One study; ``spent`` is what the warm start cost before its own evaluations."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = make_sampler(sampler, seed=seed, profile=there.profile, space=there.space)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=chosen)
    for params in warm:
        enqueue(study, params, user_attrs={}, system_attrs=warm_start_attrs(chosen))
    points = []
    while spent < evaluations:
        trial = study.ask()
        there.space.suggest(trial)
        m = there.measure(trial.params)
        known = known_points(study)
        more = measured_exits(trial.params, m, there.measure, there.space, known=known)
        trial.set_user_attr("measurement", m.to_dict())
        done = study.tell(trial, [m.accuracy.value, m.energy_pj.value])
        spent += 1
        for exits, found in more:
            add_exit(study, there.space, done, exits, found, {})
        for found in (m, *(found for _, found in more)):
            points.append(Spent(spent, found.accuracy.value, found.energy_ratio, found.kl.value))
    return points


def kept_run(
    there: Landscape, sampler: str, seed: int, evaluations: int, **start: Any
) -> list[Spent]:
    """A run of one of Optuna's samplers, which need not be judged twice."""
    kind = "run" if there.synthetic is None else "synthetic run"
    if "iat/alpha" not in there.space.pins:
        kind += ", exits free"
    key = there.key(kind, there.space.to_dict(), sampler, seed, evaluations, start)
    rows = kept(key, lambda: [asdict(p) for p in run(there, sampler, seed, evaluations, **start)])
    return [Spent(**row) for row in rows]


def hypervolume(points: Sequence[Spent], ann: float, *, by: str) -> float:
    """Share of the box that the points dominate."""
    width = math.log(DEAREST / CHEAPEST)
    area, reached = 0.0, 0.0
    for p in sorted(points, key=lambda p: p.energy):
        if by == "divergence":
            height = math.log(COARSEST / max(p.divergence, FINEST)) / math.log(COARSEST / FINEST)
        else:
            height = 1 - max(ann - p.accuracy, 0) / POINTS
        right = math.log(DEAREST / max(p.energy, CHEAPEST)) / width
        if height > reached and right > 0:
            area += (height - reached) * right
            reached = height
    return area


Series = dict[str, float]
"""Median hypervolume by number of evaluations."""


def series(runs: Sequence[Sequence[Spent]], there: Landscape, by: str, evaluations: int) -> Series:
    """The median over runs at every checkpoint within the budget."""
    found = {}
    for limit in (c for c in CHECKPOINTS if c <= evaluations):
        within = [[p for p in run if p.evaluations <= limit] for run in runs]
        found[str(limit)] = statistics.median(hypervolume(w, there.ann, by=by) for w in within)
    return found


def uniform_grid(there: Landscape) -> list[Spent]:
    """Every uniform (φ, ρ)."""
    settings = [
        there.space.uniform(phi=phi, rho=rho, alpha=0.6)
        for phi in range(1, there.space.phi_max + 1)
        for rho in there.space.rhos()
    ]
    return measured(there, settings)


def measured(there: Landscape, settings: Sequence[Mapping[str, Any]]) -> list[Spent]:
    """Settings one after the other."""
    every = [there.measure(params) for params in settings]
    return [Spent(i, m.accuracy.value, m.energy_ratio, m.kl.value) for i, m in enumerate(every, 1)]


def judge(
    there: Landscape, samplers: Sequence[str], seeds: int, evaluations: int
) -> tuple[dict[str, list[list[Spent]]], dict[str, list[Spent]]]:
    """Runs by name of the sampler, and what needs no sampler."""
    warm, cost = warm_start(there, 20)
    runs: dict[str, list[list[Spent]]] = {"ours": []}
    for name in samplers:
        runs |= {name: [], f"{name}, warm": []}
    for seed in range(seeds):
        runs["ours"].append(run(there, "additive", seed, evaluations))
        for name in samplers:
            runs[name].append(kept_run(there, name, seed, evaluations))
            started = kept_run(there, name, seed, evaluations, warm=warm, spent=cost)
            runs[f"{name}, warm"].append(started)
        click.echo(f"seed {seed} of {seeds} done", err=True)
    others = {"uniform grid": uniform_grid(there)}
    paper = warm[len(there.space.baselines()) :]
    if paper:
        others["pareto_dp"] = measured(there, paper)
    if there.synthetic is not None:
        others["optimum"] = [
            Spent(0, there.ann * max(0.0, 1 - d / 4), energy, d)
            for energy, d in there.synthetic.front
        ]
    return runs, others


def drawn(runs: Mapping[str, Sequence[Sequence[Spent]]], there: Landscape) -> Figure:
    """Median hypervolume against evaluations, with the range of the seeds for ours."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    for axes, by in zip(figure.subplots(1, 2), OBJECTIVES, strict=True):
        for i, (name, these) in enumerate(runs.items()):
            last = int(min(run[-1].evaluations for run in these))
            counts = sorted({round(x) for x in np.geomspace(5, last, 25)})
            values = np.array(
                [
                    [
                        hypervolume([p for p in run if p.evaluations <= n], there.ann, by=by)
                        for n in counts
                    ]
                    for run in these
                ]
            )
            own = name == "ours"
            style = "-" if own or name.endswith("warm") else ":"
            color = "#0b5fa5" if own else f"C{1 + (i - 1) // 2}"
            axes.plot(counts, np.median(values, 0), style, color=color, label=name, lw=1 + own)
            if own:
                axes.fill_between(counts, values.min(0), values.max(0), color=color, alpha=0.15)
        axes.set_xscale("log")
        axes.set_xlabel("evaluations, those of the warm start included")
        axes.set_title(f"energy and {by}, both logarithmic" if by == "divergence" else f"{by}")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("hypervolume, share of the box")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right", fontsize=8)
    return figure


OBJECTIVES = ("divergence", "accuracy")


@click.command(help=__doc__)
@click.option("--task", type=click.Choice(["digits", "cifar10", "synthetic"]), default="digits")
@click.option("--space", "kind", type=click.Choice(["fixed", "iat"]), default="fixed")
@click.option("--data", help="CIFAR-10's folder.")
@click.option("--weights")
@click.option("--samples", default=1000, show_default=True, help="Of the search split.")
@click.option("--calibration-samples", default=256, show_default=True)
@click.option("--samplers", default="random,nsga2,nsga3,tpe,tpe-multivariate", show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--evaluations", default=600, show_default=True)
@click.option("--figure", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, last.")
def main(
    task: str,
    kind: str,
    data: str | None,
    weights: str | None,
    samples: int,
    calibration_samples: int,
    samplers: str,
    seeds: int,
    evaluations: int,
    figure: Path | None,
    as_json: bool,
) -> None:
    spec = TaskSpec(
        task="digits" if task == "synthetic" else task,
        data=data,
        weights=weights,
        search_samples=samples,
        calibration_samples=calibration_samples,
    )
    there = landscape(spec, kind, synthetic=task == "synthetic")
    runs, others = judge(there, samplers.split(","), seeds, evaluations)
    result: dict[str, Any] = {"task": task, "space": kind, "seeds": seeds}
    for by in OBJECTIVES:
        found = {name: series(these, there, by, evaluations) for name, these in runs.items()}
        plain = {name: hypervolume(points, there.ann, by=by) for name, points in others.items()}
        table = Table("", title=f"{task}, {kind}: hypervolume of energy and {by}, {seeds} seeds")
        for limit in found["ours"]:
            table.add_column(limit, justify="right")
        for name, values in found.items():
            table.add_row(name, *(f"{value:.3f}" for value in values.values()))
        for name, points in others.items():
            last = [""] * (len(found["ours"]) - 1)
            table.add_row(f"{name} ({len(points)} points)", *last, f"{plain[name]:.3f}")
        Console(width=110).print(table)
        ours = found.pop("ours")
        result[by] = {"ours": ours, "stock": found, "others": plain}
    if figure is not None:
        write_figure(drawn(runs, there), figure)
    if as_json:
        click.echo(json.dumps({**result, **result["divergence"]}))


if __name__ == "__main__":
    main()
