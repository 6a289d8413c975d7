"""How much accuracy a point loses with confidence, from its samples and its divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluators import Measurement, normal_quantile

_REACH = 0.35
"""Of the kernel, in logarithms of divergence."""

_LEAST_KL = 1e-4
_LEAST_SPREAD = 0.15
"""Least standard deviation of true drops about their prediction, as a share of it; that of
networks of one study which diverge alike (measured on digits: 0.1 to 0.3)."""

_FLOOR = 5e-4


@dataclass(frozen=True)
class Promise:
    """The drop of a point on an equal number of new samples, as a normal distribution.

    Attributes:
        mean: Accuracy lost, shrunk towards the prediction from the divergence.
        spread: Standard deviation, including the noise of the new samples.
    """

    mean: float
    spread: float

    def bound(self, confidence: float) -> float:
        """Upper bound of the loss at a confidence."""
        return self.mean + normal_quantile(confidence) * self.spread


class DropModel:
    """Predicts drops from divergences, and shrinks measured drops towards the prediction.

    The best of many noisy drops looks better than it is. The divergence from the ANN is far less
    noisy, and within a study it predicts the drop: by kernel regression over its logarithm. A
    point's own samples refine the prediction as far as their noise allows (empirical Bayes: Efron &
    Morris 1975), but never make a point look better than its samples do. As all points share the
    same samples, the noise of these is not reduced. A promise is checked on new samples, which add
    the same noise once more.

    Args:
        measured: Measurements of the finished trials, on one split.
    """

    def __init__(self, measured: Sequence[Measurement]) -> None:
        known = [(m, m.drop) for m in measured if m.drop is not None]
        self._places = np.array([_place(m) for m, _ in known])
        self._drops = np.array([drop.mean for _, drop in known])
        self._noise = np.array([drop.spread**2 for _, drop in known])

    def promise(self, measurement: Measurement) -> Promise | None:
        """The promise for a point; None if its drop was not recorded."""
        drop = measurement.drop
        if drop is None:
            return None
        predicted, about = self._predict(measurement)
        own = 1 / drop.spread**2
        weight = own / (own + 1 / about)
        shrunk = weight * drop.centre + (1 - weight) * predicted
        spread = math.sqrt(1 / (own + 1 / about) + 2 * drop.spread**2)
        return Promise(mean=max(shrunk, drop.centre), spread=spread)

    def _predict(self, measurement: Measurement) -> tuple[float, float]:
        """Predicted drop at a divergence, and the variance of true drops around it."""
        place = _place(measurement)
        weights = np.exp(-0.5 * ((self._places - place) / _REACH) ** 2) / self._noise
        total = max(float(weights.sum()), 1e-12)
        mean = max(float(weights @ self._drops) / total, 0.0)
        excess = float(weights @ ((self._drops - mean) ** 2 - self._noise)) / total
        kl = measurement.kl
        unsure = (kl.high - kl.low) / (2 * 1.96 * max(kl.value, _LEAST_KL))
        if not math.isfinite(unsure):
            unsure = 1.0
        least = (_LEAST_SPREAD * mean + _FLOOR) ** 2
        return mean, max(excess, least) + (mean * unsure) ** 2


def _place(measurement: Measurement) -> float:
    return math.log(max(measurement.kl.value, _LEAST_KL))


def samples_for(promise: Promise, n: int, limit: float, confidence: float) -> int | None:
    """Samples needed for a point like this one to satisfy a limit; None if no number suffices.

    Args:
        promise: The promise from ``n`` samples.
        n: Number of samples so far.
        limit: Largest allowed loss.
        confidence: Confidence of the promise.
    """
    if promise.mean >= limit:
        return None
    return math.ceil(
        n * (normal_quantile(confidence) * promise.spread / (limit - promise.mean)) ** 2
    )
