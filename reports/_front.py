"""The Pareto front of a study, and choosing one of its points."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from conversion import ENERGY_MODELS, ConfigError, EnergyModel
from evaluators import AnnReference, Measurement
from search import (
    TrialRecord,
    dominated_area,
    finished,
    is_feasible,
    measurement_of,
    non_dominated,
    study_setup,
)

_KNEE_DROP = 0.05
"""Less accurate than the best point by more than this, none is the knee."""

_LOG = logging.getLogger("spikefront")


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One finished trial.

    Attributes:
        trial: Its number in the study.
        params: Its parameters.
        baseline: ``"uniform"``, ``"pareto_dp"`` (the paper's search), or None.
        exit_of: The trial whose pass it is another exit of, or None.
        lineage: The segments of learning before its own.
        search: Its measurement on the search split.
        test: Its measurement on the test split, if there is one.
    """

    trial: int
    params: Mapping[str, Any]
    baseline: str | None
    search: Measurement
    test: Measurement | None = None
    exit_of: int | None = None
    lineage: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, trial: FrozenTrial, test: Measurement | None = None) -> FrontPoint:
        """The point of a finished trial."""
        record = TrialRecord.of(trial)
        return cls(
            trial=trial.number,
            params=dict(trial.params),
            baseline=record.baseline,
            search=measurement_of(trial),
            test=test,
            exit_of=record.exit_of,
            lineage=tuple(record.lineage),
        )


@dataclass(frozen=True, kw_only=True)
class ParetoFront:
    """The non-dominated finished trials: accuracy up, energy down.

    Attributes:
        study: Name of the study.
        points: By rising energy, hence rising accuracy.
        trials: Every finished trial, by number.
        ann: The ANN on each split that was measured.
        budget: Limits that the points keep, in words; empty without any.
        energy_model: Prices of every energy.
    """

    study: str
    points: tuple[FrontPoint, ...]
    trials: tuple[FrontPoint, ...]
    ann: Mapping[str, AnnReference]
    budget: str = ""
    energy_model: EnergyModel = ENERGY_MODELS["horowitz45"]

    @property
    def passes(self) -> int:
        """How many trials were run; the others are further exits of theirs."""
        return sum(trial.exit_of is None for trial in self.trials)


def pareto_front(study: optuna.Study, ann: Mapping[str, AnnReference]) -> ParetoFront:
    """The front of a study by its search-split measurements, within the study's budget.

    Of trials that are equal in both objectives the first is kept. Where nothing keeps the budget
    it is the front of all trials, and a warning says so.

    Raises:
        ConfigError: No trial has finished.
    """
    setup = study_setup(study)
    done = finished(study)
    trials = tuple(FrontPoint.of(trial) for trial in done)
    if not trials:
        raise ConfigError(f"the study {study.study_name!r} has no finished trial yet")
    within = [p for p, trial in zip(trials, done, strict=True) if is_feasible(trial)]
    if not within:
        _LOG.warning("no trial keeps the budget of the study: the front is that of all trials")
    points = tuple(front_of(within or trials))
    return ParetoFront(
        study=study.study_name,
        points=points,
        trials=trials,
        ann=ann,
        budget=str(setup.budget),
        energy_model=setup.energy_model,
    )


def front_so_far(study: optuna.Study) -> list[FrontPoint]:
    """The front within the budget of a study that may still run, by rising energy."""
    return front_of([FrontPoint.of(t) for t in finished(study) if is_feasible(t)])


def front_of(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """The points that no other beats in accuracy and energy, by rising energy."""
    by_number = sorted(points, key=lambda p: p.trial)
    pairs = np.array([(_energy(p), -_accuracy(p)) for p in by_number]).reshape(-1, 2)
    return [by_number[i] for i in non_dominated(pairs)]


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Area of (accuracy, energy ratio) dominated within accuracy ≥ 0 and energy ratio ≤ 1.

    1 would be full accuracy at no energy at all.
    """
    pairs = np.array([(ratio, -accuracy) for accuracy, ratio in points]).reshape(-1, 2)
    return dominated_area(pairs, (1.0, 0.0))


def select(
    front: ParetoFront,
    *,
    trial: int | None = None,
    max_energy: float | None = None,
    max_accuracy_drop: float | None = None,
) -> FrontPoint:
    """Choose one point; the knee if nothing is asked for.

    Args:
        front: Where to choose from.
        trial: This finished trial, on the front or not.
        max_energy: The most accurate point whose energy is at most this fraction of the ANN's.
        max_accuracy_drop: The cheapest point at most this much less accurate than the ANN, as a
            fraction (0.01 is one point); both limits together must hold.

    Raises:
        ConfigError: No point satisfies what was asked; the message says what there is.
    """
    if trial is not None:
        return _by_number(front, trial)
    if max_energy is None and max_accuracy_drop is None:
        return knee(front.points)
    points = list(front.points)
    if max_accuracy_drop is not None:
        least = front.ann["search"].accuracy.value - max_accuracy_drop
        points = [p for p in points if _accuracy(p) >= least - 1e-12]
    if max_energy is not None:
        points = [p for p in points if p.search.energy_ratio <= max_energy]
    if not points:
        raise ConfigError(_nothing_fits(front, max_energy, max_accuracy_drop))
    return points[-1] if max_accuracy_drop is None else points[0]


def knee(points: Sequence[FrontPoint]) -> FrontPoint:
    """The point farthest from the line between the cheapest and the most accurate one.

    Both axes are scaled to 0..1 over the front, but for points of much less accuracy than the
    best; of equally far ones it is the most accurate.
    """
    least = _accuracy(points[-1]) - _KNEE_DROP
    points = [point for point in points if _accuracy(point) >= least]
    first, last = points[0], points[-1]
    width = _energy(last) - _energy(first)
    height = _accuracy(last) - _accuracy(first)
    if width <= 0 or height <= 0:
        return last

    def above_line(point: FrontPoint) -> float:
        return (_accuracy(point) - _accuracy(first)) / height - (
            _energy(point) - _energy(first)
        ) / width

    return max(points, key=lambda point: (round(above_line(point), 9), _accuracy(point)))


def _by_number(front: ParetoFront, trial: int) -> FrontPoint:
    for point in front.trials:
        if point.trial == trial:
            return point
    raise ConfigError(
        f"the study {front.study!r} has no finished trial {trial}; on its front are:"
        f" {', '.join(str(p.trial) for p in front.points)}"
    )


def _nothing_fits(front: ParetoFront, energy: float | None, drop: float | None) -> str:
    limits = [f"an energy <= {100 * energy:g}% of the ANN's"] if energy is not None else []
    limits += [f"an accuracy drop <= {100 * drop:g} points"] if drop is not None else []
    best, cheapest = front.points[-1], front.points[0]
    gained = 100 * (_accuracy(best) - front.ann["search"].accuracy.value)
    return (
        f"no point of the front has {' and '.join(limits)}; the cheapest needs"
        f" {cheapest.search.energy_ratio:.1%} of the ANN's energy, the most accurate one is"
        f" {gained:+.2f} points from the ANN at {best.search.energy_ratio:.1%}"
    )


def _accuracy(point: FrontPoint) -> float:
    return point.search.accuracy.value


def _energy(point: FrontPoint) -> float:
    return point.search.energy_pj.value
