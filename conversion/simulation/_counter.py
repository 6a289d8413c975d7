"""Counting spikes and what they cause, as a pass goes by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conversion.energy import Costs, Counts
from conversion.energy._counts import KINDS


class SpikeCounter:
    """Sums spikes and accumulates per source, step and sample as the pass goes by.

    Args:
        costs: Costs of the network.
        bits: Of a graded event of each source; of one bit, every spike is a burst.
        signed: Whether spikes may be negative.
    """

    def __init__(self, costs: Costs, bits: tuple[int, ...], *, signed: bool) -> None:
        self._signed = signed
        self._fan_out = costs.fan_out
        self._bits = dict(zip(costs.fan_out, bits, strict=True))
        self._sums: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def count(self, node: str, counts: Tensor, steps: int) -> None:
        """Add what a source fired, ``(steps·N, C, ...)``."""
        if node not in self._fan_out:
            return
        fan_out = self._fan_out[node].to(counts.device, torch.float32)
        counts = counts.float()  # half precision could not hold the sums
        if self._signed:
            counts = counts.abs()  # a negative spike is an event too
        order = (0, *range(2, counts.dim()), 1) if counts.dim() == 4 else tuple(range(counts.dim()))
        weights = fan_out.permute([axis - 1 for axis in order[1:]]).reshape(-1)
        rows = counts.permute(order).reshape(len(counts), -1)
        single = self._bits[node] == 1
        spikes, synops = _summed(rows, weights, steps)
        bursts = (spikes, synops) if single else _summed(rows.clamp_max(1), weights, steps)
        self._sums[node] = (spikes, bursts[0], synops, bursts[1])

    def take_over(self, other: SpikeCounter) -> None:
        """Start with what another one has counted so far."""
        self._sums = dict(other._sums)

    def counts(self, shape: tuple[int, int]) -> Counts:
        """What was counted, each ``(sources, T, N)`` of a shape ``(T, N)``."""
        names = tuple(self._fan_out)
        sums = [self._sums[name] for name in names]
        stacked: dict[str, Any] = {
            kind: torch.stack([found[i] for found in sums]).double()
            if sums
            else torch.zeros(0, *shape, dtype=torch.float64)
            for i, kind in enumerate(KINDS)
        }
        return Counts(sources=names, bits=tuple(self._bits.values()), **stacked)


def _summed(rows: Tensor, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    # Two matrix-vector products: measured 4 to 6 times faster than one (C·H·W, 2) product.
    return rows.sum(1).view(steps, -1), torch.mv(rows, weights).view(steps, -1)
