"""What a spiking network is compared with: the ANN, and the ANN with as many levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conversion import Costs, EnergyModel, level_bits, operator_bits
from evaluators._estimate import Estimate, PairedDrop


@dataclass(frozen=True, kw_only=True)
class AnnReference:
    """The ANN on one split.

    Attributes:
        split: Name of the split.
        n: Number of samples.
        accuracy: Mean score.
        energy_pj: Energy of one inference, pJ.
        energy_int8_pj: Energy of the same ANN in int8, pJ.
        chance: Accuracy of always predicting the most common class.
    """

    split: str
    n: int
    accuracy: Estimate
    energy_pj: float
    energy_int8_pj: float
    chance: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        return {**vars(self), "accuracy": self.accuracy.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AnnReference:
        """Rebuild from the output of :meth:`to_dict`."""
        return cls(**{**values, "accuracy": Estimate.from_dict(values["accuracy"])})


@dataclass(frozen=True, kw_only=True)
class QuantisedAnn:
    """The ANN with as many activation levels as a spiking network, measured on one split.

    Attributes:
        split: Name of the split.
        n: Number of samples.
        accuracy: Mean score, measured.
        drop: How far it is below the ANN's on the same samples.
        levels: Levels of each layer, not counting 0: φ times the steps.
    """

    split: str
    n: int
    accuracy: Estimate
    drop: PairedDrop
    levels: Mapping[str, int]

    @property
    def bits(self) -> int:
        """Of its widest activation."""
        return max(level_bits(count) for count in self.levels.values())

    def energy_pj(self, energy: EnergyModel, costs: Costs, *, int8: bool = False) -> float:
        """Energy of one inference, with weights as they are or in int8, pJ."""
        return energy.ann_pj(costs, int8=int8, bits=operator_bits(costs, self.levels))

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        nouns = {"accuracy": self.accuracy.to_dict(), "drop": self.drop.to_dict()}
        return {**vars(self), **nouns, "levels": dict(self.levels)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantisedAnn:
        """Rebuild from the output of :meth:`to_dict`."""
        nouns = {
            "accuracy": Estimate.from_dict(values["accuracy"]),
            "drop": PairedDrop.from_dict(values["drop"]),
        }
        return cls(**{**values, **nouns})
