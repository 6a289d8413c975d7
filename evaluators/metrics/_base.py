"""The contract of a metric, with intervals by bootstrap over the samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from conversion import Classes, ConfigError, Outputs, Values
from evaluators._estimate import Estimate, PairedDrop, normal_quantile

_RESAMPLES = 400

_LEAST_ERROR = 1e-4
"""Of a drop: two networks that never differ on the samples may differ on others."""

_WIDE = normal_quantile(0.975)


class Metric(ABC):
    """A number in 0..1, higher is better, computed from per-sample statistics.

    A recording stores the statistics of every step rather than outputs, so keep them small: a
    score, or counts by class. Unless the metric is a mean over samples, its interval comes from a
    bootstrap over them (Efron & Tibshirani 1993, ch. 6), and that of the drop against the ANN from
    the same resamples for both.

    Attributes:
        name: Its name in reports, such as ``accuracy``.
    """

    name: str = "score"

    @abstractmethod
    def statistics(self, answer: Any, targets: Tensor) -> Tensor:
        """Statistics of each sample, ``(N, ...)``.

        Args:
            answer: The answer of the task's outputs, ``(N, ...)``.
            targets: ``(N, ...)``.
        """

    @abstractmethod
    def values(self, statistics: Tensor, weights: Tensor) -> Tensor:
        """The metric of weighted samples.

        Args:
            statistics: ``(N, ...)``.
            weights: ``(B, N)``.

        Returns:
            ``(B,)``.
        """

    def value(self, statistics: Tensor) -> float:
        """The metric of samples ``(N, ...)``, each with weight 1."""
        return float(self.values(statistics, _once(statistics))[0])

    def estimate(self, statistics: Tensor) -> Estimate:
        """The metric with its 95 % interval, ``value ± 1.96`` standard errors of a bootstrap."""
        value, half = self.value(statistics), _WIDE * self._error(statistics)
        if math.isinf(half):
            return Estimate(value=value, low=-math.inf, high=math.inf)
        return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half))

    def drop(self, ann: Tensor, statistics: Tensor) -> PairedDrop:
        """The loss against the ANN on the same samples, from the statistics of both."""
        both = [self.values(x, _resamples(len(x)).to(x.device)) for x in (ann, statistics)]
        lost = self.value(ann) - self.value(statistics)
        n = len(statistics)
        error = float((both[0] - both[1]).std()) if n > 1 else math.inf
        return PairedDrop(n=n, mean=lost, square=lost**2, error=max(error, _LEAST_ERROR))

    def per_class(self, statistics: Tensor, targets: Tensor) -> Tensor:
        """The metric of each class, ``(classes,)``, NaN without samples; empty without classes."""
        return statistics.new_zeros(0, dtype=torch.float64)

    def chance(self, targets: Tensor) -> float:
        """The score of the best constant prediction."""
        return 0.0

    def check(self, targets: Tensor, answer: Any, place: Callable[[int], str]) -> None:  # noqa: B027
        """Reject targets that do not match the answers.

        Args:
            targets: ``(N, ...)``.
            answer: Answer of the ANN for all samples or the first few.
            place: Describes a sample, given its number.

        Raises:
            TaskError: The message says which sample is wrong and what is expected.
        """

    def _error(self, statistics: Tensor) -> float:
        n = len(statistics)
        if n < 2:
            return math.inf
        return float(self.values(statistics, _resamples(n).to(statistics.device)).std())


def _once(statistics: Tensor) -> Tensor:
    return torch.ones(1, len(statistics), dtype=torch.float64, device=statistics.device)


@lru_cache(maxsize=8)
def _resamples(n: int) -> Tensor:
    """How often each of n samples is drawn in each resample, ``(B, n)``; always the same."""
    generator = torch.Generator().manual_seed(n)
    drawn = torch.randint(n, (_RESAMPLES, n), generator=generator)
    counts = torch.zeros(_RESAMPLES, n, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts))


def metric_of(given: Any, outputs: Outputs) -> Metric:
    """A metric from what a user gives.

    Args:
        given: A metric; a function ``(answer (N, ...), targets (N, ...)) -> scores (N,)`` in 0..1;
            or None for the usual one: top-1 accuracy of classes, R² of values.
        outputs: Of the task.

    Raises:
        ConfigError: It is none of these, or outputs of this kind have no usual metric.
    """
    from evaluators.metrics._r2 import R2
    from evaluators.metrics._scores import Scores, TopK

    if isinstance(given, Metric):
        return given
    if callable(given) and not isinstance(given, type):
        return Scores(given)
    usual: dict[type[Outputs], Callable[[], Metric]] = {Classes: TopK, Values: R2}
    for kind, make in usual.items():
        if given is None and isinstance(outputs, kind):
            return make()
    raise ConfigError(
        f"the metric must be a Metric or a function (outputs, targets) -> scores, got {given!r}"
        + (f": {outputs.kind} outputs have no usual one" if given is None else "")
    )
