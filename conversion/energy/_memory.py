"""Operations and memory traffic (Lemaire et al., ICONIP 2022, arXiv 2210.13107)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from conversion._errors import ConfigError
from conversion.energy._costs import Costs, Operator
from conversion.energy._models import INT16_ADD_PJ, EnergyModel, energy_kind, mac_pj
from conversion.energy._prices import Prices

PARTS = ("operations", "potentials", "weights", "biases", "buffers", "addresses")


@energy_kind
@dataclass(frozen=True, kw_only=True)
class Memory(EnergyModel):
    """Each operand is read from an SRAM sized for it, and each result written to one.

    Of a layer with θ_in spikes at its input and θ_out at its output over all T steps, S synaptic
    operations, V outputs and C output channels, with e(n) the energy of an access to a memory of n
    elements (eqs. 1 to 17 of the paper, stride and borders counted exactly):

    ============ ===================================================================
    operations   (S + T·V + θ_out) additions
    potentials   2·(S + T·V) accesses to V elements, a read and a write each
    weights      S reads of as many elements as the layer has weights
    biases       T·V reads of C elements
    buffers      θ_in reads and θ_out writes of the queue of spikes; an input's are written too
    addresses    2·θ_in MACs for a convolution, and S additions
    ============ ===================================================================

    A graded event is one event with a payload: its synapses multiply. In the ANN every MAC reads an
    input and a weight; every output is written once, and its bias read once.

    Attributes:
        bits: Width of weights, potentials and activations.
        add_pj: Energy of an addition of that width.
        multiply_pj: Energy of a multiplication.
        int8_add_pj: Energy of an addition in the int8 reference ANN.
        int8_multiply_pj: Energy of a multiplication in it.
        sram_pj: Size-independent part of an SRAM access.
        sram_pj_per_bit: Additional energy of an access per bit of memory.
        bus_bits: Width of the memory bus; values that fit side by side share an access.
        queue: Capacity of a spike queue, elements.
        weight_bits: Width of the weights, if different.
        multiplier_bits: Width of the multiplier that ``multiply_pj`` refers to, if different.
    """

    kind: ClassVar[str] = "memory"

    bits: int
    add_pj: float
    multiply_pj: float
    sram_pj: float
    sram_pj_per_bit: float
    int8_add_pj: float = 0.03
    int8_multiply_pj: float = 0.2
    bus_bits: int = 0
    queue: int = 0
    weight_bits: int | None = None
    multiplier_bits: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("bits", "weight_bits", "multiplier_bits"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 64:
                raise ConfigError(f"{name} of {self.name!r} must be in 1..64, got {value!r}")

    @classmethod
    def _may_be_free(cls) -> Sequence[str]:
        return ("sram_pj_per_bit",)

    def access_pj(self, elements: int, bits: int | None = None) -> float:
        """Energy of one access to a memory with this many elements, pJ."""
        width = bits or self.bits
        shared = max(1, self.bus_bits // width)
        return (self.sram_pj_per_bit * elements * width + self.sram_pj) / shared

    def in_integers(self, bits: int) -> EnergyModel:
        return replace(
            self,
            bits=16,
            weight_bits=bits,
            add_pj=INT16_ADD_PJ,
            multiplier_bits=self.multiplier_bits or self.bits,
        )

    def prices(self, costs: Costs, bits: Sequence[int]) -> Prices:
        graded = self.burst == "graded"
        at_synapse, per_event = ("burst_synops", "bursts") if graded else ("synops", "spikes")
        n = len(costs.fan_out)
        whole = self.multiply_pj + self.add_pj
        add = self.add_pj
        wide = self.multiplier_bits or self.bits
        macs = [mac_pj(whole, add, width, wide) if graded else add for width in bits]
        at = [_Reached.of(self, costs, reached) for reached in costs.targets.values()]
        resets = np.array([name in costs.integrators for name in costs.fan_out], float)
        queue = self.access_pj(self.queue) * np.array([1.0 + r.readers for r in at])
        integrators = costs.integrators.values()
        steps = {
            "operations": sum(v * self.add_pj for v in integrators),
            "potentials": sum(2 * v * self.access_pj(v) for v in integrators),
            "biases": sum(
                size * self.access_pj(_channels(costs, name, size))
                for name, size in costs.integrators.items()
            ),
        }
        events: dict[str, dict[str, Any]] = {
            "operations": {at_synapse: np.array(macs), per_event: resets * self.add_pj},
            "potentials": {at_synapse: np.array([2 * r.potentials_pj for r in at])},
            "weights": {at_synapse: np.array([r.weights_pj for r in at])},
            "biases": {},
            "buffers": {per_event: queue},
            "addresses": {
                at_synapse: self.add_pj,
                per_event: np.array([2 * r.kernels for r in at]) * whole,
            },
        }
        analog = {part: [0.0, 0.0] for part in PARTS}
        for name, operator in costs.operators.items():
            if operator.stage != "spikes":
                every_step = operator.stage == "currents"
                paying = replace(operator, macs=costs.analog_macs.get(name, operator.macs))
                for part, paid in self._operator_pj(paying).items():
                    analog[part][every_step] += paid
        return Prices.summed(
            {
                part: Prices.of(
                    n,
                    **events[part],
                    once=analog[part][0],
                    step=analog[part][1] + steps.get(part, 0.0),
                )
                for part in PARTS
            }
        )

    def ann_pj(
        self, costs: Costs, *, int8: bool = False, bits: Mapping[str, int] | None = None
    ) -> float:
        return sum(self.ann_parts_pj(costs, int8=int8, bits=bits).values())

    def step_by_operator(self, costs: Costs) -> dict[str, float]:
        found = {
            name: size
            * (
                self.add_pj
                + 2 * self.access_pj(size)
                + self.access_pj(_channels(costs, name, size))
            )
            for name, size in costs.integrators.items()
        }
        for name, operator in costs.operators.items():
            if operator.stage == "currents":
                paying = replace(operator, macs=costs.analog_macs.get(name, operator.macs))
                found[name] = found.get(name, 0.0) + sum(self._operator_pj(paying).values())
        return found

    def ann_by_operator(self, costs: Costs) -> dict[str, float]:
        return {n: sum(self._operator_pj(op).values()) for n, op in costs.operators.items()}

    def ann_parts_pj(
        self, costs: Costs, *, int8: bool = False, bits: Mapping[str, int] | None = None
    ) -> dict[str, float]:
        """Energy of one inference of the ANN by component, pJ."""
        total = dict.fromkeys(PARTS, 0.0)
        for name, operator in costs.operators.items():
            width = bits.get(name) if bits else None
            for part, paid in self._operator_pj(operator, int8=int8, activations=width).items():
                total[part] += paid
        return total

    def _operator_pj(
        self, op: Operator, *, int8: bool = False, activations: int | None = None
    ) -> dict[str, float]:
        width = 8 if int8 else self.bits
        add = self.int8_add_pj if int8 else self.add_pj
        multiply = self.int8_multiply_pj if int8 else self.multiply_pj
        values = min(activations or width, width)
        mac = mac_pj(multiply + add, add, activations, width)
        reads = op.macs if op.reach or not op.weights else op.inputs
        reached = op.inputs + op.outputs + op.reach if op.reach else op.macs
        return {
            "operations": op.macs * mac + op.outputs * add,
            "potentials": 0.0,
            "weights": op.macs * self.access_pj(op.weights, width) if op.weights else 0.0,
            "biases": op.outputs * self.access_pj(op.biases, width) if op.biases else 0.0,
            "buffers": reads * self.access_pj(op.inputs, values)
            + op.outputs * self.access_pj(op.outputs, values),
            "addresses": reached * add,
        }


@dataclass(frozen=True)
class _Reached:
    """Where a source's spikes arrive, weighted by how often they do.

    Attributes:
        potentials_pj: An access to the potentials there.
        weights_pj: A read of a weight there; nothing where there are none.
        kernels: How many of the places are convolutions.
        readers: How many places there are.
    """

    potentials_pj: float
    weights_pj: float
    kernels: int
    readers: int

    @classmethod
    def of(cls, model: Memory, costs: Costs, reached: Mapping[str, float]) -> _Reached:
        potentials, weights, width = 0.0, 0.0, model.weight_bits
        for name, share in reached.items():
            operator = costs.operators.get(name)
            size = operator.outputs if operator else _size(costs, name)
            potentials += share * model.access_pj(size)
            weights += share * model.access_pj(operator.weights, width) if operator else 0.0
        operators = [costs.operators[name] for name in reached if name in costs.operators]
        return cls(potentials, weights, sum(op.reach > 0 for op in operators), len(reached))


def _size(costs: Costs, name: str) -> int:
    """Potentials of a spiking layer or an output, or values of a max-pool or another wire."""
    if name in costs.integrators:
        return costs.integrators[name]
    return costs.fan_out[name].numel() if name in costs.fan_out else 0


def _channels(costs: Costs, name: str, size: int) -> int:
    """Biases of a layer, one a channel; of an output, one a value."""
    return costs.fan_out[name].shape[0] if name in costs.fan_out else size
