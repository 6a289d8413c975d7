"""Samplers judged: ``python -m benchmarks.search_quality [--json]``.

Hypervolume against the number of evaluations, median over seeds: ours, and Optuna's samplers, each
with and without a warm start (the uniform settings, and points of ``pareto_dp`` with the cost of
their sensitivities). ``--space fixed`` chooses φ and ρ at T = 4; ``iat`` everything that a search
chooses but what learns; further exits of a pass are free, for every sampler, and ours starts with
the uniform settings, as every search does. Evaluations and the runs of
Optuna's samplers are kept on disk, under the fingerprints of model, data and space: a second run
costs what our sampler costs.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from search._trial import known_points
from search.running._queue import add_exit, enqueue
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

LEVELS = {"divergence": (0.3, 0.1, 0.03, 0.01, 0.003), "accuracy": (0.005, 0.01, 0.02, 0.03, 0.05)}
"""Nats, and accuracy below the ANN's, at which energies are compared."""


@dataclass(frozen=True)
class Spent:
    """One measured point, and how many evaluations were spent when it was known."""

    evaluations: float
    accuracy: float
    energy: float
    divergence: float
    params: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, evaluations: float, m: Measurement, params: Mapping[str, Any]) -> Spent:
        """Of a measurement."""
        return cls(evaluations, m.accuracy.value, m.energy_ratio, m.kl.value, dict(params))


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

    def ann(self, split: str = "search") -> float:
        """Accuracy of the ANN."""
        if self.synthetic is not None:
            return self.synthetic.ann
        return self.evaluator.ann(split).accuracy.value

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
        known = known_points(study.get_trials(deepcopy=False))
        more = measured_exits(trial.params, m, there.measure, there.space, known=known)
        trial.set_user_attr("measurement", m.to_dict())
        done = study.tell(trial, [m.accuracy.value, m.energy_pj.value])
        spent += 1
        points.append(Spent.of(spent, m, trial.params))
        for exits, found in more:
            add_exit(study, there.space, done, exits, found, {})
            points.append(Spent.of(spent, found, {**trial.params, **exits}))
    return points


def kept_run(
    there: Landscape, sampler: str, seed: int, evaluations: int, **start: Any
) -> list[Spent]:
    """A run of one of Optuna's samplers, which need not be judged twice."""
    kind = "run" if there.synthetic is None else "synthetic run"
    if "iat/alpha" not in there.space.pins:
        kind += ", exits free"  # to be changed with what search._exits does
    key = there.key(kind, there.space.to_dict(), sampler, seed, evaluations, start)

    def rows() -> list[dict[str, Any]]:
        points = run(there, sampler, seed, evaluations, **start)
        return [asdict(replace(p, params=None)) for p in points]

    return [Spent(**row) for row in kept(key, rows)]


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
        found[str(limit)] = statistics.median(hypervolume(w, there.ann(), by=by) for w in within)
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
    """Settings one after the other, with those exits of each that enlarge the front."""
    points: list[Spent] = []
    for i, params in enumerate(settings, 1):
        m = there.measure(params)
        known = np.array([(p.accuracy, p.energy, p.divergence) for p in points]).reshape(-1, 3)
        points.append(Spent.of(i, m, params))
        for exits, found in measured_exits(params, m, there.measure, there.space, known=known):
            points.append(Spent.of(i, found, {**params, **exits}))
    return points


def on_test(points: Sequence[Spent], there: Landscape) -> list[Spent]:
    """The front of the points, by accuracy or by divergence, on the test split."""
    fronts: dict[float, Spent] = {}
    for value in (lambda p: p.divergence, lambda p: -p.accuracy):
        least = math.inf
        for p in sorted(points, key=lambda p: (p.energy, value(p))):
            if value(p) < least and p.params is not None:
                fronts[p.energy] = p
                least = value(p)
    choices = [(p.params, there.space.choice(p.params)) for p in fronts.values() if p.params]
    return [Spent.of(0, there.evaluator.measure(c, "test"), params) for params, c in choices]


def cheapest(points: Sequence[Spent], by: str, level: float, ann: float) -> float:
    """Least energy at no more divergence, or lost accuracy, than the level; or infinite."""
    if by == "divergence":
        return min((p.energy for p in points if p.divergence <= level), default=math.inf)
    # The best of the others may lose less than a whole image: accuracies are compared exactly.
    lost = level + 1e-9
    return min((p.energy for p in points if p.accuracy >= ann - lost), default=math.inf)


