"""The paper's search: per-layer sensitivities combined by dynamic programming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from conversion import ConfigError
from search.paper._sensitivity import Sensitivity
from spaces import names

_LIMIT = 20_000
"""Maximum number of points of a frontier, before it is thinned."""


@dataclass(frozen=True)
class Frontier:
    """All non-dominated combinations of one option per layer, by rising cost.

    Attributes:
        cost: Total cost, ``(points,)``.
        loss: Total loss, ``(points,)``, falling.
    """

    cost: np.ndarray
    loss: np.ndarray
    _steps: tuple[tuple[np.ndarray, np.ndarray], ...]

    def options(self, point: int) -> list[int]:
        """The option of each layer at a point."""
        found = []
        for parents, options in reversed(self._steps):
            found.append(int(options[point]))
            point = int(parents[point])
        return found[::-1]

    def least_loss(self, budget: float) -> int:
        """The point of least loss within a cost budget.

        Raises:
            ConfigError: No point is this cheap.
        """
        point = int(np.searchsorted(self.cost, budget + 1e-9 * abs(budget), side="right")) - 1
        if point < 0:
            raise ConfigError(
                f"no choice costs {budget:g} or less; the minimum is {self.cost[0]:g}"
            )
        return point

    def least_cost(self, budget: float) -> int:
        """The cheapest point within a loss budget.

        Raises:
            ConfigError: No point has so small a loss.
        """
        within = np.flatnonzero(self.loss <= budget + 1e-9 * abs(budget))
        if len(within) == 0:
            raise ConfigError(
                f"no choice loses {budget:g} or less; the minimum is {self.loss[-1]:g}"
            )
        return int(within[0])


def frontier(
    costs: Sequence[np.ndarray], losses: Sequence[np.ndarray], *, limit: int = _LIMIT
) -> Frontier:
    """The exact frontier of ``(Σ cost, Σ loss)``, one option per layer.

    It is built layer by layer: a combination dominated among the first layers is dominated among
    all (the pruning of Wang et al., Sec. 3.5). A frontier of more than ``limit`` points is thinned
    to the point of least loss in each of ``limit`` equal intervals of cost; its costs are then off
    by at most one interval per layer.

    Args:
        costs: Cost of each layer's options, ``(options,)`` each.
        losses: Loss of each layer's options, ``(options,)`` each.
        limit: Maximum number of points, not counting the first.
    """
    cost, loss = np.zeros(1), np.zeros(1)
    steps = []
    for c, s in zip(costs, losses, strict=True):
        every_cost, every_loss = (cost[:, None] + c).ravel(), (loss[:, None] + s).ravel()
        order = np.lexsort((every_loss, every_cost))
        ordered = every_loss[order]
        best_before = np.concatenate([[np.inf], np.minimum.accumulate(ordered)[:-1]])
        kept = order[ordered < best_before]
        if len(kept) > limit:
            kept = kept[_thinned(every_cost[kept], limit)]
        steps.append((kept // len(c), kept % len(c)))
        cost, loss = every_cost[kept], every_loss[kept]
    return Frontier(cost, loss, tuple(steps))


def _thinned(cost: np.ndarray, limit: int) -> np.ndarray:
    """The last point of each interval, which has its least loss; and the very first point."""
    interval = np.floor((cost - cost[0]) / (cost[-1] - cost[0]) * (limit - 1))
    last = np.flatnonzero(np.diff(interval, append=np.inf) > 0)
    return np.union1d(0, last)


@dataclass(frozen=True, kw_only=True)
class ParetoDP:
    """The paper's choice for a pair of budgets.

    Attributes:
        phi: φ by layer.
        rho: ρ by layer.
        energy: Predicted energy, as a share of the ANN's.
        divergence: Predicted divergence, nats.
    """

    phi: Mapping[str, int]
    rho: Mapping[str, float]
    energy: float
    divergence: float

    def params(self) -> dict[str, int | float]:
        """φ and ρ under a study's parameter names."""
        return names.per_layer(self.phi, self.rho)


