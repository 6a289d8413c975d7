"""The Pareto front of a study, and choosing one of its points."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from conversion import ENERGY_MODELS, ConfigError, EnergyModel, html_table
from evaluators import AnnReference, Measurement, QuantisedAnn
from search import (
    NO_LIMITS,
    Budget,
    DropModel,
    Promise,
    TrialRecord,
    ann_reference,
    dominated_area,
    finished,
    is_feasible,
    measurement_of,
    non_dominated_rows,
    objective_values,
    objectives_of,
    samples_for,
    study_setup,
)
from spaces import names

_KNEE_DROP = 0.05
"""A knee is at most this much less accurate than the best point."""

_LOG = logging.getLogger("spikefront")


@dataclass(frozen=True, kw_only=True)
class FrontPoint:
    """One finished trial.

    Attributes:
        trial: Its number in the study.
        params: Its parameters.
        baseline: ``"uniform"``, ``"pareto_dp"`` (the paper's search), ``"learned"``, or None.
        exit_of: The trial whose pass it is an additional exit of, or None.
        promise: The loss that can be promised, or None if unknown.
        lineage: The learning segments before its own.
        goes_on_from: The trial whose learned state it continues, or None.
        started: Time at which it started; None if unknown.
        finished: Time at which it finished.
        thresholds: Mean threshold ÷ largest activation by layer; empty if not computed.
        search: Its measurement on the search split.
        test: Its measurement on the test split, or None.
    """

    trial: int
    params: Mapping[str, Any]
    baseline: str | None
    search: Measurement
    test: Measurement | None = None
    exit_of: int | None = None
    lineage: Sequence[Mapping[str, Any]] = ()
    promise: Promise | None = None
    goes_on_from: int | None = None
    started: datetime | None = None
    finished: datetime | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def how(self) -> str:
        """Neuron and calibration in words, with the number of earlier learning segments."""
        before = f" +{len(self.lineage)}" if self.lineage else ""
        return f"{self.params[names.NEURON]}, {self.params[names.CALIBRATION]}{before}"

    @classmethod
    def of(cls, trial: FrozenTrial, test: Measurement | None = None) -> FrontPoint:
        """Make the point of a finished trial."""
        record = TrialRecord.of(trial)
        return cls(
            trial=trial.number,
            params=dict(trial.params),
            baseline=record.baseline,
            search=measurement_of(trial),
            test=test,
            exit_of=record.exit_of,
            lineage=tuple(record.lineage),
            goes_on_from=record.goes_on_from,
            started=trial.datetime_start,
            finished=trial.datetime_complete,
        )


@dataclass(frozen=True, kw_only=True)
class ParetoFront:
    """The non-dominated finished trials: accuracy up, energy down.

    Attributes:
        study: Name of the study.
        points: The points by rising energy; with energy as the only objective also by rising
            accuracy.
        trials: Every finished trial, by number.
        ann: The ANN on each measured split.
        budget: Limits that the points respect.
        energy_model: Energy model of all energies.
        confidence: Confidence of the promises.
        within: The trials within the study's budget; all of them, if none is.
        objectives: Quantities that the study minimises.
        rivals: The quantised ANN of as many levels by trial, if measured.
    """

    study: str
    points: tuple[FrontPoint, ...]
    trials: tuple[FrontPoint, ...]
    ann: Mapping[str, AnnReference]
    budget: Budget = NO_LIMITS
    energy_model: EnergyModel = ENERGY_MODELS["horowitz45"]
    confidence: float = 0.9
    within: tuple[FrontPoint, ...] = ()
    objectives: tuple[str, ...] = ("energy",)
    rivals: Mapping[int, QuantisedAnn] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"ParetoFront({self.study!r}: {len(self.points)} points of {self.passes} trials,"
            f" {self.energy_model.name}, splits {', '.join(self.ann)})"
        )

    def _repr_html_(self) -> str:
        """The points, for notebooks."""
        from reports.tables import points_frame  # it needs this module

        frame = points_frame(self)
        return html_table(list(frame.columns), frame.to_numpy().tolist(), repr(self))

    @property
    def metric(self) -> str:
        """Name of the task's metric."""
        return self.points[0].search.metric

    @property
    def candidates(self) -> Sequence[FrontPoint]:
        """Trials that may be on a front: within the budget and better than chance."""
        return _better_than(self.ann["search"].chance, self.within or self.trials)

    def lost(self, m: Measurement) -> float:
        """Loss of a measurement against the ANN, as a fraction; old ones are not paired."""
        if m.drop is not None:
            return m.drop.mean
        return self.ann[m.split].accuracy.value - m.accuracy.value

    @property
    def passes(self) -> int:
        """Number of trials that were run; the others are additional exits of the same passes."""
        return sum(trial.exit_of is None for trial in self.trials)


def pareto_front(
    study: optuna.Study, ann: Mapping[str, AnnReference], *, confidence: float | None = None
) -> ParetoFront:
    """The front of a study by its search-split measurements, within the study's budget.

    Of trials that are equal in all objectives the first is kept. Trials no better than chance are
    excluded. If no trial is within the budget, this is the front of all trials, with a warning.

    Args:
        study: The study.
        ann: The ANN on each measured split.
        confidence: Confidence of the promises; None: the study's.

    Raises:
        ConfigError: No trial has finished.
    """
    setup = study_setup(study)
    done = finished(study)
    model = DropModel([measurement_of(trial) for trial in done])
    trials = tuple(_promised(FrontPoint.of(trial), model) for trial in done)
    if not trials:
        raise ConfigError(f"the study {study.study_name!r} has no finished trial yet")
    within = [p for p, trial in zip(trials, done, strict=True) if is_feasible(trial)]
    if not within:
        _LOG.warning("no trial keeps the budget of the study: the front is that of all trials")
    candidates = _better_than(ann["search"].chance, within or trials)
    points = tuple(front_of(candidates, setup.objectives))
    return ParetoFront(
        study=study.study_name,
        points=points,
        trials=trials,
        ann=ann,
        budget=setup.budget,
        energy_model=setup.energy_model,
        confidence=confidence or setup.budget.confidence,
        within=tuple(within or trials),
        objectives=setup.objectives,
    )


def _promised(point: FrontPoint, model: DropModel) -> FrontPoint:
    return replace(point, promise=model.promise(point.search))


def _better_than(chance: float, points: Sequence[FrontPoint]) -> Sequence[FrontPoint]:
    """Points that are significantly better than chance; all, if none is."""
    return [p for p in points if p.search.accuracy.low > chance] or points


def front_so_far(study: optuna.Study) -> list[FrontPoint]:
    """The current front within the budget, by rising energy; the study may still be running."""
    points = [FrontPoint.of(t) for t in finished(study) if is_feasible(t)]
    reference = ann_reference(study)
    candidates = _better_than(reference.chance, points) if reference else points
    return front_of(candidates, objectives_of(study))


def front_of(
    points: Sequence[FrontPoint], objectives: Sequence[str] = ("energy",)
) -> list[FrontPoint]:
    """The non-dominated points in accuracy and all objectives, by rising energy."""
    by_number = sorted(points, key=lambda p: p.trial)
    rows = [objective_values(p.search, objectives) for p in by_number]
    losses = np.array([(*row[1:], -row[0]) for row in rows]).reshape(-1, len(objectives) + 1)
    return [by_number[i] for i in non_dominated_rows(losses)]


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Area of (accuracy, energy ratio) dominated within accuracy ≥ 0 and energy ratio ≤ 1.

    The maximum, 1, is full accuracy at zero energy.
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
    """Choose one point; by default the knee.

    Args:
        front: The front to choose from.
        trial: Choose this finished trial, whether on the front or not.
        max_energy: The most accurate point whose energy is at most this fraction of the ANN's.
        max_accuracy_drop: The cheapest trial that is promised to lose at most this much against the
            ANN, as a fraction (0.01 is one point), with the front's confidence. If both limits are
            given, both must hold.

    Raises:
        ConfigError: No point satisfies the limits; the message says what is available.
    """
    if trial is not None:
        return _by_number(front, trial)
    if max_energy is None and max_accuracy_drop is None:
        return knee(front.points)
    # What is promised need not be on the front of what was measured.
    points = list(front.points if max_accuracy_drop is None else front.within)
    if max_energy is not None:
        points = [p for p in points if p.search.energy_ratio <= max_energy]
    if max_accuracy_drop is not None:
        points = [p for p in points if is_promised(p, max_accuracy_drop, front.confidence)]
    if not points:
        raise ConfigError(_nothing_fits(front, max_energy, max_accuracy_drop))
    if max_accuracy_drop is None:
        return max(points, key=lambda point: (_accuracy(point), -_energy(point)))
    return min(points, key=_energy)


def is_promised(point: FrontPoint, limit: float, confidence: float) -> bool:
    """Whether a point is promised to lose no more than a limit, as a fraction."""
    return point.promise is not None and point.promise.bound(confidence) <= limit + 1e-12


def knee(points: Sequence[FrontPoint]) -> FrontPoint:
    """The point farthest from the line between the cheapest and the most accurate one.

    Both axes are scaled to 0..1 over the front, excluding points of much less accuracy than the
    best. Among equally distant points it is the most accurate.
    """
    points = front_of(points)  # of accuracy and energy, whatever else a study wants small
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
    best, cheapest = max(front.points, key=_accuracy), front.points[0]
    if drop is None:
        return (
            f"no point of the front has an energy <= {100 * (energy or 0):g}% of the ANN's; the"
            f" cheapest needs {cheapest.search.energy_ratio:.1%}"
        )
    within = f" within {100 * energy:g}% of the ANN's energy" if energy is not None else ""
    promises = [
        p.promise
        for p in front.within
        if p.promise is not None and (energy is None or p.search.energy_ratio <= energy)
    ]
    bounds = [promise.bound(front.confidence) for promise in promises]
    least = f"; the least that is promised is {100 * min(bounds):.2f} points" if bounds else ""
    more = _more_samples(front, promises, drop)
    lost = 100 * (front.ann["search"].accuracy.value - _accuracy(best))
    return (
        f"no trial is promised to lose at most {100 * drop:g} points with"
        f" {front.confidence:.0%} confidence{within}{least}{more}; the most accurate one"
        f" {'loses' if lost >= 0 else 'gains'} {abs(lost):.2f} points against the ANN"
        f" at {best.search.energy_ratio:.1%} of its energy"
    )


def _more_samples(front: ParetoFront, promises: Sequence[Promise], limit: float) -> str:
    """A hint how many search samples would suffice, if a trial's mean is within the limit."""
    there = front.ann["search"].n
    found = [samples_for(p, there, limit, front.confidence) for p in promises]
    needed = [n for n in found if n is not None]
    return f" (n = {there}; about {min(needed):,} search samples would do)" if needed else ""


def _accuracy(point: FrontPoint) -> float:
    return point.search.accuracy.value


def _energy(point: FrontPoint) -> float:
    return point.search.energy_pj.value
