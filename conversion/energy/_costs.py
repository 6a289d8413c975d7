"""What one sample costs before any price: exact fan-out of every spike, and MACs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, cast

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from conversion.graph import Network, Role, Timing, is_size
from conversion.graph._operations import (
    CONVOLUTIONS,
    GATE_EVENTS,
    WIRES,
    call,
    channel_dim,
    dense_macs,
    name_of,
    sample_size,
    varying,
    weight_of,
    with_unit_weights,
)

Stage = Literal["stem", "spikes", "currents"]

_LOG = logging.getLogger("spikefront")


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A product with weights, or an operation with products in it, for one sample.

    Attributes:
        macs: MACs of the ANN, without products with padding zeros.
        inputs: Number of input values.
        outputs: Number of output values.
        weights: Number of weights.
        biases: Number of biases.
        reach: Outputs that one input value reaches, over all positions of a kernel: C·K of a
            convolution; 0 where every input reaches every output.
        stage: ``"stem"``: runs once per inference, on analog input; ``"spikes"``: receives spikes;
            ``"currents"``: processes currents at every step.
    """

    macs: int
    inputs: int
    outputs: int
    weights: int = 0
    biases: int = 0
    reach: int = 0
    stage: Stage = "spikes"


@dataclass(frozen=True)
class Costs:
    """Operations that one sample causes, before pricing.

    Attributes:
        fan_out: Accumulates that one spike of each neuron causes, by source node; each tensor
            has the shape of one sample of that node's output, ``(C, ...)``. Sources are the
            spiking layers, the max-pools between spikes, and inputs that are events.
        targets: For each source, which share of its accumulates happens where: at an operator, or
            at the neurons, gate or ``output …`` that its spikes reach without weights. Computed for
            one spike of every neuron.
        operators: By node.
        integrators: Number of values accumulated over the steps: potentials of spiking layers, by
            node, and those of each ``output …``.
        stem_macs: MACs on analog input, once per inference.
        analog_macs: MACs at every step, by node: operations that are neither linear nor ReLU-like,
            and linear ones that receive currents instead of spikes.
        ann_macs: MACs of the ANN. Products with padding zeros are not counted: no spike would ever
            cross such a synapse either.
        padding_macs: Products with padding zeros; MAC counters usually report ``ann_macs +
            padding_macs``.
    """

    fan_out: dict[str, Tensor]
    targets: dict[str, dict[str, float]]
    operators: dict[str, Operator]
    integrators: dict[str, int]
    stem_macs: int
    analog_macs: dict[str, int]
    ann_macs: int
    padding_macs: int

    def by_operator(
        self,
        energy_pj: Mapping[str, float],
        once: Mapping[str, float],
        step: Mapping[str, float],
    ) -> dict[str, float]:
        """Redistribute energy by source of the spikes to where the work is done, pJ.

        Args:
            energy_pj: By source, with ``stem`` and ``every step``, as measurements have it.
            once: Distribution of the stem's energy, in any unit; see
                ``EnergyModel.once_by_operator``.
            step: Distribution of the energy of every step.

        Returns:
            Energy by operator, neurons or output. The energy of a source is shared out in the
            proportions of the accumulates that one spike of every neuron causes.
        """
        found: dict[str, float] = {}

        def share(total: float, weights: Mapping[str, float]) -> None:
            whole = sum(weights.values())
            for name, weight in weights.items():
                found[name] = found.get(name, 0.0) + total * weight / whole

        reached: dict[str, Mapping[str, float]] = {
            **self.targets, "stem": once, "every step": step
        }  # fmt: skip
        for source, total in energy_pj.items():
            share(total, reached.get(source) or {source: 1.0})
        return found

    @property
    def step_macs(self) -> int:
        """MACs of all nodes that stay analog, at every step."""
        return sum(self.analog_macs.values())

    @property
    def weights(self) -> int:
        """Weights of all operators."""
        return sum(op.weights for op in self.operators.values())

    @property
    def biases(self) -> int:
        """Biases of all operators."""
        return sum(op.biases for op in self.operators.values())

    @property
    def potentials(self) -> int:
        """Values accumulated over the steps."""
        return sum(self.integrators.values())


@dataclass
class _Signal:
    """What reaches a node: events that can still fan out, and/or a current already paid for.

    ``events`` is one sample's map of how many events arrive, in the layout of the node's value;
    its autograd graph leads back to the sources.
    """

    events: Tensor | None
    current: bool


def costs(network: Network) -> Costs:
    """Count MACs and exact fan-outs of a network, borders, strides and groups included.

    One symbolic event per neuron is sent through the network with all weights set to one; the
    number of accumulates it causes is the gradient of their total.
    """
    counter = _EventPass(network)
    with torch.enable_grad(), torch.inference_mode(False):
        counter.run()
        fan_out, targets = _by_source(counter)
    return Costs(
        {name: network.axes[name].front(found)[0].detach() for name, found in fan_out.items()},
        targets,
        counter.operators,
        counter.integrators,
        counter.stem_macs,
        counter.analog_macs,
        counter.ann_macs,
        counter.padding_macs,
    )


