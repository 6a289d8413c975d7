"""Published prices of neuromorphic chips: a synaptic operation, a neuron's update, a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from conversion.energy._costs import Costs
from conversion.energy._models import INT8_ADD_PJ, INT8_MAC_PJ, EnergyModel, energy_kind
from conversion.energy._operations import ann_macs_pj
from conversion.energy._prices import Prices

_FP32_MAC_PJ, _FP32_ADD_PJ, _FP32_BITS = 4.6, 0.9, 24


@energy_kind
@dataclass(frozen=True, kw_only=True)
class Chip(EnergyModel):
    """Energies per event, as published for a chip.

    None of the chips processes analog inputs and currents. Their MACs are charged at the fp32 ANN's
    price, 45 nm (Horowitz, ISSCC 2014), which is also the reference of the ratio. As that ANN runs
    on another process node, trust the order of the points along a front more than the ratios.

    Attributes:
        synop_pj: Energy of a synaptic operation.
        update_pj: Energy of one neuron update per step, whether it fires or not.
        spike_pj: Energy of generating and sending a spike.
        step_pj: Energy of an idle step: static power times the length of a step.
        mac_pj: Energy of a multiply-accumulate on analog inputs or currents.
    """

    kind: ClassVar[str] = "chip"

    synop_pj: float
    update_pj: float = 0.0
    spike_pj: float = 0.0
    step_pj: float = 0.0
    mac_pj: float = _FP32_MAC_PJ

    @classmethod
    def _may_be_free(cls) -> Sequence[str]:
        return ("update_pj", "spike_pj", "step_pj")

    def prices(self, costs: Costs, bits: Sequence[int]) -> Prices:
        synops, spikes = (
            ("synops", "spikes") if self.burst == "count" else ("burst_synops", "bursts")
        )
        updates = costs.potentials * self.update_pj
        return Prices.of(
            len(costs.fan_out),
            **{synops: self.synop_pj, spikes: self.spike_pj},
            step=costs.step_macs * self.mac_pj + updates + self.step_pj,
            once=costs.stem_macs * self.mac_pj,
        )

    def once_by_operator(self, costs: Costs) -> dict[str, float]:
        stem = {n: op for n, op in costs.operators.items() if op.stage == "stem"}
        return {name: op.macs * self.mac_pj for name, op in stem.items()}

    def step_by_operator(self, costs: Costs) -> dict[str, float]:
        found = {name: n * self.update_pj for name, n in costs.integrators.items()}
        for name, macs in costs.analog_macs.items():
            found[name] = found.get(name, 0.0) + macs * self.mac_pj
        idle = {"idle": self.step_pj} if self.step_pj else {}
        return {**{name: pj for name, pj in found.items() if pj}, **idle}

    def ann_pj(
        self, costs: Costs, *, int8: bool = False, bits: Mapping[str, int] | None = None
    ) -> float:
        if int8:
            return ann_macs_pj(costs, INT8_MAC_PJ, INT8_ADD_PJ, 8, bits)
        return ann_macs_pj(costs, _FP32_MAC_PJ, _FP32_ADD_PJ, _FP32_BITS, bits)
