"""A measured mean with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from conversion import ConfigError, decisions, log_probabilities

_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over n samples and its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """As JSON-able values; an interval without end, as of one sample, becomes None."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, float | None]) -> Estimate:
        """The inverse of :meth:`to_dict`."""
        bounds = {"value": math.nan, "low": -math.inf, "high": math.inf}
        given = {name: value for name, value in values.items() if value is not None}
        return cls(**{**bounds, **given})


def estimate_mean(samples: Tensor) -> Estimate:
    """Mean of ``(N,)`` values with the normal interval ``mean ± 1.96·s/√n``."""
    values = samples.double()
    mean = float(values.mean())
    spread = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(value=mean, low=mean - _Z * spread, high=mean + _Z * spread)


def estimate_score(scores: Tensor) -> Estimate:
    """Mean of per-sample scores ``(N,)``: Wilson's interval if all are 0 or 1.

    Wilson 1927, eq. as in Brown, Cai & DasGupta 2001, Sec. 3.1.1; other scores get the normal
    interval.

    Raises:
        ConfigError: The scores are not one number within 0..1 per sample.
    """
    if scores.dim() != 1 or not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ConfigError(
            "the metric must give one score within 0..1 per sample, got shape"
            f" {tuple(scores.shape)}, values {float(scores.min()):g} to {float(scores.max()):g}"
        )
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
    """How much a score falls below the ANN's on the same samples.

    Its interval comes from the samples on which the two differ: that of Agresti and Min (Statistics
    in Medicine 24, 2005, Sec. 3.1), which adds half a sample to each of the four cells of correct
    and wrong; of scores between 0 and 1 the same formula with their moments.

    Attributes:
        n: Number of samples.
        mean: Mean of the ANN's score less the spiking network's.
        square: Mean of the squares of these differences; of 0 and 1 the share that differs.
    """

    n: int
    mean: float
    square: float

    @classmethod
    def of(cls, ann: Tensor, scores: Tensor) -> PairedDrop:
        """Of the scores of both networks, ``(N,)`` each."""
        lost = ann.double() - scores.double()
        return cls(n=len(lost), mean=float(lost.mean()), square=float(lost.square().mean()))

    @property
    def spread(self) -> float:
        """Standard error of the mean."""
        n = self.n + 2
        centre = self.n * self.mean / n
        return math.sqrt(max((self.n * self.square + 1) / n - centre**2, 0.0) / n)

    def bound(self, confidence: float) -> float:
        """Most that is lost, with a confidence: the end of a one-sided interval."""
        centre = self.n * self.mean / (self.n + 2)
        return min(centre + normal_quantile(confidence) * self.spread, 1.0)

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Both ends of a two-sided interval."""
        centre = self.n * self.mean / (self.n + 2)
        half = normal_quantile((1 + confidence) / 2) * self.spread
        return max(centre - half, -1.0), min(centre + half, 1.0)

    def to_dict(self) -> dict[str, float]:
        """As JSON-able values."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PairedDrop:
        """The inverse of :meth:`to_dict`."""
        return cls(**values)


def normal_quantile(confidence: float) -> float:
    """The value that a standard normal variable stays below with this probability.

    Raises:
        ConfigError: It is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"a confidence must be between 0 and 1, got {confidence!r}")
    return NormalDist().inv_cdf(confidence)


def symmetric_kl(logits: Tensor, reference: Tensor) -> Tensor:
    """``(KL(p‖q) + KL(q‖p)) / 2`` in nats per sample, ``(N,)``, of two ``(N, classes)`` logits.

    Of several positions, ``(N, classes, ...)``, the mean; a single output is the logit of two
    classes.
    """
    log_p, log_q = (log_probabilities(x.double(), 1) for x in (logits, reference))
    return (((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1) / 2).mean(-1)


def correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Top-1 score per sample, ``(N,)`` of 0 and 1; of several positions, the share of them."""
    right = decisions(logits, 1) == targets.reshape(len(targets), -1)
    return right.to(torch.float64).mean(-1)
