"""A landscape like a network's, of which the best trade-off is known exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from conversion import Profile
from evaluators import Measurement
from search import layer_tables
from spaces import LayerSpace

UNIT = 0.0025
"""Energies are whole multiples of this share of the ANN's: that is what makes the front exact."""

INTERACTION = 0.5
"""Of neighbouring layers, times the root of the product of their errors."""

SLOPE, OFFSET = 1.5, 1.0
"""``log D = offset + slope · log(error)``."""


@dataclass
class Synthetic:
    """Errors and energies of a network's layers, distorted, with neighbours that interact.

    ``log D = 1 + 1.5·log(Σ_l d_l + ½·Σ_l √(d_l·d_{l+1}))``, ``d_l = w_l·e_l·noise``, e_l as the
    histograms predict, w_l log-normal (σ = 1), the noise of every (φ, ρ) too (σ = 0.4); the
    energies are the histograms', times a log-normal factor per layer (σ = 0.2). Accuracy falls by
    a quarter of D.

    Args:
        profile: Of the network whose tables are distorted.
        space: φ and ρ of each layer.
        template: A measurement of that network; what is not modelled is taken from it.
        seed: Of the distortion.
    """

    profile: Profile
    space: LayerSpace
    template: Measurement
    seed: int = 0
    ann: float = 0.99

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        steps = max(self.space.timesteps)
        tables = layer_tables(self.profile, self.space, steps, steps=steps)
        layers = len(self.space.layers)
        weight = np.exp(random.normal(0, 1.0, (layers, 1)))
        error = tables.error.reshape(layers, -1)
        self._error = weight * error * np.exp(random.normal(0, 0.4, error.shape)) / layers
        energy = tables.energy.reshape(layers, -1) * np.exp(random.normal(0, 0.2, (layers, 1)))
        self._units = np.maximum(np.rint(energy * 0.9 / 4.6 / UNIT), 0).astype(int)

    def measure(self, params: Mapping[str, Any]) -> Measurement:
        """Of a choice; only what the landscape is about differs from the template."""
        width = len(self.space.rhos())
        cells = [
            (params[f"phi/{n}"] - 1) * width + round((params[f"rho/{n}"] - 1) / self.space.rho_step)
            for n in self.space.layers
        ]
        layers = np.arange(len(cells))
        errors, units = self._error[layers, cells], self._units[layers, cells]
        divergence = self._divergence(errors.sum() + self._between(errors[:-1], errors[1:]).sum())
        ratio = UNIT * float(units.sum()) + UNIT
        t = self.template
        ann_pj = t.energy_pj.value / t.energy_ratio
        accuracy = self.ann * max(0.0, 1 - divergence / 4)
        return replace(
            t,
            accuracy=replace(t.accuracy, value=accuracy),
            energy_pj=replace(t.energy_pj, value=ratio * ann_pj),
            energy_ratio=ratio,
            kl=replace(t.kl, value=divergence),
            kl_by_step=(divergence,) * len(t.kl_by_step),
            layer_energy_pj={
                n: UNIT * int(u) * ann_pj for n, u in zip(self.space.layers, units, strict=True)
            },
        )

    @cached_property
    def front(self) -> list[tuple[float, float]]:
        """(energy, divergence) of every point of the true front, by rising energy.

        Layer by layer, for the last layer's cell and every sum of energy the least error: exact,
        since a layer interacts with its neighbour alone and energies are whole numbers.
        """
        most = int(self._units.max(1).sum())
        best = np.full((self._units.shape[1], most + 1), np.inf)
        best[np.arange(len(best)), self._units[0]] = self._error[0]
        for layer in range(1, len(self._units)):
            following = np.full_like(best, np.inf)
            for cell, (error, units) in enumerate(
                zip(self._error[layer], self._units[layer], strict=True)
            ):
                together = best + self._between(self._error[layer - 1], error)[:, None] + error
                following[cell, units:] = together.min(0)[: most + 1 - units]
            best = following
        found: list[tuple[float, float]] = []
        for units, error in enumerate(best.min(0)):
            divergence = self._divergence(error)
            if math.isfinite(error) and (not found or divergence < found[-1][1]):
                found.append((UNIT * units + UNIT, divergence))
        return found

    def _between(self, one: np.ndarray, other: np.ndarray | float) -> np.ndarray:
        return INTERACTION * np.sqrt(one * other)

    def _divergence(self, error: float) -> float:
        return float(np.exp(OFFSET + SLOPE * np.log(error))) if error < np.inf else math.inf
