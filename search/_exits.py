"""Additional exit settings from the same pass: any threshold and any smaller T."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluators import Measurement
from search._front import dominated_area, expected_gain, non_dominated
from spaces import LayerSpace, names

_INTERESTING_DROP = 0.06
"""Points that are this much less accurate than the best are ignored."""

_INTERESTING_ENERGY = 1.5
"""So are points that need this many times the energy of the most accurate one."""

_LEAST_GAIN = 5e-3
"""Relative hypervolume gain that makes an exit worth a trial of its own."""

_MOST_EXITS = 4
"""Maximum number of exits per pass and loss."""

_UNLIKE = 0.5
"""Distance between passes of different neuron or calibration, in logarithms of energy or loss."""

_MOST_STEPS = 12
"""Rows of the staircase that predicts a pass's exits."""


@dataclass(frozen=True)
class Criterion:
    """The loss that is traded against energy.

    Attributes:
        of: Computes the loss, ``(n,)``, of points ``(n, 3)``: accuracy, energy ÷ the ANN's,
            divergence.
        least: Floor of the loss; without it, tiny losses would dominate in the logarithm.
        elasticity: Slope of its logarithm against that of the first step's divergence.
    """

    of: Callable[[np.ndarray], np.ndarray]
    least: float
    elasticity: float


LOSSES = (
    Criterion(lambda points: points[:, 2], least=5e-3, elasticity=1.0),
    Criterion(lambda points: 1 - points[:, 0], least=1e-3, elasticity=0.5),
)


def points_of(measurements: Sequence[Measurement]) -> np.ndarray:
    """Accuracy, energy ÷ the ANN's, divergence, ``(n, 3)``."""
    rows = [(m.accuracy.value, m.energy_ratio, m.kl.value) for m in measurements]
    return np.array(rows).reshape(-1, 3)


def interesting_front(points: np.ndarray, loss: Criterion) -> np.ndarray:
    """The front of loss and energy within the range of interest, by rising energy, ``(k,)``.

    Points that are much less accurate than the best, or need much more energy than the most
    accurate one, are excluded.
    """
    if not len(points):
        return np.zeros(0, dtype=int)
    best = points[np.lexsort((points[:, 1], -points[:, 0]))[0]]
    wanted = points[:, 0] >= best[0] - _INTERESTING_DROP
    wanted &= points[:, 1] <= _INTERESTING_ENERGY * best[1]
    among = np.flatnonzero(wanted)
    chosen: np.ndarray = among[_front(points[among], loss)]
    return chosen


def _front(points: np.ndarray, loss: Criterion) -> np.ndarray:
    """Indices of the non-dominated points in loss and energy, by rising energy."""
    return non_dominated(np.column_stack([points[:, 1], np.maximum(loss.of(points), loss.least)]))


def logarithms(points: np.ndarray, loss: Criterion) -> np.ndarray:
    """Log energy and log loss, ``(n, 2)``, of points ``(n, 3)``."""
    pairs = np.column_stack([points[:, 1], np.maximum(loss.of(points), loss.least)])
    logs: np.ndarray = np.log(pairs)
    return logs


def worst_of(front: np.ndarray, dearest: float, margin: float) -> tuple[float, float]:
    """Upper limits, log energy and log loss, of the range of interest around a front."""
    return min(math.log(_INTERESTING_ENERGY) + front[-1, 0], dearest), margin + front[0, 1]


def dearest_of(ratios: np.ndarray) -> float:
    """Logarithm of the energy at which the range of interest ends, without a user's limit.

    That is the ANN's energy or, if every measured point exceeds it, the most expensive point.

    Args:
        ratios: Energies ÷ the ANN's of the finished trials, ``(n,)``.
    """
    above = len(ratios) > 0 and float(ratios.min()) > 1
    return math.log(float(ratios.max())) if above else 0.0


def staircase(curve: np.ndarray, space: LayerSpace, loss: Criterion) -> np.ndarray:
    """Log energy and log loss of about a dozen best exits of a pass, ``(rows, 2)``.

    No rows if the space contains no exit of the curve.
    """
    points = offered_exits(curve, space)[:, 2:]
    if not len(points):
        return np.zeros((0, 2))
    front = logarithms(points[_front(points, loss)], loss)
    some = np.unique(np.linspace(0, len(front) - 1, _MOST_STEPS).round().astype(int))
    rows: np.ndarray = front[some]
    return rows


