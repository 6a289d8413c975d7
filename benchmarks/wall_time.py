"""Searches judged at equal time: ``python -m benchmarks.wall_time --minutes 1,2,4 --seeds 3``.

Each search is the command that a user types, in a process of its own with one thread and an empty
folder: ours; NSGA-II and TPE on the same space, where learning starts from scratch; with ``--tree``
the search of another commit, whose work tree lies there. Beside them the uniform grid and
``pareto_dp``, which end by themselves. All see the same network and images. Hypervolume: share
of the box between the ANN's accuracy and ten points less, and 100 % and 2 % of its energy on a
logarithmic axis, that the trials measured so far dominate on the search split.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import optuna
import torch
from matplotlib.figure import Figure
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from rich.table import Table

from benchmarks.search_quality import Spent, hypervolume
from benchmarks.shared_digits import make_task
from evaluators import Evaluator, Measurement
from reports import write_figure
from search import ParetoSearch, measured_exits, sensitivity
from spaces import LayerSpace

_HERE = Path(__file__).resolve().parents[1]
_TASK = f"{_HERE / 'benchmarks' / 'shared_digits.py'}:make_task"
_OURS = {"ours": (), "NSGA-II": ("--sampler", "nsga2"), "TPE": ("--sampler", "tpe")}


@dataclass(frozen=True)
class Run:
    """One search: seconds since it began, and what was measured by then.

    Attributes:
        name: Of the way to search.
        seed: Of it.
        points: What was measured; ``evaluations`` are seconds.
        learning: Share of the time in passes that learned.
        measuring: Share of the time in the other passes; the rest is the start, proposals and
            storage.
    """

    name: str
    seed: int
    points: tuple[Spent, ...]
    learning: float = 0.0
    measuring: float = 0.0

    def at(self, minutes: float, ann: float) -> float:
        """Hypervolume after some minutes."""
        known = [p for p in self.points if p.evaluations <= 60 * minutes]
        return hypervolume(known, ann, by="accuracy")


def searched(name: str, tree: Path, options: tuple[str, ...], seed: int, folder: Path,
             minutes: float) -> Run:  # fmt: skip
    """Run the command for some minutes, or find it run before, and read its study."""
    out = folder / f"{name}-{seed}"
    note = folder / f"{name}-{seed}.json"
    if not note.exists():
        shutil.rmtree(out, ignore_errors=True)  # of a run that was interrupted
        began = datetime.now()
        run_for(minutes, tree, [*options, "--seed", str(seed), "--out", str(out)])
        note.write_text(json.dumps({"began": began.isoformat(), "minutes": minutes}))
    known = json.loads(note.read_text())
    if known["minutes"] < minutes:
        raise click.ClickException(f"{out} was searched for {known['minutes']:g} minutes only")
    return read(name, seed, out, datetime.fromisoformat(known["began"]), known["minutes"])


def run_for(minutes: float, tree: Path, options: list[str]) -> None:
    """Search with one thread, and stop it."""
    command = [sys.executable, "-m", "spikefront", "search", "--task", _TASK, "--trials", "100000"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *options],
        env=environment,
        cwd=tree,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, errors = process.communicate(timeout=60 * minutes)
        raise click.ClickException(f"it ended by itself: {errors.decode()[-500:]}")
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # as Ctrl-C: what is measured is kept
        process.communicate()


def read(name: str, seed: int, out: Path, began: datetime, minutes: float) -> Run:
    """What a search had measured, and when."""
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    (study,) = optuna.get_all_study_names(storage)
    points, spent = [], {True: 0.0, False: 0.0}
    complete = (optuna.trial.TrialState.COMPLETE,)
    for trial in optuna.load_study(study_name=study, storage=storage).get_trials(states=complete):
        assert trial.datetime_complete is not None
        point = Spent(
            evaluations=(trial.datetime_complete - began).total_seconds(),
            accuracy=trial.values[0],
            energy=trial.user_attrs["energy_ratio"],
            divergence=trial.user_attrs["kl"],
        )
        points.append(point)
        learns = trial.params["calibration"].startswith("learned")
        spent[learns] += trial.user_attrs.get("seconds", 0.0)
    shares = [spent[learns] / (60 * minutes) for learns in (True, False)]
    return Run(name, seed, tuple(sorted(points, key=lambda p: p.evaluations)), *shares)


def measured(name: str, settings: Iterator[Mapping[str, Any]], evaluator: Evaluator,
             space: LayerSpace, began: float) -> Run:  # fmt: skip
    """Settings one after the other, with those exits of each that enlarge the front."""
    points: list[Spent] = []

    def measure(params: Mapping[str, Any]) -> Measurement:
        return evaluator.measure(space.choice(params))

    for params in settings:
        m = measure(params)
        known = np.array([(p.accuracy, p.energy, p.divergence) for p in points]).reshape(-1, 3)
        more = measured_exits(params, m, measure, space, known=known)
        spent = time.perf_counter() - began
        points += [Spent.of(spent, f, {**params, **e}) for e, f in [({}, m), *more]]
    return Run(name, 0, tuple(points))


def uniform_grid() -> Run:
    """Every uniform (φ, ρ)."""
    began = time.perf_counter()
    evaluator = Evaluator(make_task())
    space = LayerSpace(layers=evaluator.layers)
    every = (
        space.uniform(phi=phi, rho=rho, alpha=0.6)
        for phi in range(1, space.phi_max + 1)
        for rho in space.rhos()
    )
    return measured("uniform grid", every, evaluator, space, began)


def pareto_dp() -> Run:
    """Points of the paper's search; its sensitivities count."""
    began = time.perf_counter()
    evaluator = Evaluator(make_task())
    space = LayerSpace(layers=evaluator.layers)
    found = sensitivity(evaluator.profile, evaluator.energy, timesteps=4)
    start = space.uniform(phi=1, rho=1.0, alpha=0.6)
    every = ({**start, **choice.params()} for choice in ParetoSearch(found).front(40))
    return measured("pareto_dp", every, evaluator, space, began)


