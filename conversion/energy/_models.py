"""The models that price what an inference costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor

from conversion._errors import ConfigError
from conversion.energy._costs import Costs

Burst = Literal["count", "graded"]
Accumulates = TypeVar("Accumulates", Tensor, np.ndarray)


@dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """Prices of the elementary operations, in pJ, and what they make of a run.

    One of your own goes into :data:`ENERGY_MODELS` under its name; studies and deployed configs
    keep it whole.

    Attributes:
        name: Name used on the command line and in every report.
        mac_pj: One multiply-accumulate, paid by the analog stem and by nodes that stay analog.
        ac_pj: One accumulate, paid by every spike at every synapse it reaches.
        ann_mac_pj: One multiply-accumulate of the ANN that the result is compared with.
        burst: ``"count"``: n spikes of a burst are n events; ``"graded"``: a burst is one event.
        source: Where the prices come from.
    """

    name: str
    mac_pj: float
    ac_pj: float
    ann_mac_pj: float
    burst: Burst = "count"
    source: str = ""

    def __post_init__(self) -> None:
        prices = (self.mac_pj, self.ac_pj, self.ann_mac_pj)
        if not all(isinstance(p, (int, float)) and 0 < p < float("inf") for p in prices):
            raise ConfigError(f"energy prices must be finite and > 0 pJ, got {asdict(self)}")
        if self.burst not in ("count", "graded"):
            raise ConfigError(f"burst must be 'count' or 'graded', got {self.burst!r}")

    def ann_pj(self, costs: Costs) -> float:
        """Energy of one inference of the ANN, pJ."""
        return costs.ann_macs * self.ann_mac_pj

    def stem_pj(self, costs: Costs) -> float:
        """Energy of what is computed once per inference, before the first spike, pJ."""
        return costs.stem_macs * self.mac_pj

    def step_pj(self, costs: Costs) -> float:
        """Energy of what stays analog, at every step, pJ."""
        return costs.step_macs * self.mac_pj

    def spikes_pj(self, synops: Accumulates) -> Accumulates:
        """Energy of synaptic operations, pJ, in any shape."""
        return synops * self.ac_pj

    def run_pj(self, costs: Costs, synops: Accumulates) -> Accumulates:
        """Energy up to and including each step, pJ.

        Args:
            costs: Of the network.
            synops: Synaptic operations of each step, of all sources together, ``(T, ...)``.

        Returns:
            Of the same shape.
        """
        return (self.spikes_pj(synops) + self.step_pj(costs)).cumsum(0) + self.stem_pj(costs)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnergyModel:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: A field is missing, unknown or out of range.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"malformed energy model: {error}") from error


_HOROWITZ = "Horowitz, ISSCC 2014, 45 nm"

ENERGY_MODELS = {
    model.name: model
    for model in (
        EnergyModel(
            name="horowitz45",
            mac_pj=4.6,
            ac_pj=0.9,
            ann_mac_pj=4.6,
            source=f"{_HOROWITZ}: fp32 multiply 3.7 pJ + add 0.9 pJ; against the fp32 ANN",
        ),
        EnergyModel(
            name="horowitz45-int8",
            mac_pj=0.23,
            ac_pj=0.03,
            ann_mac_pj=0.23,
            source=f"{_HOROWITZ}: int8 multiply 0.2 pJ + add 0.03 pJ; against the int8 ANN",
        ),
        EnergyModel(
            name="horowitz45-graded",
            mac_pj=4.6,
            ac_pj=0.9,
            ann_mac_pj=4.6,
            burst="graded",
            source=f"{_HOROWITZ}: fp32, on hardware that sends a burst as one graded spike",
        ),
    )
}


def energy_model(name: str) -> EnergyModel:
    """The energy model of that name.

    Raises:
        ConfigError: There is none; the message lists those there are.
    """
    if name not in ENERGY_MODELS:
        raise ConfigError(f"energy model {name!r} is unknown; known: {', '.join(ENERGY_MODELS)}")
    return ENERGY_MODELS[name]