def foreseen_exits(
    staircases: Sequence[np.ndarray],
    seen: np.ndarray,
    sought: np.ndarray,
    unlike: np.ndarray,
    loss: Criterion,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict the exits of passes not yet run from those of the nearest one that was.

    Energies are scaled by the ratio of the first steps' energies, losses by the ratio of their
    divergences to the power of the loss's elasticity.

    Args:
        staircases: The staircase of each pass that was run.
        seen: Log energy and log divergence of their first steps, ``(passes, 2)``.
        sought: Predictions of the same for passes not yet run, ``(n, 2)``.
        unlike: Number of kinds (neuron, calibration) in which they differ, ``(n, passes)``.
        loss: The loss traded against energy.

    Returns:
        Log energy and log loss of exits, ``(rows, 2)``, and the index of their pass, ``(rows,)``.
    """
    squares = np.square(sought[:, None] - seen).sum(-1) + unlike * _UNLIKE**2
    near = squares.argmin(1)
    owner = np.repeat(np.arange(len(sought)), [len(staircases[i]) for i in near])
    rows = np.concatenate([staircases[i] for i in near])
    return rows + (sought - seen[near])[owner] * (1, loss.elasticity), owner


MeasuredExits = list[tuple[dict[str, Any], Measurement]]
"""T and threshold of additional exits of a pass, with their measurements."""


def measured_exits(
    params: Mapping[str, Any],
    measurement: Measurement,
    measure: Callable[[Mapping[str, Any]], Measurement],
    space: LayerSpace,
    *,
    known: np.ndarray,
    dearest: float = 0.0,
    least_accuracy: float = 0.0,
) -> MeasuredExits:
    """The additional exits of a measured pass that improve a front.

    Args:
        params: Parameters of the pass.
        measurement: Measurement of the pass.
        measure: Measures parameters; cheap while the pass is cached.
        space: The search space.
        known: Points of the finished trials, ``(n, 3)``.
        dearest: Logarithm of the energy, as a share of the ANN's, at which the range of interest
            ends.
        least_accuracy: Points below this accuracy are ignored.
    """
    points = np.concatenate([known, points_of([measurement])])
    curve = np.array(measurement.exit_curve)
    curve = curve[curve[:, 2] >= least_accuracy - 1e-12]
    gainful = gainful_exits(points, curve, space, dearest=dearest)
    return [(exits, measure({**params, **exits})) for exits in gainful]


def gainful_exits(
    known: np.ndarray, curve: np.ndarray, space: LayerSpace, *, dearest: float = 0.0
) -> list[dict[str, Any]]:
    """T and exit threshold of the exits of a pass that improve a front.

    Greedily for both losses, divergence and inaccuracy: the exit with the largest gain, then the
    next, until the gain is negligible.

    Args:
        known: Points of the finished trials, ``(n, 3)``, including the pass itself.
        curve: The pass's exit curve, ``(rows, 5)``.
        space: The search space.
        dearest: Logarithm of the energy, as a share of the ANN's, at which the range of interest
            ends.
    """
    found: list[dict[str, Any]] = []
    if space.pins.get(names.BETA, 0.0) != 0:  # the curve is that of constant thresholds
        return found
    rows = offered_exits(curve, space)
    for loss in LOSSES:
        points = known
        for _ in range(_MOST_EXITS):
            best = _most_gainful(points, rows, loss, dearest)
            if best is None:
                break
            points = np.concatenate([points, best[None, 2:]])
            exits = {names.TIMESTEPS: int(best[0]), names.ALPHA: float(best[1]), names.BETA: 0.0}
            if exits not in found:
                found.append(exits)
    return found


def _most_gainful(
    points: np.ndarray, rows: np.ndarray, loss: Criterion, dearest: float
) -> np.ndarray | None:
    """The row that improves the front most, if noticeably."""
    chosen = points[interesting_front(points, loss)]
    front = logarithms(chosen, loss)
    worst = worst_of(front, dearest, math.log(2))
    rows = rows[rows[:, 2] >= points[:, 0].max() - _INTERESTING_DROP]
    if not len(rows):
        return None
    energies, losses = logarithms(rows[:, 2:], loss).T
    certain, floor = np.zeros(len(rows)), math.log(loss.least)
    gains = expected_gain(front, energies, losses, certain, worst=worst, floor=floor)
    best = int(gains.argmax())
    return rows[best] if gains[best] > _LEAST_GAIN * dominated_area(front, worst) else None


def offered_exits(curve: np.ndarray, space: LayerSpace) -> np.ndarray:
    """The rows of an exit curve that are in a space."""
    pinned = space.pins.get(names.TIMESTEPS)
    steps = list(space.timesteps) if pinned is None else [pinned]
    offered = np.isin(curve[:, 0], steps)
    offered &= np.isclose(curve[:, 1], space.pins.get(names.ALPHA, curve[:, 1]))
    rows: np.ndarray = curve[offered]
    return rows


Lineage = Sequence[Mapping[str, Any]]
"""Learning segments that a trial continues."""


def key_of(params: Mapping[str, Any], lineage: Lineage = ()) -> str:
    """A key equal for equal choices; a string, because its hash is cached."""
    before = [[segment[name] for name in sorted(segment)] for segment in lineage]
    return str([[params[name] for name in sorted(params)], before])


def pass_of(params: Mapping[str, Any], lineage: Lineage = ()) -> str:
    """A key equal for choices that share a forward pass, up to its length."""
    shared = {name: value for name, value in params.items() if name not in names.EXITS}
    return key_of(shared, lineage)
