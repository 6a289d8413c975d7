"""Samplers judged: ``python -m benchmarks.search_quality [--json]``.

Hypervolume against the number of evaluations, for ours and Optuna's samplers, each of these with
and without a warm start (the uniform settings, and points of ``pareto_dp`` with the cost of their
sensitivities). Evaluations are kept on disk, so that a second run costs what its samplers cost.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from platformdirs import user_cache_path

from conversion import Profile, write_file
from evaluators import Evaluator, Measurement, TaskSpec, load_task
from search import ParetoSearch, make_sampler, sensitivity, warm_start_attrs
from search._study import enqueue
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
    """A task on which samplers are judged."""

    name: str
    evaluator: Evaluator
    space: LayerSpace

    @property
    def profile(self) -> Profile:
        """Of the network."""
        return self.evaluator.profile

    @property
    def ann(self) -> float:
        """Accuracy of the ANN."""
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


def landscape(task: str, spec: TaskSpec, batch_size: int | None) -> Landscape:
    """φ and ρ of every layer at fixed T, light calibration, no early exit."""
    evaluator = Evaluator(load_task(spec), batch_size=batch_size)
    space = LayerSpace(
        layers=evaluator.layers,
        timesteps=(TIMESTEPS,),
        neurons=("adafire",),
        calibrations=("light",),
        calibration_timesteps=(TIMESTEPS,),
        beta_max=0.0,
        pins={"iat/alpha": 1.0},
    )
    return Landscape(task, evaluator, space)


def warm_start(there: Landscape, points: int) -> tuple[list[dict[str, Any]], float]:
    """The uniform settings and points of ``pareto_dp``; and what their sensitivities cost.

    The cost is in evaluations: samples × steps × the share of the network that each branch runs.
    """
    evaluator = there.evaluator
    found = sensitivity(there.profile, evaluator.energy, timesteps=TIMESTEPS)
    uniform = there.space.uniform(phi=1, rho=1.0, alpha=1.0)
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
        trial.set_user_attr("measurement", m.to_dict())
        study.tell(trial, [m.accuracy.value, m.energy_pj.value])
        spent += 1
        points.append(Spent(spent, m.accuracy.value, m.energy_ratio, m.kl.value))
    return points


def kept_run(
    there: Landscape, sampler: str, seed: int, evaluations: int, **start: Any
) -> list[Spent]:
    """A run of one of Optuna's samplers, which need not be judged twice."""
    key = there.key("run", there.space.to_dict(), sampler, seed, evaluations, start)
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
