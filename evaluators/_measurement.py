"""What a choice is worth: recorded once, step by step, and read off at any exit policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conversion import (
    Costs,
    EnergyModel,
    ExitRule,
    Score,
    confidence,
    first_above,
    tensors_sha256,
)
from evaluators._estimate import Estimate, PairedDrop, estimate_mean, estimate_score, symmetric_kl

ExitPoint = tuple[int, float, float, float, float]
"""T, exit threshold, and the accuracy, energy ratio and KL that they give."""


_ESTIMATES = ("accuracy", "energy_pj", "spikes", "timesteps", "kl")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Accuracy, energy and time of one choice on one split, each with its 95 % interval.

    Attributes:
        split: Which split.
        n: Number of samples.
        seed: Seed of the splits.
        energy_model: Name of the energy model.
        accuracy: Mean score.
        drop: What it falls below the ANN's on the same samples; None in measurements of 0.1.0
            before it was recorded.
        energy_pj: Energy per inference.
        energy_ratio: Mean energy over the ANN's, same energy model.
        energy_ratio_int8: Mean energy over that of the same ANN in int8 (0.23 pJ per MAC).
        spikes: Spikes per inference.
        timesteps: Steps per inference.
        kl: Symmetric KL divergence from the ANN's outputs at the exit step, nats.
        kl_by_step: The same at every step, if all samples ran that far, ``(T,)``.
        exit_curve: Rows (T, threshold, accuracy, energy ratio, KL) of constant exit thresholds
            and smaller T, all from the same pass.
        exits: Fraction of samples that leave at each step.
        layer_energy_pj: Mean energy by source of the spikes; ``stem`` is the analog input.
        logits_sha256: Hash of the logits of all steps, for ``spikefront verify``.
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


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Every step of a split under one configuration; any exit rule is arithmetic on it.

    Attributes:
        split: Which split.
        seed: Seed of the splits.
        logits: Mean output of the steps so far, ``(T, N, classes)``.
        spikes: ``(sources, T, N)``.
        synops: ``(sources, T, N)``.
        sources: Names of the sources.
        targets: ``(N,)``.
        ann_logits: ``(N, classes)``.
        costs: MACs and fan-outs.
        energy: Prices.
        metric: Score per sample.
    """

    split: str
    seed: int
    logits: Tensor
    spikes: Tensor
    synops: Tensor
    sources: tuple[str, ...]
    targets: Tensor
    ann_logits: Tensor
    costs: Costs
    energy: EnergyModel
    metric: Callable[[Tensor, Tensor], Tensor]

    @property
    def steps(self) -> int:
        """T."""
        return len(self.logits)

    def first(self, steps: int) -> Recording:
        """What a run of fewer steps would have recorded."""
        return replace(
            self,
            logits=self.logits[:steps],
            spikes=self.spikes[:, :steps],
            synops=self.synops[:, :steps],
        )

    def energy_pj(self) -> Tensor:
        """Energy up to and including each step, ``(T, N)``, pJ."""
        return self.energy.run_pj(self.costs, self.synops.sum(0))

    def measure(self, rule: ExitRule | None = None) -> Measurement:
        """The measurement at an exit rule; None runs every step."""
        steps, n = self.logits.shape[:2]
        exits = rule.exits(self.logits) if rule else torch.full((n,), steps - 1)
        exits = exits.to(self.logits.device)
        logits = _at(self.logits, exits)
        energy = estimate_mean(_at(self.energy_pj(), exits))
        scores = self.metric(logits, self.targets)
        return Measurement(
            split=self.split,
            n=n,
            seed=self.seed,
            energy_model=self.energy.name,
            accuracy=estimate_score(scores),
            drop=PairedDrop.of(self.metric(self.ann_logits, self.targets), scores),
            energy_pj=energy,
            energy_ratio=energy.value / self.energy.ann_pj(self.costs),
            energy_ratio_int8=energy.value / (self.costs.ann_macs * ANN_INT8_MAC_PJ),
            spikes=estimate_mean(_at(self.spikes.sum(0).cumsum(0), exits)),
            timesteps=estimate_mean(exits + 1),
            kl=estimate_mean(symmetric_kl(logits, self.ann_logits)),
            kl_by_step=tuple(
                float(symmetric_kl(step, self.ann_logits).mean()) for step in self.logits
            ),
            exit_curve=self._exit_curve(rule.score if rule else "entropy"),
            exits=tuple((torch.bincount(exits, minlength=steps) / n).tolist()),
            layer_energy_pj=self._layer_energy_pj(exits),
            logits_sha256=tensors_sha256([self.logits]),
        )

    def _exit_curve(self, score: Score) -> tuple[ExitPoint, ...]:
        """Accuracy, energy ratio and KL at T = 1, 2, 4, … and all steps, thresholds 0.05 to 1."""
        steps = len(self.logits)
        energies = self.energy_pj() / self.energy.ann_pj(self.costs)
        scores = torch.stack([self.metric(step, self.targets).double() for step in self.logits])
        divergences = torch.stack([symmetric_kl(step, self.ann_logits) for step in self.logits])
        certainty = confidence(self.logits, score, samples=2)
        rows = []
        limits = {2**i for i in range(steps.bit_length())} | {steps}
        for limit in sorted(limit for limit in limits if limit <= steps):
            for alpha in (round(0.05 * i, 2) for i in range(1, 21) if limit > 1 or i == 20):
                exits = first_above(certainty[:limit], torch.full((limit,), alpha))
                means = [float(_at(v, exits).mean()) for v in (scores, energies, divergences)]
                rows.append((limit, alpha, means[0], means[1], means[2]))
        return tuple(rows)

    def _layer_energy_pj(self, exits: Tensor) -> dict[str, float]:
        per_source = self.synops.cumsum(1).transpose(0, 1)
        means = self.energy.spikes_pj(_at(per_source.transpose(1, 2), exits).mean(0))
        steps = float((exits + 1).double().mean())
        analog = self.energy.stem_pj(self.costs) + steps * self.energy.step_pj(self.costs)
        named = dict(zip(self.sources, means.tolist(), strict=True))
        return {"stem": analog, **named}


def _at(per_step: Tensor, exits: Tensor) -> Tensor:
    """``(T, N, ...)`` at each sample's own step, ``(N, ...)``."""
    return per_step[exits, torch.arange(len(exits), device=exits.device)]