Compared = dict[str, dict[str, list[float]]]
"""Energy of ours over the other's: by name of the other and split, by objective, per level."""


def compared(
    there: Landscape, ours: Sequence[Sequence[Spent]], others: Mapping[str, Sequence[Spent]]
) -> Compared:
    """Energies at equal loss, ours over the others, median over seeds."""
    found: Compared = {}
    for split in ("search", "test"):
        shown = ours if split == "search" else [on_test(run, there) for run in ours]
        for name, points in others.items():
            others = points if split == "search" else on_test(points, there)
            found[f"{name}, {split}"] = {
                by: [
                    statistics.median(
                        ratio(
                            cheapest(run, by, level, there.ann(split)),
                            cheapest(others, by, level, there.ann(split)),
                        )
                        for run in shown
                    )
                    for level in levels
                ]
                for by, levels in LEVELS.items()
            }
    return found


def judge(
    there: Landscape, samplers: Sequence[str], seeds: int, evaluations: int
) -> tuple[dict[str, list[list[Spent]]], dict[str, list[Spent]]]:
    """Runs by name of the sampler, and what needs no sampler."""
    warm, cost = warm_start(there, 20)
    ours: dict[str, dict[str, Any]] = {"ours": {}}
    if "iat/alpha" not in there.space.pins:
        uniform = there.space.baselines()
        ours = {"ours": {"warm": uniform}, "ours, warm": {"warm": warm, "spent": cost}}
    runs: dict[str, list[list[Spent]]] = {name: [] for name in ours}
    for name in samplers:
        runs |= {name: [], f"{name}, warm": []}
    for seed in range(seeds):
        for name, start in ours.items():
            runs[name].append(run(there, "additive", seed, evaluations, **start))
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
            Spent(0, there.ann() * max(0.0, 1 - d / 4), energy, d)
            for energy, d in there.synthetic.front
        ]
    return runs, others


def ratio(ours: float, others: float) -> float:
    """Of energies; infinite where ours are not there, not a number where neither are."""
    if math.isinf(others):
        return math.nan if math.isinf(ours) else 0.0
    return ours / others


def drawn(runs: Mapping[str, Sequence[Sequence[Spent]]], there: Landscape) -> Figure:
    """Median hypervolume against evaluations, with the range of the seeds for ours."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    stock = [name for name in runs if not name.startswith("ours")]
    for axes, by in zip(figure.subplots(1, 2), OBJECTIVES, strict=True):
        for name, these in runs.items():
            last = int(min(run[-1].evaluations for run in these))
            counts = sorted({round(x) for x in np.geomspace(5, last, 25)})
            values = np.array(
                [
                    [
                        hypervolume([p for p in run if p.evaluations <= n], there.ann(), by=by)
                        for n in counts
                    ]
                    for run in these
                ]
            )
            own = name not in stock
            style = "--" if name == "ours, warm" else "-" if own or name.endswith("warm") else ":"
            color = "#0b5fa5" if own else f"C{1 + stock.index(name) // 2}"
            axes.plot(counts, np.median(values, 0), style, color=color, label=name, lw=1 + own)
            if own:
                axes.fill_between(counts, values.min(0), values.max(0), color=color, alpha=0.15)
        axes.set_xscale("log")
        axes.set_xlabel("evaluations, those of the warm start included")
        axes.set_title(f"energy and {by}")
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
    spec = TaskSpec()
    if task == "cifar10":
        spec = TaskSpec(
            task=task,
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
        plain = {name: hypervolume(points, there.ann(), by=by) for name, points in others.items()}
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
        found.pop("ours, warm", None)
        result[by] = {"ours": ours, "stock": found, "others": plain}
    if there.synthetic is None:
        result["energy_of_ours"] = compared(there, runs["ours"], others)
        _print_compared(result["energy_of_ours"], evaluations)
    if figure is not None:
        write_figure(drawn(runs, there), figure)
    if as_json:
        click.echo(json.dumps({**result, **result["divergence"]}))


def _print_compared(found: Compared, evaluations: int) -> None:
    for by, levels in LEVELS.items():
        title = f"energy of ours after {evaluations} evaluations over that of others, equal {by}"
        table = Table("", title=title)
        for level in levels:
            table.add_column(
                f"{level:g} nats" if by == "divergence" else f"−{100 * level:g} points"
            )
        for name, ratios in found.items():
            table.add_row(name, *("–" if math.isnan(r) else f"{r:.2f}" for r in ratios[by]))
        Console(width=110).print(table)


if __name__ == "__main__":
    main()
