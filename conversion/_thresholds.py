"""Thresholds from per-channel histograms of the ANN's activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from conversion.neurons import AdaFire

ThresholdRule = Literal["mmse", "max", "percentile"]
Granularity = Literal["channel", "layer"]

GRID = tuple(round(1 - 0.01 * i, 2) for i in range(95))
"""Candidate thresholds as fractions of a channel's largest activation (Wang et al.'s grid)."""

_FINE_BINS = 2048
_BINS = 512


class Histogram:
    """Per-channel histogram of the positive activations, gathered in one pass of any length.

    The range doubles whenever a larger activation arrives, merging pairs of bins, so no earlier
    pass over the data is needed. Each bin keeps the count and the sum of its activations: its
    mean stands for them, which makes the squared error below exact wherever a bin does not
    straddle a step of the quantiser.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.largest = torch.zeros(channels, dtype=torch.float64)
        self._top = torch.zeros(2, channels, dtype=torch.float64)
        self.samples_per_channel = 0
        self.samples = 0
        self.sum_over_samples = torch.zeros(())
        self._range = torch.zeros(channels, dtype=torch.float64)
        self._counts = torch.zeros(channels, _FINE_BINS, dtype=torch.float64)
        self._sums = torch.zeros(channels, _FINE_BINS, dtype=torch.float64)

    def add(self, activations: Tensor) -> None:
        """Count a batch of activations, ``(N, C, ...)``, none below zero."""
        activations = activations.detach().float()
        rows = activations.movedim(1, -1).reshape(-1, self.channels).contiguous()
        self.samples_per_channel += len(rows)
        self.samples += len(activations)
        self.sum_over_samples = self.sum_over_samples + activations.sum(0).cpu()
        self.largest = torch.maximum(self.largest, rows.amax(0).double().cpu())
        peaks = activations.flatten(2).amax(2) if activations.dim() > 2 else activations
        self._top = torch.cat([self._top, peaks.double().cpu()]).topk(2, dim=0).values
        self._widen()
        scale = torch.where(self._range > 0, _FINE_BINS / self._range, 0.0)
        index = (rows * scale.to(rows)).to(torch.int64).clamp_(0, _FINE_BINS - 1)
        index += torch.arange(self.channels, device=rows.device) * _FINE_BINS
        # Zeros are counted and subtracted again, which is faster than selecting the others.
        index, size = index.view(-1), self.channels * _FINE_BINS
        self._counts += torch.bincount(index, minlength=size).view_as(self._counts).cpu()
        self._counts[:, 0] -= (rows == 0).sum(0).cpu()
        sums = torch.bincount(index, weights=rows.view(-1).double(), minlength=size)
        self._sums += sums.view_as(self._sums).cpu()

    def headroom(self) -> float:
        """Expected excess of the next sample over the largest, as a fraction of it.

        With an exponential tail the largest of n samples lies above the second largest by what
        the next one that exceeds it lies above the largest (Rényi 1953: the spacings of order
        statistics are independent). The mean over the channels that fired, each in units of its
        largest activation; samples count by their largest value, as neighbours are alike.
        """
        fired = self._top[0] > 0
        if not bool(fired.any()):
            return 0.0
        return float((1 - self._top[1] / self._top[0])[fired].mean())

    def mean(self) -> Tensor:
        """Mean activation per channel, ``(C,)``."""
        return self._sums.sum(1) / max(1, self.samples_per_channel)

    def relative_to_largest(self) -> tuple[Tensor, Tensor]:
        """Counts and sums in bins that are fractions of each channel's largest activation.

        Returns:
            ``(C, bins)`` counts, and ``(C, bins)`` sums in units of the largest activation.
        """
        means = torch.where(self._counts > 0, self._sums / self._counts.clamp_min(1), 0.0)
        scale = self.largest.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        index = (means / scale * _BINS).to(torch.int64).clamp_(0, _BINS - 1)
        counts = torch.zeros(self.channels, _BINS, dtype=torch.float64)
        sums = torch.zeros_like(counts)
        counts.scatter_add_(1, index, self._counts)
        sums.scatter_add_(1, index, self._sums / scale)
        return counts, sums

    def _widen(self) -> None:
        self._range = torch.where(self._range == 0, self.largest, self._range)
        while bool((narrow := self.largest > self._range).any()):
            for bins in (self._counts, self._sums):
                merged = bins[narrow].view(-1, _FINE_BINS // 2, 2).sum(-1)
                bins[narrow] = torch.cat([merged, torch.zeros_like(merged)], dim=1)
            self._range = torch.where(narrow, self._range * 2, self._range)


Staircase = Callable[..., Tensor]
"""What :meth:`conversion.AdaFire.staircase` is."""


def clip_floor(
    activations: Tensor,
    theta: Tensor,
    *,
    phi: int,
    timesteps: int,
    shift: float = 0.0,
    staircase: Staircase = AdaFire.staircase,
) -> Tensor:
    """Mean output of a neuron under constant input: its staircase in units of the activation."""
    spikes = staircase(activations, theta, phi=phi, timesteps=timesteps, shift=shift)
    return spikes * theta / timesteps


def mmse_fractions(
    counts: Tensor,
    sums: Tensor,
    *,
    phi: int,
    timesteps: int,
    shift: float,
    headroom: float = 0.0,
    staircase: Staircase = AdaFire.staircase,
) -> Tensor:
    """Threshold per channel that minimises Σ(a − ClipFloor(a))², as a fraction of its maximum.

    With q(a) the quantised activation, ``Σ(a − q)² = Σa² − 2Σaq + Σq²``; the first term does not
    depend on θ, the others are products of the histogram with one table per (φ, T).

    Args:
        counts: ``(C, bins)`` from :meth:`Histogram.relative_to_largest`.
        sums: ``(C, bins)`` likewise.
        phi: Maximum spikes per step.
        timesteps: T of the formula.
        shift: Rounding shift of the quantiser.
        headroom: How far the next sample that exceeds the largest is expected to exceed it, as a
            fraction of it. One more activation counts along, spread over an exponential tail of
            that mean beyond the largest: what other inputs will do. It decides where rounding
            errors are small, at large T, and where there are few activations.
        staircase: Of the neuron.

    Returns:
        ``(C,)`` fractions out of :data:`GRID` and of some beyond 1; of equal ones the largest.
    """
    options: dict[str, Any] = {
        "phi": phi, "timesteps": timesteps, "shift": shift, "staircase": staircase
    }  # fmt: skip
    wider = 1 + headroom * torch.tensor(_BEYOND, dtype=torch.float64)
    grid = torch.cat([wider, torch.tensor(GRID, dtype=torch.float64)])
    far = clip_floor(_centres(), wider[:, None], **options)
    table = torch.cat([far, _quantised(staircase, phi, timesteps, shift)])
    error = counts @ (table**2).T - 2 * sums @ table.T
    if headroom > 0:
        excess, share = _tail()
        beyond = 1 + headroom * excess
        missed = clip_floor(beyond, grid[:, None], **options) - beyond
        error = error + missed.square() @ share
    return grid[error.argmin(1)]


PERCENTILE = 0.999
"""Of the percentile rule, over all activations, zeros included (Rueckauer et al. 2017, 2.2)."""


def quantile(counts: Tensor, silent: Tensor, part: float) -> Tensor:
    """The upper edge of the bin that holds a quantile, as a fraction of the largest activation.

    Args:
        counts: ``(C, bins)`` of the positive activations.
        silent: Number of activations that were zero, ``(C,)``.
        part: Which quantile, 0 to 1.
    """
    reached = silent[:, None] + counts.cumsum(1)
    below = (reached < part * reached[:, -1:]).sum(1)
    return (below + 1).clamp_max(_BINS).double() / _BINS


def merge_channels(counts: Tensor, sums: Tensor, largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The histogram of a whole layer, ``(1, bins)``, and its largest activation, ``(1,)``."""
    top = largest.max().clamp_min(torch.finfo(largest.dtype).tiny)
    scale = (largest / top)[:, None]
    means = torch.where(counts > 0, sums / counts.clamp_min(1), 0.0) * scale
    index = (means * _BINS).to(torch.int64).clamp_(0, _BINS - 1)
    merged = torch.zeros((2, _BINS), dtype=counts.dtype)
    merged[0].scatter_add_(0, index.flatten(), counts.flatten())
    merged[1].scatter_add_(0, index.flatten(), (sums * scale).flatten())
    return merged[:1], merged[1:], largest.max(keepdim=True, dim=0).values


_BEYOND = (12, 8, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1, 0.75, 0.5, 0.25)
"""Candidates beyond the largest activation, in units of the headroom."""


def _centres() -> Tensor:
    """Centres of the bins, as fractions of the largest activation."""
    return (torch.arange(_BINS, dtype=torch.float64) + 0.5) / _BINS


@lru_cache(maxsize=1)
def _tail() -> tuple[Tensor, Tensor]:
    """Points and shares that stand for an exponential tail of mean 1 (Gauss-Laguerre)."""
    points, shares = np.polynomial.laguerre.laggauss(8)
    return torch.from_numpy(points), torch.from_numpy(shares)


@lru_cache(maxsize=256)
def _quantised(staircase: Staircase, phi: int, timesteps: int, shift: float) -> Tensor:
    """``(grid, bins)``: what each candidate threshold makes of each bin's centre."""
    theta = torch.tensor(GRID, dtype=torch.float64)[:, None]
    return clip_floor(
        _centres(), theta, phi=phi, timesteps=timesteps, shift=shift, staircase=staircase
    )
