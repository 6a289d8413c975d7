"""What a choice is worth at one exit policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluators._estimate import Estimate, PairedDrop

ExitPoint = tuple[int, float, float, float, float]
"""T, exit threshold, and the accuracy, energy ratio and KL that they give."""

DIGEST = "steps:"
"""Marks a hash made of one hash per step, unlike those that 0.1.0 wrote."""

_ESTIMATES = ("accuracy", "energy_pj", "spikes", "timesteps", "kl")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Accuracy, energy and time of one choice on one split, each with its 95 % interval.

    What is called accuracy here is the task's metric, whose name stands beside it.

    Attributes:
        split: Which split.
        n: Number of samples.
        seed: Seed of the splits.
        energy_model: Name of the energy model.
        accuracy: The task's metric, in 0..1.
        drop: What it falls below the ANN's on the same samples; None in measurements of 0.1.0
            before it was recorded.
        energy_pj: Energy per inference.
        energy_ratio: Mean energy over the ANN's, same energy model.
        energy_ratio_int8: Mean energy over that of the same ANN in int8 (0.23 pJ per MAC).
        spikes: Spikes per inference.
        timesteps: Steps per inference.
        kl: Divergence from the ANN's outputs at the exit step; of classes the symmetric KL, nats.
        kl_by_step: The same at every step, if all samples ran that far, ``(T,)``.
        exit_curve: Rows (T, threshold, accuracy, energy ratio, KL) of constant exit thresholds
            and smaller T, all from the same pass.
        exits: Fraction of samples that leave at each step.
        layer_energy_pj: Mean energy by source of the spikes; ``stem`` is what works once on the
            analog input, ``on currents`` what stays analog at every step.
        logits_sha256: Hash of the outputs of all steps, for ``spikefront verify``.
        metric: Name of the task's metric.
    """

    split: str
    n: int
    seed: int
    energy_model: str
    accuracy: Estimate
    energy_pj: Estimate
    energy_ratio: float
    energy_ratio_int8: float
    spikes: Estimate
    timesteps: Estimate
    kl: Estimate
    kl_by_step: tuple[float, ...]
    exit_curve: tuple[ExitPoint, ...]
    exits: tuple[float, ...]
    layer_energy_pj: Mapping[str, float]
    logits_sha256: str
    drop: PairedDrop | None = None
    metric: str = "accuracy"

    def same_outputs(self, other: Measurement) -> bool | None:
        """Whether both saw the same outputs, bit for bit; None if one is too old to tell."""
        hashes = (self.logits_sha256, other.logits_sha256)
        if len({value.startswith(DIGEST) for value in hashes}) == 2:
            return None
        return hashes[0] == hashes[1]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        values = {**asdict(self), "drop": self.drop.to_dict() if self.drop else None}
        return values | {name: getattr(self, name).to_dict() for name in _ESTIMATES}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """The inverse of :meth:`to_dict`."""
        estimates = {name: Estimate.from_dict(values[name]) for name in _ESTIMATES}
        series = {name: tuple(values[name]) for name in ("exits", "kl_by_step")}
        curve = tuple(tuple(row) for row in values["exit_curve"])
        drop = PairedDrop.from_dict(values["drop"]) if values.get("drop") else None
        return cls(**{**values, **estimates, **series, "exit_curve": curve, "drop": drop})


ANN_INT8_MAC_PJ = 0.23
"""Horowitz 2014, 45 nm: the harder reference that stands beside every energy ratio."""
