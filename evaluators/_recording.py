"""Every step of a split, recorded once and read off at any exit policy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from conversion import (
    Answers,
    ConversionError,
    Costs,
    Counts,
    EnergyModel,
    ExitRule,
    MeanCounts,
    Outputs,
    Prices,
    Score,
    Simulation,
    first_above,
    joined_counts,
    sha256,
)
from conversion.integers import STATE_BITS
from evaluators._estimate import estimate_mean
from evaluators._measurement import DIGEST, ExitPoint, Measurement
from evaluators.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What is kept of one batch; the fields are those of :class:`Recording`."""

    statistics: Tensor
    confidences: Mapping[Score, Tensor]
    divergences: Tensor
    counts: Counts
    digests: tuple[bytes, ...]


def recorded(
    found: Simulation, expected: Answers, targets: Tensor, *, outputs: Outputs, metric: Metric
) -> Recorded:
    """What a recording keeps of a batch.

    Args:
        found: Of the batch.
        expected: What the ANN answers.
        targets: ``(N, ...)``.
        outputs: How outputs are read.
        metric: What is asked of them.

    Raises:
        ConversionError: The outputs contain NaN or infinity.
    """
    steps = [found.at(step) for step in range(len(found.logits))]
    if not all(bool(torch.isfinite(x).all()) for step in steps for x in outputs.read(step)):
        raise ConversionError("the spiking network's outputs contain NaN or infinity")
    return Recorded(
        statistics=torch.stack([metric.statistics(outputs.answer(s), targets) for s in steps]),
        confidences={
            score: torch.stack([outputs.confidence(step, score) for step in steps])
            for score in outputs.scores
        },
        divergences=torch.stack([outputs.divergence(step, expected) for step in steps]),
        counts=found.counts,
        digests=tuple(_digests(outputs.read(step)) for step in steps),
    )


def _digests(answers: Sequence[Tensor]) -> bytes:
    """SHA-256 of each sample, one after the other: they do not depend on the batches."""
    flat = torch.cat([answer.detach().cpu().reshape(len(answer), -1) for answer in answers], 1)
    rows = flat.contiguous().view(torch.uint8).numpy()
    return b"".join(hashlib.sha256(row.tobytes()).digest() for row in rows)


def joined(
    parts: Sequence[Recorded],
    *,
    split: str,
    seed: int,
    ann_statistics: Tensor,
    costs: Costs,
    energy: EnergyModel,
    metric: Metric,
) -> Recording:
    """The recording of a split from what was kept of its batches."""

    def over(name: str, dim: int) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts], dim=dim)

    scores = parts[0].confidences
    return Recording(
        split=split,
        seed=seed,
        statistics=over("statistics", 1),
        confidences={s: torch.cat([part.confidences[s] for part in parts], 1) for s in scores},
        divergences=over("divergences", 1),
        ann_statistics=ann_statistics,
        counts=joined_counts([part.counts for part in parts]),
        digests=tuple(sha256(b"".join(d)) for d in zip(*(p.digests for p in parts), strict=True)),
        costs=costs,
        energy=energy,
        metric=metric,
    )


