"""Fronts of two quantities to minimise: points, dominated area, expected gain."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Indices of the non-dominated points among ``(n, 2)``, by rising first column.

    Of equal points the first one is kept.
    """
    order = np.lexsort((points[:, 1], points[:, 0]))
    losses = points[order, 1]
    least = np.minimum.accumulate(losses)
    first = np.concatenate([[True], losses[1:] < least[:-1]])[: len(order)]
    chosen: np.ndarray = order[first]
    return chosen


def dominated_area(points: np.ndarray, worst: tuple[float, float]) -> float:
    """Area that points ``(n, 2)`` dominate up to ``worst``: the hypervolume of two objectives."""
    area, reached = 0.0, worst[1]
    for first, second in points[non_dominated(points)]:
        if first < worst[0] and second < reached:
            area += (worst[0] - first) * (reached - second)
            reached = second
    return float(area)


def expected_gain(
    front: np.ndarray,
    energy: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    *,
    worst: tuple[float, float],
    floor: float,
) -> np.ndarray:
    """Expected growth of the area that a front dominates, in closed form, ``(n,)``.

    A candidate's energy is treated as known and its loss as normally distributed. Each step of the
    front's staircase to the right of the candidate contributes its width times the expected
    improvement over its height (Emmerich et al. 2011, for two objectives of which one is certain).

    Args:
        front: Energy and loss of the current points, ``(points, 2)``, in any order.
        energy: Energies of the candidates, ``(n,)``.
        mean: Means of their losses, ``(n,)``.
        deviation: Standard deviations of their losses, ``(n,)``.
        worst: Energy and loss of the reference point.
        floor: Loss below which there is no further gain.
    """
    inside = front[(front[:, 0] < worst[0]) & (front[:, 1] < worst[1])]
    inside = inside[np.argsort(inside[:, 0])]
    edges = np.concatenate([[-np.inf], inside[:, 0], [worst[0]]])
    levels = np.minimum.accumulate(np.concatenate([[worst[1]], inside[:, 1]]))
    left = np.maximum(edges[:-1], energy[:, None])
    width = np.maximum(edges[1:] - left, 0)
    above = _improvement(levels, mean, deviation) - _improvement(
        np.minimum(levels, floor), mean, deviation
    )
    gain: np.ndarray = (width * above).sum(1)
    return gain


def _improvement(level: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """``E[max(level − y, 0)]`` of normal y, ``(n, levels)``."""
    spread = np.maximum(deviation, 1e-9)[:, None]
    z = (level - mean[:, None]) / spread
    improvement: np.ndarray = spread * (z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
    return improvement
