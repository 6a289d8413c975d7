"""Prices of a network's operations under one energy model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conversion.energy._costs import Costs
from conversion.energy._counts import KINDS, Counts, MeanCounts


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Coefficients of energy, which is linear in the counts, for one network; pJ.

    Attributes:
        spikes: Price of a spike by source, ``(sources,)``.
        bursts: Price of a neuron firing at a step, however often, ``(sources,)``.
        synops: Price of a spike at a synapse, ``(sources,)``.
        burst_synops: Price of a burst at a synapse, ``(sources,)``.
        step: Fixed price of a step.
        once: Fixed price of an inference.
        parts: Breakdown by component (potentials, weights, …), which sums to the whole. Empty if
            the model has none.
    """

    spikes: np.ndarray
    bursts: np.ndarray
    synops: np.ndarray
    burst_synops: np.ndarray
    step: float
    once: float
    parts: dict[str, Prices] = field(default_factory=dict)

    @classmethod
    def of(cls, sources: int, *, step: float = 0.0, once: float = 0.0, **prices: Any) -> Prices:
        """Make prices from numbers or arrays; kinds of counts that are not given cost nothing."""
        rows = {kind: np.zeros(sources) + prices.get(kind, 0.0) for kind in KINDS}
        return cls(**rows, step=step, once=once)

    @classmethod
    def summed(cls, parts: dict[str, Prices]) -> Prices:
        """The sum of the parts, with the breakdown kept."""
        found = list(parts.values())
        rows = {kind: np.sum([getattr(p, kind) for p in found], axis=0) for kind in KINDS}
        return cls(
            **rows, step=sum(p.step for p in found), once=sum(p.once for p in found), parts=parts
        )

    def by_source(self, counts: Counts) -> Tensor:
        """Energy caused by spikes, by source, in the shape of the counts, pJ."""
        shape = (-1, *[1] * (counts.spikes.dim() - 1))
        found = torch.zeros_like(counts.spikes)
        for kind in KINDS:
            price = torch.as_tensor(getattr(self, kind)).to(found)
            found = found + price.view(shape) * getattr(counts, kind)
        return found

    def run_pj(self, counts: Counts) -> Tensor:
        """Energy up to and including each step, from counts ``(sources, T, ...)``, pJ."""
        total = torch.zeros_like(counts.spikes.sum(0))
        for kind in KINDS:
            price, found = getattr(self, kind), getattr(counts, kind)
            if not price.any():
                continue
            if (price == price[0]).all():  # the sums of whole numbers are exact
                total = total + found.sum(0) * float(price[0])
            else:
                total = total + torch.tensordot(torch.as_tensor(price).to(found), found, dims=1)
        return (total + self.step).cumsum(0) + self.once

    def mean_pj(self, counts: MeanCounts) -> float:
        """Mean energy of an inference, from mean counts, pJ."""
        return self.once + self._linear(counts.mean, counts.steps)

    def error_pj(self, counts: MeanCounts) -> float:
        """Upper bound of the standard error of :meth:`mean_pj`, as if counts rose together, pJ."""
        return self._linear(counts.error, counts.steps_error)

    def _linear(self, values: Any, steps: float) -> float:
        spikes = sum(float(np.dot(getattr(self, kind), values[kind])) for kind in KINDS)
        return spikes + steps * self.step

    def by_place(self, counts: MeanCounts) -> dict[str, float]:
        """Energy of an inference by source of the spikes, and its fixed part, pJ."""
        rows = sum(getattr(self, kind) * np.array(counts.mean[kind]) for kind in KINDS)
        named = dict(zip(counts.sources, np.asarray(rows, float).tolist(), strict=True))
        steps = {"every step": counts.steps * self.step} if self.step else {}
        return {"stem": self.once, **steps, **named}

    def per_spike(self, costs: Costs) -> np.ndarray:
        """Energy of one spike of each source and its synaptic operations, pJ, ``(sources,)``."""
        fan_outs = np.array([float(f.mean()) for f in costs.fan_out.values()])
        at_synapses = (self.synops + self.burst_synops) * fan_outs
        found: np.ndarray = self.spikes + self.bursts + at_synapses
        return found

    def break_even_rate(self, costs: Costs, steps: float, reference_pj: float) -> float:
        """Spikes per neuron and step at which a run of ``steps`` costs as much as a reference.

        Assumes that all sources fire at the same rate, one spike at a time. Negative if the fixed
        costs alone exceed the reference.
        """
        neurons = np.array([f.numel() for f in costs.fan_out.values()])
        at_once = float(self.per_spike(costs) @ neurons)
        free = reference_pj - self.once - steps * self.step
        return free / (steps * at_once) if at_once > 0 else float("inf")