@dataclass(frozen=True, kw_only=True)
class Recording:
    """All steps of a split under one config; any exit rule can be applied to it afterwards.

    It stores what metric, exit rule and search need instead of outputs, so its size does not depend
    on the number of classes or pixels.

    Attributes:
        split: Name of the split.
        seed: Seed of the splits.
        statistics: Statistics for the metric if samples stop after each step, ``(T, N, ...)``.
        confidences: Confidences by score, ``(T, N)``; empty if the outputs have none.
        divergences: Divergences from the ANN, ``(T, N)``.
        ann_statistics: Statistics of the ANN, ``(N, ...)``.
        counts: ``(sources, T, N)``.
        digests: SHA-256 of all samples' outputs after each step.
        costs: MACs and fan-outs.
        energy: Energy model.
        metric: The metric.
    """

    split: str
    seed: int
    statistics: Tensor
    confidences: Mapping[Score, Tensor]
    divergences: Tensor
    ann_statistics: Tensor
    counts: Counts
    digests: tuple[str, ...]
    costs: Costs
    energy: EnergyModel
    metric: Metric

    @property
    def steps(self) -> int:
        """T."""
        return len(self.divergences)

    def first(self, steps: int) -> Recording:
        """The recording of a run with fewer steps."""
        return replace(
            self,
            statistics=self.statistics[:steps],
            confidences={score: found[:steps] for score, found in self.confidences.items()},
            divergences=self.divergences[:steps],
            counts=self.counts.map(lambda found: found[:, :steps]),
            digests=self.digests[:steps],
        )

    @cached_property
    def prices(self) -> Prices:
        """What the operations of this network cost."""
        return self.energy.prices_of(self.costs, self.counts)

    def energy_pj(self) -> Tensor:
        """Energy up to and including each step, ``(T, N)``, pJ."""
        return self.prices.run_pj(self.counts)

    def exits(self, rule: ExitRule | None) -> Tensor:
        """Index of the step at which each sample stops, ``(N,)``."""
        if rule is None or rule.score not in self.confidences:
            _, n = self.divergences.shape
            return torch.full((n,), self.steps - 1, device=self.divergences.device)
        return rule.exits(self.confidences[rule.score])

    def measure(self, rule: ExitRule | None = None) -> Measurement:
        """The measurement under an exit rule; None runs all steps."""
        steps, n = self.divergences.shape
        exits = self.exits(rule)
        energy = estimate_mean(_at(self.energy_pj(), exits))
        counts = self._counts(exits)
        statistics = _at(self.statistics, exits)
        return Measurement(
            split=self.split,
            n=n,
            seed=self.seed,
            energy_model=self.energy.name,
            metric=self.metric.name,
            accuracy=self.metric.estimate(statistics),
            drop=self.metric.drop(self.ann_statistics, statistics),
            energy_pj=energy,
            energy_ratio=energy.value / self.energy.ann_pj(self.costs),
            energy_ratio_int8=energy.value / self.energy.ann_pj(self.costs, int8=True),
            spikes=estimate_mean(_at(self.counts.spikes.sum(0).cumsum(0), exits)),
            latency_synops=estimate_mean(_at(pipelined(self.counts.synops), exits)),
            counts=counts,
            memory_bytes=self._memory_bytes(),
            timesteps=estimate_mean(exits + 1),
            kl=estimate_mean(_at(self.divergences, exits)),
            kl_by_step=tuple(self.divergences.mean(1).tolist()),
            exit_curve=self._exit_curve(rule.score if rule else "entropy"),
            exits=tuple((torch.bincount(exits, minlength=steps) / n).tolist()),
            layer_energy_pj=self.prices.by_place(counts),
            logits_sha256=DIGEST + sha256("".join(self.digests).encode()),
        )

    def _counts(self, exits: Tensor) -> MeanCounts:
        def up_to_exit(found: Tensor) -> Tensor:
            return _at(found.cumsum(1).permute(1, 2, 0), exits).T

        return MeanCounts.of(self.counts.map(up_to_exit), exits + 1)

    def _memory_bytes(self) -> int:
        weight = self.counts.weight_bits
        state = 32 if weight is None else STATE_BITS
        costs = self.costs
        bits = costs.weights * (weight or 32) + (costs.biases + costs.potentials) * state
        return -(-bits // 8)

    def _exit_curve(self, score: Score) -> tuple[ExitPoint, ...]:
        """Accuracy, energy ratio and KL at T = 1, 2, 4, … and all steps, thresholds 0.05 to 1."""
        steps = self.steps
        energies = self.energy_pj() / self.energy.ann_pj(self.costs)
        certainty = self.confidences.get(score)
        rows = []
        limits = {2**i for i in range(steps.bit_length())} | {steps}
        for limit in sorted(limit for limit in limits if limit <= steps):
            may_exit = limit > 1 and certainty is not None
            for alpha in (round(0.05 * i, 2) for i in range(1, 21) if may_exit or i == 20):
                if certainty is None:
                    exits = torch.full_like(energies[0], limit - 1, dtype=torch.long)
                else:
                    exits = first_above(certainty[:limit], torch.full((limit,), alpha))
                score_ = self.metric.value(_at(self.statistics, exits))
                means = [float(_at(v, exits).mean()) for v in (energies, self.divergences)]
                rows.append((limit, alpha, score_, means[0], means[1]))
        return tuple(rows)


def _at(per_step: Tensor, exits: Tensor) -> Tensor:
    """``(T, N, ...)`` at each sample's own step, ``(N, ...)``."""
    return per_step[exits, torch.arange(len(exits), device=exits.device)]


def pipelined(synops: Tensor) -> Tensor:
    """Operations one after the other until the answer after each step, ``(T, N)``.

    Each source has an engine of its own for the synaptic operations of its spikes, and does one at
    a time; it begins a step when it is done with the last one, and the source before it with this
    one. With one step that is the sum over all; with many steps the busiest one tells.

    Args:
        synops: Of each source, in order of execution, ``(sources, T, N)``.
    """
    ready = torch.zeros_like(synops[0] if len(synops) else synops.sum(0))
    for own in synops:
        done, rows = torch.zeros_like(ready[0]), []
        for before, work in zip(ready, own, strict=True):
            done = torch.maximum(done, before) + work
            rows.append(done)
        ready = torch.stack(rows)
    return ready
