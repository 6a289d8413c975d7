"""Exits of passes already made: one pass tells every exit threshold and smaller T."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluators import Measurement
from search._surrogate import expected_gain
from spaces import LayerSpace

Done = Sequence[tuple[Mapping[str, Any], Measurement]]
"""Parameters and measurements of the finished trials."""

_INTERESTING_DROP = 0.06
"""Points this much less accurate than the best found are not what anybody looks for."""

_INTERESTING_ENERGY = 1.5
"""Nor are points that need this many times the energy of the most accurate one."""

LEAST_LOSS = 1e-3
"""Losses below count as this: their logarithm would be all that is looked at."""

_LEAST_GAIN = 5e-3
"""Relative hypervolume gain for which an exit threshold is worth a trial of its own."""


@dataclass(frozen=True)
class Criterion:
    """A loss to be traded against energy, by measurement and by rows of an exit curve."""

    of_measurement: Callable[[Measurement], float]
    of_exits: Callable[[np.ndarray], np.ndarray]


LOSSES = (
    Criterion(lambda m: m.kl.value, lambda rows: rows[:, 4]),
    Criterion(lambda m: 1 - m.accuracy.value, lambda rows: 1 - rows[:, 2]),
)


def interesting_front(done: Done, loss: Criterion) -> Done:
    """The front of a loss and energy, where anybody looks, by rising energy.

    Points of much less accuracy than the best, or of much more energy than the most accurate one,
    are left out.
    """
    if not done:
        return []
    best = max((m for _, m in done), key=lambda m: (m.accuracy.value, -m.energy_ratio))
    front: list[tuple[Mapping[str, Any], Measurement]] = []
    value = loss.of_measurement
    for params, m in sorted(done, key=lambda d: (d[1].energy_ratio, value(d[1]))):
        wanted = (
            m.accuracy.value >= best.accuracy.value - _INTERESTING_DROP
            and m.energy_ratio <= _INTERESTING_ENERGY * best.energy_ratio
        )
        if wanted and (not front or value(m) < value(front[-1][1])):
            front.append((params, m))
    return front


def best_exit(
    done: Done,
    curves: Sequence[np.ndarray],
    taken: Container[tuple[Any, ...]],
    space: LayerSpace,
    loss: Criterion,
    *,
    dearest: float = 0.0,
) -> dict[str, Any] | None:
    """The exit threshold and T, of a pass already made, that would enlarge the front most.

    Args:
        done: Finished trials.
        curves: Their exit curves, ``(rows, 5)`` each.
        taken: Keys of the parameters that are measured, or soon will be.
        space: What may be chosen.
        loss: What is traded against energy.
        dearest: Logarithm of the share of the ANN's energy from which nothing counts.
    """
    found = interesting_front(done, loss)
    if not found:
        return None
    front = np.log([[m.energy_ratio, max(loss.of_measurement(m), LEAST_LOSS)] for _, m in found])
    worst = (
        min(math.log(_INTERESTING_ENERGY) + front[-1, 0], dearest),
        math.log(2) + front[0, 1],
    )
    rows = np.concatenate(curves)
    owners = np.repeat(np.arange(len(curves)), [len(curve) for curve in curves])
    least = max(m.accuracy.value for _, m in done) - _INTERESTING_DROP
    offered = np.isin(rows[:, 0], _offered(space, "timesteps", space.timesteps))
    offered &= (rows[:, 2] >= least) & (rows[:, 3] < math.exp(worst[0]))
    if "iat/alpha" in space.pins:
        offered &= np.isclose(rows[:, 1], space.pins["iat/alpha"])
    rows, owners = rows[offered], owners[offered]
    energies, losses = np.log(rows[:, 3]), np.log(np.maximum(loss.of_exits(rows), LEAST_LOSS))
    there = np.searchsorted(front[:, 0], energies, side="right")
    better = losses < np.concatenate([[worst[1]], front[:, 1]])[there]
    rows, owners, energies, losses = rows[better], owners[better], energies[better], losses[better]
    floor = math.log(LEAST_LOSS)
    certain = np.zeros(len(rows))
    gains = expected_gain(front, energies, losses, certain, worst=worst, floor=floor)
    enough = _LEAST_GAIN * dominated_area(front, worst)
    for best in np.argsort(-gains, kind="stable"):
        if gains[best] <= enough:
            return None
        settings = {"timesteps": int(rows[best, 0]), "iat/alpha": float(rows[best, 1])}
        refined = {**done[owners[best]][0], **settings, "iat/beta": 0.0, **space.pins}
        if key_of(refined) not in taken:
            return refined
    return None


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