class ParetoSearch:
    """Wang et al.'s search (AAAI 2025, Sec. 3.5), with exact sums.

    It assumes that divergences and energies of single layers add up. First it chooses the φ of
    least divergence under an energy budget, at ρ = 1; then the ρ of least energy under a divergence
    budget. The energy that a layer saves through ρ is assumed to be proportional to its energy at
    the chosen φ.

    Args:
        sensitivity: Sensitivity of each layer.
        step: Step to evaluate; None averages over all steps, since early exit uses each of them.
    """

    def __init__(self, sensitivity: Sensitivity, *, step: int | None = -1) -> None:
        def at(values: np.ndarray) -> np.ndarray:
            return values.mean(-1) if step is None else values[..., step]

        s = sensitivity
        self._sensitivity = s
        self._energy, self._divergence = float(at(s.energy)), float(at(s.divergence))
        self._phi_loss = at(s.phi_divergence) - self._divergence
        self._phi_cost = at(s.phi_energy) - self._energy
        self._rho_loss = at(s.rho_divergence) - self._divergence
        own = at(s.layer_energy)[:, None]
        self._own = np.maximum(own + self._phi_cost, 0)
        saved = (at(s.rho_energy) - self._energy) / np.maximum(own, 1e-12)
        self._rho_saving = np.clip(saved, -1, 1)
        self._phis = frontier(list(self._phi_cost), list(self._phi_loss))

    def choose(self, *, max_energy: float, max_divergence: float) -> ParetoDP:
        """φ under the energy budget, then ρ under the divergence budget.

        Args:
            max_energy: Budget for φ, as a share of the ANN's energy.
            max_divergence: Budget for ρ, in nats; a smaller one counts as the least possible.

        Raises:
            ConfigError: ``max_energy`` is too small; the message says what is possible.
        """
        point = self._phis.least_loss(max_energy - self._energy)
        return self._with_rho(point, max_divergence)

    def front(self, points: int) -> list[ParetoDP]:
        """Choices for budgets over the whole range: their predicted front, by energy."""
        phis, found = self._phis, []
        energies = np.maximum(phis.cost + self._energy, _LEAST_ENERGY)  # sums can be negative
        budgets = np.geomspace(energies[0], energies[-1], 2 * points) * (1 + 1e-9)
        for budget in np.unique(np.searchsorted(energies, budgets, side="right") - 1).tolist():
            least = phis.loss[budget] + self._divergence
            found += [self._with_rho(budget, max(least, 0) * slack) for slack in _SLACKS]
        return _spread(found, points)

    def _with_rho(self, point: int, max_divergence: float) -> ParetoDP:
        s = self._sensitivity
        chosen = self._phis.options(point)
        layers = range(len(chosen))
        costs = [self._own[i, chosen[i]] * self._rho_saving[i] for i in layers]
        rhos = frontier(costs, list(self._rho_loss))
        divergence = float(self._phis.loss[point]) + self._divergence
        at = rhos.least_cost(max(max_divergence - divergence, float(rhos.loss[-1])))
        options = rhos.options(at)
        return ParetoDP(
            phi={s.layers[i]: s.phis[chosen[i]] for i in layers},
            rho={s.layers[i]: s.rhos[options[i]] for i in layers},
            energy=self._energy + float(self._phis.cost[point] + rhos.cost[at]),
            divergence=divergence + float(rhos.loss[at]),
        )


_LEAST_ENERGY = 1e-6
"""Floor of predicted energies, as a share of the ANN's."""

_SLACKS = (1.0, 1.5, 2.0, 4.0)
"""Factors on φ's own divergence that the choice of ρ may reach."""


def _spread(found: Sequence[ParetoDP], points: int) -> list[ParetoDP]:
    front: list[ParetoDP] = []
    for choice in sorted(found, key=lambda c: (c.energy, c.divergence)):
        if not front or choice.divergence < front[-1].divergence:
            front.append(choice)
    energies = np.log([max(c.energy, _LEAST_ENERGY) for c in front])
    aims = np.linspace(energies[0], energies[-1], points)
    return [front[i] for i in dict.fromkeys(int(np.abs(energies - aim).argmin()) for aim in aims)]
