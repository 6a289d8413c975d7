"""What a choice is worth at one exit policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from conversion import ConfigError, Costs, EnergyModel, MeanCounts, html_table
from evaluators._estimate import Estimate, PairedDrop, estimate_of

ExitPoint = tuple[int, float, float, float, float]
"""T, exit threshold, and the accuracy, energy ratio and KL that they give."""

DIGEST = "steps:"
"""Marks a hash made of one hash per step, unlike those that 0.1.0 wrote."""

_ESTIMATES = ("accuracy", "energy_pj", "spikes", "timesteps", "kl")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Accuracy, energy and steps of one choice on one split, each with its 95 % interval.

    ``accuracy`` is the task's metric, whose name is ``metric``.

    Attributes:
        split: Name of the split.
        n: Number of samples.
        seed: Seed of the splits.
        energy_model: Name of the energy model.
        accuracy: The task's metric, in 0..1.
        drop: How far it is below the ANN's on the same samples; None in old measurements of 0.1.0.
        energy_pj: Energy per inference.
        energy_ratio: Mean energy ÷ the ANN's, under the same energy model.
        energy_ratio_int8: Mean energy ÷ that of the same ANN in int8 (0.23 pJ per MAC).
        spikes: Spikes per inference.
        timesteps: Steps per inference.
        kl: Divergence from the ANN's outputs at the exit step; symmetric KL in nats for classes.
        kl_by_step: The same if all samples ran to each step, ``(T,)``.
        exit_curve: Rows (T, threshold, accuracy, energy ratio, KL) for constant exit thresholds and
            smaller T, all from the same pass.
        exits: Fraction of samples that exit at each step.
        layer_energy_pj: Mean energy by source of the spikes; ``stem`` is the energy spent once on
            the analog input, ``every step`` the fixed energy of the steps: operations on currents
            and, if the energy model counts them, neuron updates and idle power.
        logits_sha256: Hash of the outputs of all steps, for ``spikefront verify``.
        metric: Name of the task's metric.
        latency_synops: Synaptic operations on the critical path until the exit, if layers form a
            pipeline and each works serially. None in measurements of 0.1.0.
        counts: Event counts that any energy model can price; None in measurements of 0.1.0.
        memory_bytes: Memory of weights, biases and potentials, of 32 bits each or their integer
            width; None in measurements of 0.1.0.
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
    latency_synops: Estimate | None = None
    counts: MeanCounts | None = None
    memory_bytes: int | None = None

    def __repr__(self) -> str:
        lost = "" if self.drop is None else f", {100 * self.drop.mean:+.2f} points lost"
        score = f"{self.metric} {self.accuracy.value:.2%}"
        return (
            f"Measurement({self.split}, n = {self.n}: {score}{lost},"
            f" {self.energy_ratio:.2%} of the ANN's energy, {self.timesteps.value:.2f} steps)"
        )

    def _repr_html_(self) -> str:
        """Values and intervals, for notebooks."""

        def row(name: str, found: Estimate, form: str) -> tuple[str, str, str]:
            low, high = format(found.low, form), format(found.high, form)
            return name, format(found.value, form), f"{low} to {high}"

        rows = [row(self.metric, self.accuracy, ".2%")]
        if self.drop is not None:
            low, high = self.drop.interval()
            interval = f"{low:+.2%} to {high:+.2%}"
            rows.append(("lost against the ANN", f"{self.drop.mean:+.2%}", interval))
        rows += [
            row("energy, pJ", self.energy_pj, ",.0f"),
            ("energy / ANN", f"{self.energy_ratio:.2%}", ""),
            ("energy / int8 ANN", f"{self.energy_ratio_int8:.0%}", ""),
            row("timesteps", self.timesteps, ".3f"),
            row("divergence", self.kl, ".5f"),
        ]
        title = f"{self.split} split, n = {self.n}, energy model {self.energy_model}"
        return html_table(("", "value", "95 % interval"), rows, title)

    def same_outputs(self, other: Measurement) -> bool | None:
        """Whether both have the same outputs, bit for bit; None if one is too old to tell."""
        hashes = (self.logits_sha256, other.logits_sha256)
        if len({value.startswith(DIGEST) for value in hashes}) == 2:
            return None
        return hashes[0] == hashes[1]

    def priced(self, energy: EnergyModel, costs: Costs) -> Measurement:
        """The same run under another energy model.

        Energies are exact. Their intervals are upper bounds, as only means and standard errors of
        each count are stored, not their correlations. The exit curve is empty.

        Args:
            energy: The other energy model.
            costs: Costs of the network.

        Raises:
            ConfigError: It was measured by a version that did not store counts.
        """
        if self.counts is None:
            raise ConfigError(
                "it was measured by a version of spikefront that stored no counts; search again to"
                " use another energy model"
            )
        prices = energy.prices_of(costs, self.counts)
        found = prices.mean_pj(self.counts)
        error = prices.error_pj(self.counts) if self.n > 1 else math.inf
        return replace(
            self,
            energy_model=energy.name,
            energy_pj=estimate_of(found, error),
            energy_ratio=found / energy.ann_pj(costs),
            energy_ratio_int8=found / energy.ann_pj(costs, int8=True),
            layer_energy_pj=prices.by_place(self.counts),
            exit_curve=(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        nouns = ("drop", "latency_synops", "counts")
        optional = {n: found.to_dict() if (found := getattr(self, n)) else None for n in nouns}
        values = {**asdict(self), **optional}
        return values | {name: getattr(self, name).to_dict() for name in _ESTIMATES}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measurement:
        """Rebuild from the output of :meth:`to_dict`."""
        estimates = {name: Estimate.from_dict(values[name]) for name in _ESTIMATES}
        series = {name: tuple(values[name]) for name in ("exits", "kl_by_step")}
        curve = tuple(tuple(row) for row in values["exit_curve"])
        nouns: dict[str, Callable[[Any], Any]] = {
            "drop": PairedDrop.from_dict,
            "latency_synops": Estimate.from_dict,
            "counts": MeanCounts.from_dict,
        }
        optional = {n: read(values[n]) for n, read in nouns.items() if values.get(n)}
        return cls(**{**values, **estimates, **series, **optional, "exit_curve": curve})
