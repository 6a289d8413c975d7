"""Event counts of a run by source of the spikes: all that energy models need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conversion._errors import ConfigError
from conversion.energy._costs import Costs

KINDS = ("spikes", "bursts", "synops", "burst_synops")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Events by source; all tensors have the same shape ``(sources, ...)``.

    Attributes:
        sources: Names of spiking layers, max-pools between spikes, and inputs that are events.
        bits: Width of a graded event of each source: its number of spikes, and a sign.
        weight_bits: Width of integer weights; None: floating point.
        spikes: Spikes; negative ones count too.
        bursts: Steps at which a neuron fired at least once: the events of a chip with graded
            spikes.
        synops: Spikes weighted by fan-out.
        burst_synops: Bursts weighted by fan-out.
    """

    sources: tuple[str, ...]
    bits: tuple[int, ...]
    spikes: Tensor
    bursts: Tensor
    synops: Tensor
    burst_synops: Tensor
    weight_bits: int | None = None

    def map(self, change: Any) -> Counts:
        """Apply a function to every tensor."""
        changed: dict[str, Any] = {kind: change(getattr(self, kind)) for kind in KINDS}
        return replace(self, **changed)


def joined_counts(parts: list[Counts]) -> Counts:
    """Concatenate the counts of batches, ``(sources, T, N)``, over the samples."""
    whole: dict[str, Any] = {
        kind: torch.cat([getattr(part, kind) for part in parts], dim=2) for kind in KINDS
    }
    return replace(parts[0], **whole)


def graded_bits(phi: int, *, signed: bool = False) -> int:
    """Width of an event that carries 1 to φ spikes and their sign."""
    return max(1, math.ceil(math.log2(phi + 1))) + signed


_INPUT_BITS = 8
"""Of events that an input counts in a frame."""


def bits_of(costs: Costs, layers: Mapping[str, int]) -> tuple[int, ...]:
    """Width of a graded event of each source; a max-pool passes on what it receives.

    Args:
        costs: Costs of the network.
        layers: Width for each spiking layer, from :func:`graded_bits`.
    """
    found: dict[str, int] = {}
    for name in costs.fan_out:
        before = [found[s] for s in found if name in costs.targets[s]]
        found[name] = layers[name] if name in layers else max(before, default=_INPUT_BITS)
    return tuple(found.values())


@dataclass(frozen=True, kw_only=True)
class MeanCounts:
    """Mean counts per sample up to its exit; all that any energy model needs.

    Attributes:
        sources: As in :class:`Counts`.
        bits: Likewise.
        weight_bits: Likewise.
        mean: Means by kind of count, one number per source.
        error: Standard errors of the means, in the same form.
        steps: Mean number of steps.
        steps_error: Standard error of ``steps``.
    """

    sources: tuple[str, ...]
    bits: tuple[int, ...]
    mean: Mapping[str, tuple[float, ...]]
    error: Mapping[str, tuple[float, ...]]
    steps: float
    steps_error: float
    weight_bits: int | None = None

    @classmethod
    def of(cls, counts: Counts, steps: Tensor) -> MeanCounts:
        """Average counts up to each sample's exit, ``(sources, N)``, and steps, ``(N,)``."""
        n = len(steps)

        def error(values: Tensor) -> Tensor:
            return values.std(-1) / math.sqrt(n) if n > 1 else torch.zeros_like(values.mean(-1))

        kinds = {kind: getattr(counts, kind).double() for kind in KINDS}
        return cls(
            sources=counts.sources,
            bits=counts.bits,
            weight_bits=counts.weight_bits,
            mean={kind: tuple(found.mean(-1).tolist()) for kind, found in kinds.items()},
            error={kind: tuple(error(found).tolist()) for kind, found in kinds.items()},
            steps=float(steps.double().mean()),
            steps_error=float(error(steps.double())),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        return {**vars(self), "mean": dict(self.mean), "error": dict(self.error)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MeanCounts:
        """Rebuild from the output of :meth:`to_dict`.

        Raises:
            ConfigError: A field is missing or unknown.
        """
        try:
            series = {
                name: {kind: tuple(values[name][kind]) for kind in KINDS}
                for name in ("mean", "error")
            }
            lists = {name: tuple(values[name]) for name in ("sources", "bits")}
            return cls(**{**values, **lists, **series})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"malformed counts: {error}") from error
