"""What finished trials say of a choice: divergence and energy, each with one term per layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SATURATION = 0.3
"""Relative squared error from which on more of it matters less."""

_SLOPE, _SLOPE_SPREAD = 0.75, 0.3
"""Of log divergence over the logarithm of the layers' weighted sum."""

_POWER, _POWER_SPREAD = 2.0, 0.5
"""Of the errors in that sum: the worst layers count for more than their share."""

_LEAST = 0.1
"""Slope and power are at least this: more error is never taken to be better."""

_WEIGHT_SPREAD = 1.0
"""Prior standard deviation of the logarithm of a layer's weight; half of it is its own, half it
shares with layers near by: errors of early layers have many layers to grow in."""

_KIND_SPREAD = 0.3
"""Prior standard deviation of a neuron's or a calibration's offset in log divergence."""

_NOISE = 0.3
"""Standard deviation of log divergence about the model."""

_FORGET = 1.0
"""A trial that is so far from the model, or from the front, in log divergence, counts for half."""

_STEPS = 5
"""Of Gauss and Newton; from the last fit on, they are enough."""


@dataclass(frozen=True)
class Features:
    """What the surrogate knows of the cells, (φ, ρ), of each layer.

    Attributes:
        error: ``e / (1 + e / 0.3)`` of the relative squared error e, ``(layers, cells)``.
        energy: Accumulates over the ANN's MACs, ``(layers, cells)``.
    """

    error: np.ndarray
    energy: np.ndarray

    @classmethod
    def of(cls, error: np.ndarray, energy: np.ndarray) -> Features:
        """From tables ``(layers, φ, ρ)``; an infinite error excludes a cell."""
        flat = np.maximum(error.reshape(len(error), -1), 1e-9)
        feature = 1 / (1 / flat + 1 / _SATURATION)
        return cls(np.where(np.isinf(flat), np.inf, feature), energy.reshape(len(energy), -1))


class Surrogate:
    """Bayesian regression of log divergence on the layers' errors.

    ``log D = c + Σ_k o_k + s·log Σ_l w_l e_l^p``: e_l the saturating squared error that the
    calibration histograms predict for layer l's φ and ρ, w_l > 0 its weight, s a slope, p a power,
    o_k offsets of the kinds (neuron, calibration). The parameters, of the weights the logarithms,
    have a Gaussian prior; the posterior is that of Laplace, about the maximum that Gauss-Newton
    steps find. Whatever s > 0 is, the least divergence at an energy is the least weighted sum.

    Args:
        layers: Number of layers.
        kinds: Number of offsets.
    """

    def __init__(self, layers: int, kinds: int) -> None:
        self._kinds = kinds
        place = np.arange(layers)
        near = np.exp(-np.abs(place[:, None] - place) / max(layers / 3, 1))
        spreads = np.array([2.0, *[_KIND_SPREAD] * kinds, _SLOPE_SPREAD, _POWER_SPREAD])
        covariance = np.zeros((len(spreads) + layers,) * 2)
        np.fill_diagonal(covariance[: len(spreads), : len(spreads)], spreads**2)
        covariance[len(spreads) :, len(spreads) :] = _WEIGHT_SPREAD**2 * (np.eye(layers) + near) / 2
        self._prior = np.zeros(len(covariance))
        self._prior[0], self._prior[1 + kinds : 3 + kinds] = 1.0, (_SLOPE, _POWER)
        self._precision = np.linalg.inv(covariance)
        self._root = np.linalg.cholesky(covariance)
        self.mean = self._prior.copy()

    def fit(
        self, kinds: np.ndarray, errors: np.ndarray, log_divergence: np.ndarray, excess: np.ndarray
    ) -> None:
        """Learn from trials.

        Args:
            kinds: Indicators of the offsets, ``(trials, kinds)``.
            errors: Of the layers, ``(trials, layers)``.
            log_divergence: ``(trials,)``.
            excess: How much worse than the front each is, in log divergence, ``(trials,)``.
        """
        for _ in range(_STEPS):
            expected, slopes = self._expected(kinds, errors)
            missing = log_divergence - expected
            weight = 1 / (1 + (excess / _FORGET) ** 2) / (1 + (missing / _FORGET) ** 2) / _NOISE**2
            precision = self._precision + (slopes * weight[:, None]).T @ slopes
            gradient = slopes.T @ (weight * missing) - self._precision @ (self.mean - self._prior)
            step = np.linalg.solve(precision, gradient)
            self.mean = self.mean + step * min(1, 1 / np.abs(step).max())
            both = slice(1 + self._kinds, 3 + self._kinds)
            self.mean[both] = np.maximum(self.mean[both], _LEAST)
        self._root = np.linalg.inv(np.linalg.cholesky(precision)).T

    def drawn_terms(self, errors: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Terms of the sum, of ``(layers, cells)`` errors; weights and power from the posterior."""
        drawn = self.mean + self._root @ random.standard_normal(len(self.mean))
        power, weights = drawn[2 + self._kinds], np.exp(drawn[3 + self._kinds :])
        terms: np.ndarray = weights[:, None] * errors ** max(power, _LEAST)
        return terms

    def predict(self, kinds: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log divergence, of ``(n, kinds)``, ``(n, layers)``."""
        expected, slopes = self._expected(kinds, errors)
        return expected, np.sqrt(np.square(slopes @ self._root).sum(1))

    def _expected(self, kinds: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log divergence, and its derivatives by every parameter."""
        at = 1 + self._kinds
        slope, power = self.mean[at : at + 2]
        terms = errors**power * np.exp(self.mean[at + 2 :])
        total = terms.sum(1)
        log_sum = np.log(total / errors.shape[1])
        shares = slope * terms / total[:, None]
        by_power = (shares * np.log(errors)).sum(1)
        derivatives = np.column_stack([np.ones(len(errors)), kinds, log_sum, by_power, shares])
        return self.mean[0] + kinds @ self.mean[1:at] + slope * log_sum, derivatives


class Residual:
    """What the surrogate misses, by a Gaussian process: near a trial it is what it was there.

    Two choices are near if their layers' errors are, in logarithms.

    Args:
        places: Log errors of trials, ``(trials, layers)``.
        residuals: Of log divergence, ``(trials,)``.
    """

    def __init__(self, places: np.ndarray, residuals: np.ndarray) -> None:
        self._places = places
        covariance = _nearness(places, places) + _NUGGET * np.eye(len(places))
        self._inverse = np.linalg.inv(covariance)
        self._weights = self._inverse @ residuals

    def predict(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, ``(n,)`` each, at log errors ``(n, layers)``."""
        near = _nearness(places, self._places)
        explained = ((near @ self._inverse) * near).sum(1)
        return near @ self._weights, _MISSED * np.sqrt(np.maximum(1 - explained, 0.02))


_NUGGET = 0.05
"""Share of what is missed that does not depend on the place."""

_MISSED = 0.3
"""Standard deviation, in log divergence, of what the surrogate misses."""

_REACH = 3.0
"""Distance in log errors over which it changes."""


def _nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    near: np.ndarray = np.exp(-np.sqrt(np.maximum(squares, 0)) / _REACH)
    return near


def sweep_prices(errors: np.ndarray, energy: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """For each price λ the cells that minimise ``error + λ·energy``, ``(prices, layers)``.

    The sum is least where each layer's term is: this walks the lower convex hull of the frontier.
    """
    return np.stack([(errors + price * energy).argmin(1) for price in prices])
