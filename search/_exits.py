"""Exits of passes already made: one pass tells every exit threshold and smaller T."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluators import Measurement
from search._surrogate import expected_gain
from spaces import LayerSpace

_INTERESTING_DROP = 0.06
"""Points this much less accurate than the best found are not what anybody looks for."""

_INTERESTING_ENERGY = 1.5
"""Nor are points that need this many times the energy of the most accurate one."""

LEAST_LOSS = 1e-3
"""Losses below count as this: their logarithm would be all that is looked at."""

_LEAST_GAIN = 5e-3
"""Relative hypervolume gain for which an exit is worth a trial of its own."""

_MOST_EXITS = 4
"""Of one pass, for one loss."""

Criterion = Callable[[np.ndarray], np.ndarray]
"""The loss, ``(n,)``, of points ``(n, 3)``: accuracy, energy over the ANN's, divergence."""

LOSSES: tuple[Criterion, ...] = (lambda points: points[:, 2], lambda points: 1 - points[:, 0])


def points_of(measurements: Sequence[Measurement]) -> np.ndarray:
    """Accuracy, energy over the ANN's, divergence, ``(n, 3)``."""
    rows = [(m.accuracy.value, m.energy_ratio, m.kl.value) for m in measurements]
    return np.array(rows).reshape(-1, 3)


def interesting_front(points: np.ndarray, loss: Criterion) -> np.ndarray:
    """Which points are the front of a loss and energy, where anybody looks, by rising energy.

    Points of much less accuracy than the best, or of much more energy than the most accurate one,
    are left out.
    """
    if not len(points):
        return np.zeros(0, dtype=int)
    losses = loss(points)
    best = points[np.lexsort((points[:, 1], -points[:, 0]))[0]]
    wanted = points[:, 0] >= best[0] - _INTERESTING_DROP
    wanted &= points[:, 1] <= _INTERESTING_ENERGY * best[1]
    front: list[int] = []
    for i in np.lexsort((losses, points[:, 1])):
        if wanted[i] and (not front or losses[i] < losses[front[-1]]):
            front.append(int(i))
    return np.array(front)


MeasuredExits = list[tuple[dict[str, Any], Measurement]]
"""T and threshold of exits of a pass, and what they give."""


def measured_exits(
    params: Mapping[str, Any],
    measurement: Measurement,
    measure: Callable[[Mapping[str, Any]], Measurement],
    space: LayerSpace,
    *,
    known: np.ndarray,
    dearest: float = 0.0,
) -> MeasuredExits:
    """The other exits of a pass just measured that enlarge a front.

    Args:
        params: Of the pass.
        measurement: What was measured.
        measure: Measures parameters; cheap, where the pass is remembered.
        space: What may be chosen.
        known: Points of the finished trials, ``(n, 3)``.
        dearest: Logarithm of the share of the ANN's energy from which nothing counts.
    """
    points = np.concatenate([known, points_of([measurement])])
    gainful = gainful_exits(points, np.array(measurement.exit_curve), space, dearest=dearest)
    return [(exits, measure({**params, **exits})) for exits in gainful]


def gainful_exits(
    known: np.ndarray, curve: np.ndarray, space: LayerSpace, *, dearest: float = 0.0
) -> list[dict[str, Any]]:
    """T and exit threshold of the exits of a pass that enlarge a front.

    For divergence and for inaccuracy against energy, the exit that gains most, then the next,
    while they gain something.

    Args:
        known: Points of the finished trials, ``(n, 3)``, the pass's own among them.
        curve: The pass's exit curve, ``(rows, 5)``.
        space: What may be chosen.
        dearest: Logarithm of the share of the ANN's energy from which nothing counts.
    """
    found: list[dict[str, Any]] = []
    if space.pins.get("iat/beta", 0.0) != 0:  # the curve is that of constant thresholds
        return found
    offered = np.isin(curve[:, 0], _offered(space, "timesteps", space.timesteps))
    offered &= np.isclose(curve[:, 1], space.pins.get("iat/alpha", curve[:, 1]))
    rows = curve[offered]
    for loss in LOSSES:
        points = known
        for _ in range(_MOST_EXITS):
            best = _most_gainful(points, rows, loss, dearest)
            if best is None:
                break
            points = np.concatenate([points, best[None, 2:]])
            exits = {"timesteps": int(best[0]), "iat/alpha": float(best[1]), "iat/beta": 0.0}
            if exits not in found:
                found.append(exits)
    return found


def _most_gainful(
    points: np.ndarray, rows: np.ndarray, loss: Criterion, dearest: float
) -> np.ndarray | None:
    """The row that enlarges the front of the points most, if it does so noticeably."""
    chosen = points[interesting_front(points, loss)]
    front = np.log(np.column_stack([chosen[:, 1], np.maximum(loss(chosen), LEAST_LOSS)]))
    worst = (
        min(math.log(_INTERESTING_ENERGY) + front[-1, 0], dearest),
        math.log(2) + front[0, 1],
    )
    rows = rows[rows[:, 2] >= points[:, 0].max() - _INTERESTING_DROP]
    if not len(rows):
        return None
    losses = np.log(np.maximum(loss(rows[:, 2:]), LEAST_LOSS))
    gains = expected_gain(
        front,
        np.log(rows[:, 3]),
        losses,
        np.zeros(len(rows)),
        worst=worst,
        floor=math.log(LEAST_LOSS),
    )
    best = int(gains.argmax())
    return rows[best] if gains[best] > _LEAST_GAIN * dominated_area(front, worst) else None


def _offered(space: LayerSpace, name: str, values: Sequence[Any]) -> list[Any]:
    return [space.pins[name]] if name in space.pins else list(values)


def dominated_area(front: np.ndarray, worst: tuple[float, float]) -> float:
    """Area that points ``(energy, loss)`` dominate up to ``worst``; both are logarithms."""
    area, reached = 0.0, worst[1]
    for energy, value in front[np.argsort(front[:, 0])]:
        if energy < worst[0] and value < reached:
            area += (worst[0] - energy) * (reached - value)
            reached = value
    return float(area)


def key_of(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for equal parameters."""
    return tuple(params[name] for name in sorted(params))


def pass_of(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """Equal for parameters that share a forward pass, but for its length."""
    return tuple(params[name] for name in sorted(params) if name not in EXITS)


EXITS = ("timesteps", "iat/alpha", "iat/beta")
