"""A front under other energy models, and beside its fair rival, the quantised ANN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from conversion import ENERGY_MODELS, Costs, EnergyModel
from evaluators import AnnReference
from reports._front import FrontPoint, ParetoFront, front_of

SIDE_BY_SIDE = (
    "horowitz45",
    "horowitz45-graded",
    "lemaire",
    "lemaire-graded",
    "loihi",
    "spinnaker2",
)
"""Models that a report draws: operations and memory, single spikes and graded ones, two chips."""


def repriced(front: ParetoFront, energy: EnergyModel, costs: Costs) -> ParetoFront:
    """The front of the same trials under another energy model, without running anything again.

    The study's limits on energy refer to its own model, so the trials within them stay the same.

    Args:
        front: The study's own front.
        energy: The other energy model.
        costs: Costs of the network.

    Raises:
        ConfigError: A trial was measured by a version that stored no counts.
    """
    if energy == front.energy_model:
        return front
    trials = {p.trial: _priced(p, energy, costs) for p in front.trials}
    within = tuple(trials[p.trial] for p in front.within)
    candidates = [p for p in within if p.search.accuracy.low > front.ann["search"].chance]
    return replace(
        front,
        points=tuple(front_of(candidates or within, front.objectives)),
        trials=tuple(trials.values()),
        within=within,
        ann={split: ann_under(ann, energy, costs) for split, ann in front.ann.items()},
        energy_model=energy,
    )


def _priced(point: FrontPoint, energy: EnergyModel, costs: Costs) -> FrontPoint:
    test = point.test.priced(energy, costs) if point.test else None
    return replace(point, search=point.search.priced(energy, costs), test=test)


def ann_under(ann: AnnReference, energy: EnergyModel, costs: Costs) -> AnnReference:
    """The ANN under another energy model."""
    int8 = energy.ann_pj(costs, int8=True)
    return replace(ann, energy_pj=energy.ann_pj(costs), energy_int8_pj=int8)


def models_beside(front: ParetoFront) -> list[EnergyModel]:
    """The models to draw, starting with the study's own."""
    others = [ENERGY_MODELS[name] for name in SIDE_BY_SIDE if name in ENERGY_MODELS]
    own = front.energy_model
    return [own, *(model for model in others if model.name != own.name)]


@dataclass(frozen=True, kw_only=True)
class UnderModel:
    """A front under one energy model.

    Attributes:
        front: Repriced.
        costs: Costs of the network.
        studied: The trials on the study's own front.
    """

    front: ParetoFront
    costs: Costs
    studied: frozenset[int]

    @property
    def energy(self) -> EnergyModel:
        """The model."""
        return self.front.energy_model

    @property
    def fallen(self) -> list[FrontPoint]:
        """Points of the study's front that are dominated under this model."""
        still = {p.trial for p in self.front.points}
        return [p for p in self.front.trials if p.trial in self.studied and p.trial not in still]

    @property
    def kept(self) -> int:
        """Number of points of its front that are also on the study's own."""
        return sum(p.trial in self.studied for p in self.front.points)

    @property
    def cheaper_points(self) -> str:
        """How many points of either front cost less than their rivals, such as ``3 of 7``.

        Only points whose rival was measured count; empty without any.
        """
        known = [p for p in self.front.trials if p.trial in self.front.rivals]
        cheaper = sum(bool(self.beats_its_rival(p)) for p in known)
        return f"{cheaper} of {len(known)}" if known else ""

    def cheapest_within(self, drop: float) -> FrontPoint | None:
        """The cheapest point of the front within a loss, as a fraction."""
        ann = self.front.ann["search"].accuracy.value
        near = [p for p in self.front.points if p.search.accuracy.value >= ann - drop - 1e-12]
        return near[0] if near else None

    def rival_ratio(self, point: FrontPoint, *, int8: bool | None = None) -> float | None:
        """Energy of the quantised ANN of as many levels ÷ the ANN's; None if not measured.

        Args:
            point: The point whose rival it is.
            int8: Whether its weights are int8; None: if the point's are integers.
        """
        pj = self._rival_pj(point, int8)
        return None if pj is None else pj / self.energy.ann_pj(self.costs)

    def _rival_pj(self, point: FrontPoint, int8: bool | None = None) -> float | None:
        rival, counts = self.front.rivals.get(point.trial), point.search.counts
        if rival is None:
            return None
        if int8 is None:
            int8 = counts is not None and counts.weight_bits is not None
        return rival.energy_pj(self.energy, self.costs, int8=int8)

    def beats_its_rival(self, point: FrontPoint) -> bool | None:
        """Whether a point costs less than the quantised ANN of as many levels with like weights."""
        ratio = self.rival_ratio(point)
        return None if ratio is None else point.search.energy_ratio < ratio

    def break_even_rate(self, point: FrontPoint) -> float | None:
        """Spikes per neuron and step at which it would cost as much as its rival."""
        pj, counts = self._rival_pj(point), point.search.counts
        if pj is None or counts is None:
            return None
        prices = self.energy.prices_of(self.costs, counts)
        return prices.break_even_rate(self.costs, counts.steps, pj)


def spike_rate(point: FrontPoint, costs: Costs) -> float | None:
    """Spikes per neuron and step."""
    counts = point.search.counts
    if counts is None:
        return None
    neurons = sum(fan_out.numel() for fan_out in costs.fan_out.values())
    return sum(counts.mean["spikes"]) / (max(neurons, 1) * counts.steps)


def under_models(
    front: ParetoFront, costs: Costs, models: Sequence[EnergyModel] | None = None
) -> list[UnderModel]:
    """The front under several models; empty if the trials have no counts."""
    if any(p.search.counts is None for p in front.trials):
        return []
    studied = frozenset(p.trial for p in front.points)
    return [
        UnderModel(front=repriced(front, model, costs), costs=costs, studied=studied)
        for model in (models_beside(front) if models is None else models)
    ]