def drawn(runs: list[Run], ann: float, minutes: float) -> Figure:
    """Hypervolume over time: the median of the seeds, and all between them."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8) if t <= minutes]
    times = np.geomspace(ticks[0], minutes, 80)
    for name in dict.fromkeys(r.name for r in runs):
        lines = np.array([[r.at(t, ann) for t in times] for r in runs if r.name == name])
        (line,) = axes.plot(times, np.median(lines, 0), label=name, linewidth=1.6)
        axes.fill_between(times, lines.min(0), lines.max(0), alpha=0.15, color=line.get_color())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xlabel("time, minutes")
    axes.set_ylabel("hypervolume, share of the box")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return figure


@click.command()
@click.option("--minutes", default="1,2,4,8", show_default=True, help="When to look.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--tree", type=click.Path(exists=True, path_type=Path), help="Another commit.")
@click.option("--only", multiple=True, help="These searches alone; may be repeated.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    required=True,
    help="For the studies; those that it holds are not run again.",
)
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it, as .png or .svg.")
def main(
    minutes: str, seeds: int, tree: Path | None, only: tuple[str, ...], folder: Path,
    figure: Path | None,
) -> None:  # fmt: skip
    """Print a table of hypervolumes."""
    looked = [float(m) for m in minutes.split(",")]
    torch.set_num_threads(1)
    ann = Evaluator(make_task()).ann("search").accuracy.value
    ways = {name: (_HERE, options) for name, options in _OURS.items()}
    if tree is not None:
        ways["the other commit"] = (tree.resolve(), ())
    ways = {name: way for name, way in ways.items() if not only or name in only}
    runs = [uniform_grid(), pareto_dp()]
    for seed in range(seeds):
        for name, (where, options) in ways.items():
            runs.append(searched(name, where, options, seed, folder.resolve(), max(looked)))
            values = [round(runs[-1].at(m, ann), 4) for m in looked]
            row = {"search": name, "seed": seed, "at": values, "trials": len(runs[-1].points)}
            shares = {"learning": runs[-1].learning, "measuring": runs[-1].measuring}
            click.echo(json.dumps(row | {k: round(v, 3) for k, v in shares.items()}), err=True)
    table = Table("search", *(f"{m:g} min" for m in looked), title="hypervolume, median of seeds")
    for name in dict.fromkeys(r.name for r in runs):
        found = [[r.at(m, ann) for m in looked] for r in runs if r.name == name]
        table.add_row(name, *(f"{median(column):.3f}" for column in zip(*found, strict=True)))
    Console(width=100).print(table)
    if figure:
        write_figure(drawn(runs, ann, max(looked)), figure)


if __name__ == "__main__":
    main()
