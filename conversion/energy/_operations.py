"""Prices of operations alone: a MAC, an accumulate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from conversion._errors import ConfigError
from conversion.energy._costs import Costs
from conversion.energy._models import (
    INT8_ADD_PJ,
    INT8_MAC_PJ,
    INT16_ADD_PJ,
    EnergyModel,
    energy_kind,
    mac_pj,
)
from conversion.energy._prices import Prices


@energy_kind
@dataclass(frozen=True, kw_only=True)
class Operations(EnergyModel):
    """Counts MACs and accumulates only: no memory, no communication, no leakage.

    Attributes:
        mac_pj: Energy of a multiply-accumulate in the analog stem and in nodes that stay analog.
        ac_pj: Energy of an accumulate: one per spike and synapse.
        ann_mac_pj: Energy of a multiply-accumulate of the reference ANN.
        multiplier_bits: Width of its multiplier: 24 for fp32's mantissa, 8 for int8.
    """

    kind: ClassVar[str] = "operations"

    mac_pj: float
    ac_pj: float
    ann_mac_pj: float
    multiplier_bits: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multiplier_bits < 1:
            raise ConfigError(f"multiplier_bits must be >= 1, got {self.multiplier_bits!r}")

    def prices(self, costs: Costs, bits: Sequence[int]) -> Prices:
        paid = "synops" if self.burst == "count" else "burst_synops"
        return Prices.of(
            len(costs.fan_out),
            **{paid: self.ac_pj},
            step=costs.step_macs * self.mac_pj,
            once=costs.stem_macs * self.mac_pj,
        )

    def once_by_operator(self, costs: Costs) -> dict[str, float]:
        stem = {n: op for n, op in costs.operators.items() if op.stage == "stem"}
        return {name: op.macs * self.mac_pj for name, op in stem.items()}

    def step_by_operator(self, costs: Costs) -> dict[str, float]:
        return {name: macs * self.mac_pj for name, macs in costs.analog_macs.items()}

    def in_integers(self, bits: int) -> EnergyModel:
        return replace(self, ac_pj=INT16_ADD_PJ)

    def ann_pj(
        self, costs: Costs, *, int8: bool = False, bits: Mapping[str, int] | None = None
    ) -> float:
        if int8:
            return ann_macs_pj(costs, INT8_MAC_PJ, INT8_ADD_PJ, 8, bits)
        add = min(self.ac_pj, self.ann_mac_pj)
        return ann_macs_pj(costs, self.ann_mac_pj, add, self.multiplier_bits, bits)


def ann_macs_pj(
    costs: Costs, whole: float, add: float, width: int, bits: Mapping[str, int] | None
) -> float:
    """Energy of the ANN's MACs, of activations of so many bits, pJ."""
    if bits is None:
        return costs.ann_macs * whole
    return sum(
        op.macs * mac_pj(whole, add, bits.get(name), width) for name, op in costs.operators.items()
    )
