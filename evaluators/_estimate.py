"""A measured mean with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from torch import Tensor

from conversion import ConfigError

_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over n samples with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Convert to JSON-serialisable values; an infinite interval becomes None."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, float | None]) -> Estimate:
        """Rebuild from the output of :meth:`to_dict`."""
        bounds = {"value": math.nan, "low": -math.inf, "high": math.inf}
        given = {name: value for name, value in values.items() if value is not None}
        return cls(**{**bounds, **given})


def estimate_of(mean: float, error: float) -> Estimate:
    """A mean with a standard error that are known."""
    return Estimate(value=mean, low=mean - _Z * error, high=mean + _Z * error)


def estimate_mean(samples: Tensor) -> Estimate:
    """Mean of ``(N,)`` values with the normal interval ``mean ± 1.96·s/√n``."""
    values = samples.double()
    mean = float(values.mean())
    spread = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return estimate_of(mean, spread)


def estimate_score(scores: Tensor) -> Estimate:
    """Mean of per-sample scores ``(N,)``: Wilson's interval if all are 0 or 1.

    Wilson 1927, eq. as in Brown, Cai & DasGupta 2001, Sec. 3.1.1; other scores get the normal
    interval.
    """
    if not bool(((scores == 0) | (scores == 1)).all()):
        mean = estimate_mean(scores)
        return Estimate(value=mean.value, low=max(0.0, mean.low), high=min(1.0, mean.high))
    n = len(scores)
    p = float(scores.double().mean())
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Estimate(value=p, low=max(0.0, centre - half), high=min(1.0, centre + half))


@dataclass(frozen=True, kw_only=True)
class PairedDrop:
    """How far a score is below the ANN's on the same samples.

    The interval is that of Agresti and Min for paired proportions (Statistics in Medicine 24, 2005,
    Sec. 3.1), which adds half a sample to each of the four cells of correct and wrong; scores
    between 0 and 1 use the same formula with their moments.

    Attributes:
        n: Number of samples.
        mean: Mean of the ANN's score minus the spiking network's.
        square: Mean square of these differences; for scores of 0 and 1 the share that differs.
        error: Standard error of a metric that is not a mean over samples; otherwise None.
    """

    n: int
    mean: float
    square: float
    error: float | None = None

    @classmethod
    def of(cls, ann: Tensor, scores: Tensor) -> PairedDrop:
        """Make it from the scores of both networks, ``(N,)`` each."""
        lost = ann.double() - scores.double()
        return cls(n=len(lost), mean=float(lost.mean()), square=float(lost.square().mean()))

    @property
    def spread(self) -> float:
        """Standard error of the drop."""
        if self.error is not None:
            return self.error
        n = self.n + 2
        return math.sqrt(max((self.n * self.square + 1) / n - self.centre**2, 0.0) / n)

    @property
    def centre(self) -> float:
        """Centre of the interval."""
        return self.mean if self.error is not None else self.n * self.mean / (self.n + 2)

    def bound(self, confidence: float) -> float:
        """The largest plausible loss at a confidence: the end of a one-sided interval."""
        return min(self.centre + normal_quantile(confidence) * self.spread, 1.0)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Both ends of a two-sided interval."""
        half = normal_quantile((1 + confidence) / 2) * self.spread
        return max(self.centre - half, -1.0), min(self.centre + half, 1.0)

    def to_dict(self) -> dict[str, float]:
        """Convert to JSON-serialisable values."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return {name: value for name, value in known.items() if math.isfinite(value)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PairedDrop:
        """Rebuild from the output of :meth:`to_dict`."""
        return cls(**values)


def normal_quantile(confidence: float) -> float:
    """The quantile of the standard normal distribution at a probability.

    Raises:
        ConfigError: The probability is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"a confidence must be between 0 and 1, got {confidence!r}")
    return NormalDist().inv_cdf(confidence)