def _by_source(counter: _EventPass) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Accumulates by neuron of each source, and which share of them happens where."""
    names, sources = list(counter.sources), list(counter.sources.values())
    fan_out = {name: torch.zeros_like(events) for name, events in counter.sources.items()}
    targets: dict[str, dict[str, float]] = {name: {} for name in names}
    for target, total in counter.accumulates.items():
        found = torch.autograd.grad(total, sources, allow_unused=True, retain_graph=True)
        for name, gradient in zip(names, found, strict=True):
            if gradient is not None:
                fan_out[name] += gradient
                targets[name][target] = float(gradient.sum())
    return fan_out, {name: _shares(reached) for name, reached in targets.items()}


def _shares(counts: dict[str, float]) -> dict[str, float]:
    whole = sum(counts.values())
    return {name: count / whole for name, count in counts.items() if count}


class _EventPass:
    """One event per neuron through the network, in a batch of one sample."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._signals: dict[fx.Node, _Signal] = {}
        self._present: dict[fx.Node, Tensor | None] = {}
        self._values: dict[fx.Node, Any] = {}
        self.accumulates: dict[str, Tensor] = {}
        self.operators: dict[str, Operator] = {}
        self.integrators: dict[str, int] = {}
        self.sources: dict[str, Tensor] = {}
        self.stem_macs = self.ann_macs = self.padding_macs = 0
        self.analog_macs: dict[str, int] = {}

    def run(self) -> None:
        """Go through all nodes."""
        for node in self._network.graph.nodes:
            if node.op == "output":
                for source in varying(node):
                    self._read_out(source)
            elif node.meta["varies"]:
                self._present[node] = self._presence(node)
                self._signals[node] = self._signal(node)

    def _signal(self, node: fx.Node) -> _Signal:
        if node.op == "placeholder" and self._network.feed != "static":
            return self._source(node) if self._network.feed == "events" else _Signal(None, True)
        role = self._network.roles[node.name]
        macs = self._macs(node, role)
        self.ann_macs += macs
        if self._network.timing[node.name] is not Timing.TEMPORAL:
            self.stem_macs += macs
            if macs:
                self.operators[node.name] = self._operator(node, macs, "stem")
            return _Signal(None, True)
        inputs = [self._signals[source] for source in varying(node)]
        if role is Role.SPIKING:
            self.integrators[node.name] = sample_size(node)
            self._arrive(node.name, inputs)
            return self._source(node)
        if role is Role.SYNAPSE:
            return self._synapse(node, inputs[0], macs)
        if role is Role.WIRE:
            return self._wire(node, inputs)
        if role is Role.GATE and inputs[0].events is not None and not inputs[0].current:
            self._add(node.name, GATE_EVENTS(node, self._events_or_zeros).sum())
            return self._source(node)
        self.analog_macs[node.name] = max(macs, sample_size(node))
        self.operators[node.name] = self._operator(node, macs, "currents")
        return _Signal(None, True)

    def _source(self, node: fx.Node) -> _Signal:
        events = self._filled(node, 0.0).requires_grad_()
        self.sources[node.name] = events
        return _Signal(events, False)

    def _add(self, place: str, events: Tensor) -> None:
        """Accumulates that events cause at a place."""
        if events.requires_grad:
            there = self.accumulates.get(place)
            self.accumulates[place] = events if there is None else there + events

    def _arrive(self, place: str, inputs: list[_Signal]) -> None:
        """Events that reach a neuron, a gate or the output without weights: one accumulate."""
        for signal in inputs:
            if signal.events is not None:
                self._add(place, signal.events.sum())

    def _read_out(self, source: fx.Node) -> None:
        """An output adds up over the steps what reaches it."""
        place = f"output {source.name}"
        self._arrive(place, [self._signals[source]])
        temporal = self._network.timing[source.name] is Timing.TEMPORAL
        if temporal and source.meta["val"].is_floating_point():
            self.integrators[place] = sample_size(source)

    def _synapse(self, node: fx.Node, signal: _Signal, macs: int) -> _Signal:
        if signal.current or signal.events is None:
            self.analog_macs[node.name] = macs
            self.operators[node.name] = self._operator(node, macs, "currents")
        else:
            reached = with_unit_weights(node, signal.events, self._value)
            self._add(node.name, reached.sum())
            self.operators[node.name] = self._operator(node, macs, "spikes")
        return _Signal(None, True)

    def _operator(self, node: fx.Node, macs: int, stage: Stage) -> Operator:
        weight = weight_of(node) if self._network.roles[node.name] is Role.SYNAPSE else None
        shape = [] if weight is None else [int(n) for n in self._value(weight).shape]
        constants = [n for n in node.all_input_nodes if not n.meta["varies"] and n is not weight]
        tensors = [self._value(n) for n in constants] if weight is not None else []
        biases = [t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
        kernel = name_of(node) in CONVOLUTIONS
        channels = int(node.meta["val"].shape[channel_dim(node)]) if kernel else 0
        return Operator(
            macs=macs,
            inputs=sum(sample_size(source) for source in varying(node)),
            outputs=sample_size(node),
            weights=prod(shape) if shape else 0,
            biases=sum(bias.numel() for bias in biases),
            reach=channels * prod(shape[2:]),
            stage=stage,
        )

    def _wire(self, node: fx.Node, inputs: list[_Signal]) -> _Signal:
        current = any(signal.current for signal in inputs)
        if all(signal.events is None for signal in inputs):
            return _Signal(None, current)
        events = WIRES[name_of(node)].events
        if events is None:
            self._arrive(node.name, inputs)
            return _Signal(None, True)
        return _Signal(events(node, self._events_or_zeros), current)

    def _events_or_zeros(self, source: fx.Node) -> Any:
        if not source.meta["varies"]:
            return self._value(source)
        events = self._signals[source].events
        return self._filled(source, 0.0) if events is None else events

    def _presence(self, node: fx.Node) -> Tensor | None:
        """Which values are more than the zeros of a padding: 1 and 0, or None where all are."""
        wire = WIRES.get(name_of(node))
        if wire is None or self._network.roles[node.name] is not Role.WIRE:
            return None
        clears = name_of(node) == "masked_fill" and node.args[2] == 0
        if not (wire.moves or clears):
            return None
        known = [self._present[source] for source in varying(node)]
        if all(present is None for present in known) and not (clears or _adds_zeros(node)):
            return None

        def value(source: fx.Node) -> Any:
            if not source.meta["varies"]:
                found = self._value(source)
                joined = isinstance(found, Tensor) and found.is_floating_point()
                return (found != 0).double() if joined else found
            present = self._present[source]
            return self._filled(source, 1.0) if present is None else present

        return cast(Tensor, call(node, value, self._network.device))

    def _macs(self, node: fx.Node, role: Role) -> int:
        if role is Role.SYNAPSE:
            source = varying(node)[0]
            present = self._present[source]
            signal = self._filled(source, 1.0) if present is None else present
            macs = self._products(node, signal)
            if name_of(node) in CONVOLUTIONS:
                self.padding_macs += dense_macs(node) - macs
            elif present is not None:
                self.padding_macs += self._products(node, self._filled(source, 1.0)) - macs
            return macs
        return self._inner_macs(node) if role is Role.ANALOG else 0

    def _products(self, node: fx.Node, signal: Tensor) -> int:
        return round(float(with_unit_weights(node, signal, self._value).sum()))

    def _inner_macs(self, node: fx.Node) -> int:
        """MACs of the products inside an operation that stays analog, such as attention."""

        def value(source: fx.Node) -> Any:
            if is_size(source):
                return self._network.size(source, 1)
            if not source.meta["varies"]:
                found = self._value(source)
                return found.to("meta") if isinstance(found, Tensor) else found
            return torch.empty(self._shape(source), dtype=source.meta["val"].dtype, device="meta")

        if name_of(node) == "bilinear":  # the counter does not know it
            _, inputs, others = cast(fx.Node, node.args[2]).meta["val"].shape
            return sample_size(node) * int(inputs) * int(others)
        try:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                call(node, value, torch.device("meta"))
        except (RuntimeError, NotImplementedError) as error:
            _LOG.warning(
                "products inside %r cannot be counted and count as zero: %s",
                node.name,
                str(error).splitlines()[0],
            )
            return 0
        return int(counter.get_total_flops()) // 2

    def _value(self, node: fx.Node) -> Any:
        """What does not depend on the sample, for a batch of one."""
        if node not in self._values:
            if is_size(node):
                return self._network.size(node, 1)
            if node.op == "get_attr":
                return self._network.constant(node)
            self._values[node] = call(node, self._value, self._network.device)
        return self._values[node]

    def _filled(self, node: fx.Node, value: float) -> Tensor:
        device = self._network.device
        return torch.full(self._shape(node), value, dtype=torch.float64, device=device)

    def _shape(self, node: fx.Node) -> list[int]:
        axis = self._network.axes[node.name]
        sizes = [1 if isinstance(n, torch.SymInt) else int(n) for n in node.meta["val"].shape]
        sizes[axis.dim] = axis.outer * axis.inner
        return sizes


def _adds_zeros(node: fx.Node) -> bool:
    """Whether an operation puts zeros or constants beside what it moves."""
    pads = name_of(node) in ("pad", "constant_pad_nd", "im2col", "tril", "triu")
    return pads or any(not source.meta["varies"] for source in node.all_input_nodes)
