"""Input-aware adaptive timesteps: when a sample may stop (Wang et al., Sec. 3.4)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import get_args

import torch
from torch import Tensor

from conversion._errors import ConfigError
from conversion.outputs import Score

SCORES: tuple[Score, ...] = get_args(Score)


@dataclass(frozen=True, kw_only=True)
class ExitPolicy:
    """Let a sample exit at the first step whose confidence exceeds ``threshold_t``.

    ``threshold_t = alpha + beta·exp(min_s H̄_s − H̄_t)``, H̄_t the mean normalised entropy at step
    t of the calibration samples that the spiking network classifies as the ANN does, so that
    calibration needs no labels. The source uses α + β = 1; beta = 0 is a constant threshold, and a
    threshold of 1 or more never stops early.

    Attributes:
        score: ``"entropy"``: 1 − H/ln(classes) of the cumulative logits' softmax; ``"top1"``: its
            largest probability; ``"margin"``: its largest less its second largest.
        alpha: Constant part, 0 to 1.
        beta: Part that follows the calibration entropy, 0 to 1.
    """

    score: Score = "entropy"
    alpha: float = 1.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ConfigError(f"score must be one of {', '.join(SCORES)}, got {self.score!r}")
        if not (0 <= self.alpha <= 1 and 0 <= self.beta <= 1):
            raise ConfigError(f"alpha and beta must be within 0..1, got {asdict(self)}")

    def rule(self, mean_entropy: Tensor) -> ExitRule:
        """The policy for a calibrated network with mean entropies ``(T,)``."""
        entropy = mean_entropy.double()
        limits = self.alpha + self.beta * torch.exp(entropy.min() - entropy)
        return ExitRule(score=self.score, thresholds=tuple(limits.tolist()))


@dataclass(frozen=True, kw_only=True)
class ExitRule:
    """Let a sample exit at the first step t whose confidence exceeds ``thresholds[t]``.

    Attributes:
        score: Name of the confidence score.
        thresholds: One per step.
    """

    score: Score
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        for threshold in self.thresholds:
            number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
            if not number or math.isnan(threshold):
                raise ConfigError(f"thresholds of an exit must be numbers, got {threshold!r}")
        if self.score not in SCORES:
            raise ConfigError(f"score must be one of {', '.join(SCORES)}, got {self.score!r}")

    def exits(self, confidence: Tensor) -> Tensor:
        """Index of the step at which each sample stops, ``(N,)``.

        The first step above its threshold, else the last; for confidences ``(T, N)``.
        """
        return first_above(confidence, torch.tensor(self.thresholds[: len(confidence)]))


def first_above(scores: Tensor, thresholds: Tensor) -> Tensor:
    """First step at which scores ``(T, N)`` exceed thresholds ``(T,)``, else T−1; ``(N,)``."""
    leaves = scores > thresholds[:, None].to(scores)
    leaves[-1] = True
    return leaves.to(torch.uint8).argmax(0)


def mean_entropy(entropy: Tensor, agreement: Tensor) -> Tensor:
    """H̄_t: mean normalised entropy of samples on which the spiking network and the ANN agree.

    Args:
        entropy: Normalised entropy of each sample at each step, ``(T, N)``.
        agreement: Share of its decisions that equal the ANN's, ``(T, N)``.

    Returns:
        ``(T,)``; 1 at steps where no sample agrees.
    """
    total = agreement.sum(1)
    mean = (entropy * agreement).sum(1) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, mean, 1.0)
