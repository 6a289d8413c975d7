"""Input-aware adaptive timesteps: when a sample may stop (Wang et al., Sec. 3.4)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from conversion._errors import ConfigError

Score = Literal["entropy", "top1", "margin"]
SCORES: tuple[Score, ...] = get_args(Score)


@dataclass(frozen=True, kw_only=True)
class ExitPolicy:
    """Stop a sample at the first step whose confidence exceeds ``threshold_t``.

    ``threshold_t = alpha + beta·exp(min_s H̄_s − H̄_t)``, H̄_t the mean normalised entropy at step t
    of the calibration samples that the spiking network classifies correctly. Correct here means:
    as the ANN does, so that calibration needs no labels. The source uses α + β = 1; beta = 0 is
    a constant threshold, and a threshold of 1 or more never stops early.

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
    """Stop a sample at the first step t whose confidence exceeds ``thresholds[t]``.

    Attributes:
        score: Which confidence.
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

    def exits(self, logits: Tensor) -> Tensor:
        """Index of the step at which each sample stops, ``(N,)``.

        The first step above its threshold, else the last; for logits ``(T, N, classes, ...)``.
        """
        return first_above(
            confidence(logits, self.score, samples=2), torch.tensor(self.thresholds[: len(logits)])
        )


def first_above(scores: Tensor, thresholds: Tensor) -> Tensor:
    """First step at which scores ``(T, N)`` exceed thresholds ``(T,)``, else T−1; ``(N,)``."""
    leaves = scores > thresholds[:, None].to(scores)
    leaves[-1] = True
    return leaves.to(torch.uint8).argmax(0)


def mean_entropy(logits: Tensor, ann_logits: Tensor) -> Tensor:
    """H̄_t: mean normalised entropy of the samples on which the spiking network agrees with the ANN.

    Args:
        logits: Cumulative logits ``(T, N, classes)``.
        ann_logits: ``(N, classes)``.

    Returns:
        ``(T,)``; 1 at a step at which nothing agrees.
    """
    same = decisions(logits, 2) == decisions(ann_logits, 1)
    agrees = same.to(logits).mean(-1)
    total = agrees.sum(1)
    mean = (normalised_entropy(logits, samples=2) * agrees).sum(1) / total.clamp_min(1)
    return torch.where(total > 0, mean, 1.0)


def log_probabilities(logits: Tensor, samples: int) -> Tensor:
    """Log-probabilities with the classes last, ``(..., positions, classes)``.

    Classes are in the dimension behind the samples, as everywhere in PyTorch; what follows are
    positions such as pixels. A single output is the logit of the second of two classes.

    Args:
        logits: ``(N, classes, ...)``, or with more dimensions before.
        samples: Dimensions up to and including that of the samples.
    """
    logits = logits.unsqueeze(-1) if logits.dim() == samples else logits.movedim(samples, -1)
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=-1)
    log_p = logits.log_softmax(-1)
    return log_p.reshape(*log_p.shape[:samples], -1, log_p.shape[-1])


def decisions(logits: Tensor, samples: int) -> Tensor:
    """The most probable class at each position, ``(..., N, positions)``."""
    return log_probabilities(logits, samples).argmax(-1)


def confidence(logits: Tensor, score: Score, *, samples: int | None = None) -> Tensor:
    """Confidence in 0..1 of each sample, the mean over its positions where it has several.

    Args:
        logits: ``(..., N, classes)``, or ``(..., N, classes, ...)`` with positions behind.
        score: Which.
        samples: Dimensions up to and including that of the samples; None: all but the last.
    """
    log_p = log_probabilities(logits, _leading(logits, samples))
    if score == "entropy":
        return 1.0 - _entropy(log_p).mean(-1)
    top = log_p.exp().topk(2, dim=-1).values
    found = top[..., 0] if score == "top1" else top[..., 0] - top[..., 1]
    return found.mean(-1)


def normalised_entropy(logits: Tensor, *, samples: int | None = None) -> Tensor:
    """Entropy of the softmax over ln(classes), in 0..1; arguments as of :func:`confidence`."""
    return _entropy(log_probabilities(logits, _leading(logits, samples))).mean(-1)


def _leading(logits: Tensor, samples: int | None) -> int:
    return logits.dim() - 1 if samples is None else samples


def _entropy(log_p: Tensor) -> Tensor:
    classes = torch.tensor(float(log_p.shape[-1]))
    finite = log_p.clamp_min(torch.finfo(log_p.dtype).min)  # 0·ln 0 is 0
    return -(log_p.exp() * finite).sum(-1) / torch.log(classes)
