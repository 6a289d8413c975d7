"""The expected gain of proposals, and which kind has gained most per second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search._exits import (
    LOSSES,
    Criterion,
    dearest_of,
    interesting_front,
    logarithms,
    points_of,
    worst_of,
)
from search._front import dominated_area, expected_gain
from search.sampler._known import Known

_MARGIN = 0.1
"""How far above the front's worst loss, in logarithms, an exit may still be of interest."""

_RECENT = 6
"""Number of recent passes of a kind that its gain is estimated from."""


@dataclass
class Limits:
    """The range of interest.

    Attributes:
        dearest: Logarithm of the energy, as a share of the ANN's, at which the range of interest
            ends.
        fixed: Whether the user has set it.
    """

    dearest: float
    fixed: bool = False

    def widen(self, ratios: np.ndarray) -> None:
        """If every measurement costs more than the ANN, extend the range to the most expensive one.

        Args:
            ratios: Energies ÷ the ANN's of the finished trials, ``(n,)``.
        """
        if not self.fixed:
            self.dearest = dearest_of(ratios)

    def gains(
        self,
        front: np.ndarray,
        exits: np.ndarray,
        deviation: np.ndarray,
        loss: Criterion,
        measured: np.ndarray | None = None,
    ) -> np.ndarray:
        """Expected growth of a front's dominated area by each exit, ``(n,)``.

        Args:
            front: Log energy and log loss of finished and running trials.
            exits: Predicted log energy and log loss, ``(n, 2)``.
            deviation: Standard deviations of their log losses, ``(n,)``.
            loss: The loss traded against energy.
            measured: The front without running trials; None: ``front``.
        """
        reference = front if measured is None else measured
        return expected_gain(
            front,
            exits[:, 0],
            exits[:, 1],
            deviation,
            worst=worst_of(reference, self.dearest, _MARGIN),
            floor=math.log(loss.least),
        )


def first_passes(known: Sequence[Known]) -> list[Known]:
    """Each pass once, without additional exits, by number."""
    found: dict[str, Known] = {}
    for trial in known:
        if trial.is_pass:
            found.setdefault(trial.pass_key, trial)
    return list(found.values())


def gains_per_second(known: Sequence[Known], limits: Limits) -> tuple[float | None, float | None]:
    """Gain per second of the latest passes that did not learn, and of those that did.

    The gain of a pass is the area that its exits added to the fronts of both losses, within the
    range of interest. None for a kind with too few passes.
    """
    passes = first_passes(known)
    gained = sum((_gains(passes, loss, limits) for loss in LOSSES), np.zeros(len(passes)))
    rates: list[float | None] = []
    for learned in (False, True):
        recent = [i for i, t in enumerate(passes) if t.learned is learned][-_RECENT:]
        seconds = sum(passes[i].seconds for i in recent)
        enough = len(recent) >= _RECENT // 2
        rates.append(float(gained[recent].sum()) / max(seconds, 1e-6) if enough else None)
    return rates[0], rates[1]


def _gains(passes: Sequence[Known], loss: Criterion, limits: Limits) -> np.ndarray:
    """Area that each pass added to the front of one loss, ``(passes,)``."""
    if not passes:
        return np.zeros(0)
    points = points_of([t.measurement for t in passes])
    front = logarithms(points[interesting_front(points, loss)], loss)
    worst = worst_of(front, limits.dearest, _MARGIN)
    reached, area, gained = np.zeros((0, 2)), 0.0, []
    for known in passes:
        reached = np.concatenate([reached, known.exits[loss]])
        grown = dominated_area(reached, worst)
        gained.append(grown - area)
        area = grown
    return np.array(gained)
