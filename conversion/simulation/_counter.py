"""Counting spikes and what they cause, as a pass goes by."""

from __future__ import annotations

import torch
from torch import Tensor

from conversion.energy import Burst, Costs


class SpikeCounter:
    """Sums spikes and accumulates per source, step and sample as the pass goes by."""

    def __init__(self, costs: Costs, burst: Burst, *, signed: bool) -> None:
        self._signed = signed
        self._fan_out = costs.fan_out
        self._burst = burst
        self._spikes: dict[str, Tensor] = {}
        self._synops: dict[str, Tensor] = {}

    def count(self, node: str, counts: Tensor, steps: int) -> None:
        if node not in self._fan_out:
            return
        fan_out = self._fan_out[node].to(counts.device, torch.float32)
        counts = counts.float()  # half precision could not hold the sums
        if self._signed:
            counts = counts.abs()  # a negative spike is an event too
        events = counts if self._burst == "count" else (counts > 0.5).to(counts)
        order = (0, *range(2, counts.dim()), 1) if counts.dim() == 4 else tuple(range(counts.dim()))
        weights = fan_out.permute([axis - 1 for axis in order[1:]]).reshape(-1)
        rows = events.permute(order).reshape(len(counts), -1)
        # Two matrix-vector products: measured 4 to 6 times faster than one (C·H·W, 2) product.
        self._spikes[node] = rows.sum(1).view(steps, -1)
        self._synops[node] = torch.mv(rows, weights).view(steps, -1)

    def take_over(self, other: SpikeCounter) -> None:
        """Start with what another one has counted so far."""
        self._spikes, self._synops = dict(other._spikes), dict(other._synops)

    def stacked(self, nodes: list[str], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if not nodes:
            return torch.zeros(0, *shape), torch.zeros(0, *shape)
        spikes = torch.stack([self._spikes[node] for node in nodes])
        synops = torch.stack([self._synops[node] for node in nodes])
        return spikes.double(), synops.double()
