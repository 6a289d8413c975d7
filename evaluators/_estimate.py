"""A measured mean with its 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over n samples and its 95 % interval."""

    value: float
    low: float
    high: float


def estimate_mean(samples: Tensor) -> Estimate:
    """Mean of ``(N,)`` values with the normal interval ``mean ± 1.96·s/√n``."""
    values = samples.double()
    mean = float(values.mean())
    spread = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return Estimate(value=mean, low=mean - _Z * spread, high=mean + _Z * spread)


def estimate_score(scores: Tensor) -> Estimate:
    """Mean of per-sample scores ``(N,)`` in 0..1: Wilson's interval if all are 0 or 1.

    Wilson 1927, eq. as in Brown, Cai & DasGupta 2001, Sec. 3.1.1; other scores get the normal
    interval.
    """
    if not bool(((scores == 0) | (scores == 1)).all()):
        return estimate_mean(scores)
    n = len(scores)
    p = float(scores.double().mean())
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Estimate(value=p, low=max(0.0, centre - half), high=min(1.0, centre + half))


def symmetric_kl(logits: Tensor, reference: Tensor) -> Tensor:
    """``(KL(p‖q) + KL(q‖p)) / 2`` in nats per sample, ``(N,)``, of two ``(N, classes)`` logits."""
    log_p, log_q = logits.double().log_softmax(-1), reference.double().log_softmax(-1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1) / 2


def correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Top-1 score per sample, ``(N,)`` of 0 and 1."""
    return (logits.argmax(-1) == targets).to(torch.float64)
