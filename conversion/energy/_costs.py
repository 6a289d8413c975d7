"""What one sample costs before any price: exact fan-out of every spike, and MACs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from conversion.graph._network import Network, Timing
from conversion.graph._roles import (
    ADAPTIVE_POOL_FUNCTIONS,
    ADAPTIVE_POOL_MODULES,
    JOINS,
    MAX_POOL_FUNCTIONS,
    MAX_POOL_MODULES,
    NEGATIONS,
    POOL_FUNCTIONS,
    POOL_MODULES,
    REDUCTIONS,
    SCALES,
    SUMS,
    Role,
    reduced_dims,
)


@dataclass(frozen=True)
class Costs:
    """What one sample costs, before any price.

    Attributes:
        fan_out: Accumulates that one spike of each neuron causes, by source node; each tensor
            has the shape of one sample of that node's output. Sources are the spiking layers and
            the max-pools between spikes.
        stem_macs: MACs on analog input, once per inference.
        analog_macs: MACs at every step, by node: those that are neither linear nor ReLU-like, and
            those linear ones that get a current instead of spikes.
        ann_macs: MACs of the ANN. Products with zeros of a padding are none: no spike would ever
            cross such a synapse either.
        padding_macs: Those products; with them it is the number that MAC counters usually give.
    """

    fan_out: dict[str, Tensor]
    stem_macs: int
    analog_macs: dict[str, int]
    ann_macs: int
    padding_macs: int

    @property
    def step_macs(self) -> int:
        """MACs of all nodes that stay analog, at every step."""
        return sum(self.analog_macs.values())


@dataclass
class _Signal:
    """What reaches a node: events that can still fan out, and/or a current already paid for.

    ``events`` is one sample's map ``(1, C, ...)`` of how many events arrive; its autograd graph
    leads back to the sources.
    """

    events: Tensor | None
    current: bool
    origin: list[str] = field(default_factory=list)


def costs(network: Network) -> Costs:
    """Count MACs and exact fan-outs of a network, borders, strides and groups included.

    One symbolic event per neuron is sent through the network with all weights set to one; the
    number of accumulates it causes is the gradient of their total.
    """
    counter = _EventPass(network)
    with torch.enable_grad(), torch.inference_mode(False):
        counter.run(None)
        total = counter.accumulates
        sources = counter.sources
        gradients = (
            torch.autograd.grad(
                total, list(sources.values()), allow_unused=True, materialize_grads=True
            )
            if sources
            else ()
        )
    fan_out = {
        name: gradient[0].detach() for name, gradient in zip(sources, gradients, strict=True)
    }
    return Costs(
        fan_out, counter.stem_macs, counter.analog_macs, counter.ann_macs, counter.padding_macs
    )


class _EventPass(fx.Interpreter):
    def __init__(self, network: Network) -> None:
        super().__init__(network.module)
        self.extra_traceback = False
        self._network = network
        device = next((p.device for p in network.module.parameters()), torch.device("cpu"))
        self._device = device
        self.accumulates = torch.zeros((), dtype=torch.float64, device=device, requires_grad=True)
        self.sources: dict[str, Tensor] = {}
        self.stem_macs = self.ann_macs = self.padding_macs = 0
        self.analog_macs: dict[str, int] = {}
        self._inner_macs = _macs_inside_analog_nodes(network)

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "output":
            self._arrive([self.env[source] for source in n.all_input_nodes])
            return None
        role = self._network.roles[n.name]
        if n.op == "get_attr" or "tensor_meta" not in n.meta:
            return _Signal(None, False)
        macs = self._inner_macs.get(n.name, 0)
        if role is Role.SYNAPSE:
            macs = self._macs(n)
            self.padding_macs += self._dense_macs(n) - macs
        self.ann_macs += macs
        if self._network.timing[n.name] is not Timing.TEMPORAL:
            self.stem_macs += macs
            return _Signal(None, True)
        inputs = [self.env[source] for source in n.all_input_nodes]
        if role is Role.SPIKING:
            self._arrive(inputs)
            return self._source(n)
        if role is Role.SYNAPSE:
            return self._synapse(n, inputs[0], macs)
        if role is Role.WIRE:
            return self._wire(n, inputs)
        if role is Role.GATE and inputs[0].events is not None and not inputs[0].current:
            return self._gate(n, inputs[0])
        self.analog_macs[n.name] = max(macs, _elements(n))
        return _Signal(None, True)

    def _source(self, n: fx.Node) -> _Signal:
        shape = (1, *n.meta["tensor_meta"].shape[1:])
        events = torch.zeros(shape, dtype=torch.float64, device=self._device, requires_grad=True)
        self.sources[n.name] = events
        return _Signal(events, False)

    def _arrive(self, inputs: list[_Signal]) -> None:
        """Events that reach a neuron, a gate or the output without weights: one accumulate."""
        for signal in inputs:
            if signal.events is not None:
                self.accumulates = self.accumulates + signal.events.sum()

    def _synapse(self, n: fx.Node, signal: _Signal, macs: int) -> _Signal:
        if signal.current or signal.events is None:
            self.analog_macs[n.name] = macs
        else:
            reached = _with_unit_weights(self.module.get_submodule(str(n.target)), signal.events)
            self.accumulates = self.accumulates + reached.sum()
        return _Signal(None, True)

    def _gate(self, n: fx.Node, signal: _Signal) -> _Signal:
        arriving = self._events_through(n, signal.events)
        self.accumulates = self.accumulates + arriving.sum()
        return self._source(n)

    def _wire(self, n: fx.Node, inputs: list[_Signal]) -> _Signal:
        current = any(signal.current for signal in inputs)
        if all(signal.events is None for signal in inputs):
            return _Signal(None, current)
        if _blends(self.module, n):  # each value is a weighted sum: no longer whole spikes
            self._arrive(inputs)
            taps = 2 ** (len(n.meta["tensor_meta"].shape) - 2)
            self.analog_macs[n.name] = _elements(n) * taps
            return _Signal(None, True)
        if len(inputs) == 1:
            return _Signal(self._events_through(n, inputs[0].events), current)
        if n.target in JOINS:
            parts = [self._events_or_zeros(source) for source in cast(Any, n.args[0])]
            join = cast(Any, n.target)
            return _Signal(join(parts, *n.args[1:], **n.kwargs), current)
        shape = (1, *n.meta["tensor_meta"].shape[1:])
        events = [signal.events for signal in inputs if signal.events is not None]
        return _Signal(sum((e.expand(shape) for e in events[1:]), events[0].expand(shape)), current)

    def _events_or_zeros(self, source: fx.Node) -> Tensor:
        events: Tensor | None = self.env[source].events
        shape = (1, *source.meta["tensor_meta"].shape[1:])
        zeros = torch.zeros(shape, dtype=torch.float64, device=self._device)
        return zeros if events is None else events

    def _events_through(self, n: fx.Node, events: Tensor | None) -> Tensor:
        """Events behind a node without weights: each passes on to every cell it belongs to."""
        assert events is not None
        module = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        if isinstance(module, POOL_MODULES + MAX_POOL_MODULES):
            return _pool_sum(events, vars(module), n.meta["tensor_meta"].shape)
        if n.target in POOL_FUNCTIONS + MAX_POOL_FUNCTIONS:
            return _pool_sum(events, _pool_arguments(n), n.meta["tensor_meta"].shape)
        if isinstance(module, ADAPTIVE_POOL_MODULES) or n.target in ADAPTIVE_POOL_FUNCTIONS:
            return _adaptive_pool_sum(events, n.meta["tensor_meta"].shape[2:])
        if n.target in REDUCTIONS:
            keepdim = n.args[2] if len(n.args) > 2 else n.kwargs.get("keepdim", False)
            return events.sum(reduced_dims(n), keepdim=bool(keepdim))
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            return events
        if module is not None:
            return cast(Tensor, module(events))
        if _keeps_every_value(n):
            return events
        args, kwargs = fx.node.map_arg((n.args, n.kwargs), lambda _: events)
        target = cast(Any, n.target)
        if n.op == "call_method":
            return cast(Tensor, getattr(args[0], target)(*args[1:], **kwargs))
        return cast(Tensor, target(*args, **kwargs))

    def _macs(self, n: fx.Node) -> int:
        shape = (1, *n.all_input_nodes[0].meta["tensor_meta"].shape[1:])
        ones = torch.ones(shape, dtype=torch.float64, device=self._device)
        module = self.module.get_submodule(str(n.target))
        return round(float(_with_unit_weights(module, ones).sum()))

    def _dense_macs(self, n: fx.Node) -> int:
        module = self.module.get_submodule(str(n.target))
        out_shape = n.meta["tensor_meta"].shape[1:]
        if isinstance(module, nn.Linear):
            return int(out_shape.numel()) * module.in_features
        conv = cast(nn.Conv2d, module)
        kernel = int(torch.Size(conv.kernel_size).numel())
        if conv.transposed:
            positions = n.args[0].meta["tensor_meta"].shape[2:].numel()  # type: ignore[union-attr]
            return int(positions) * conv.in_channels * (conv.out_channels // conv.groups) * kernel
        return int(out_shape.numel()) * (conv.in_channels // conv.groups) * kernel


class _AnalogMacs(fx.Interpreter):
    """Runs the ANN on zeros and counts the MACs of the nodes that stay analog."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.module)
        self.extra_traceback = False
        self._roles = network.roles
        self.macs: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        if self._roles[n.name] is not Role.ANALOG:
            return super().run_node(n)
        with FlopCounterMode(display=False) as counter:
            result = super().run_node(n)
        self.macs[n.name] = counter.get_total_flops() // 2
        return result


def _macs_inside_analog_nodes(network: Network) -> dict[str, int]:
    """MACs of products inside each analog node (attention, matrix products), by node."""
    if not network.analog_nodes:
        return {}
    run = _AnalogMacs(network)
    device = next((p.device for p in network.module.parameters()), torch.device("cpu"))
    # Attention leaves its fast path, which the counter cannot look into, when grads are asked for.
    sample = network.sample(device)
    run.run(sample.requires_grad_(sample.dtype.is_floating_point))
    return run.macs


def _blends(module: nn.Module, n: fx.Node) -> bool:
    """Whether a node interpolates between values."""
    if n.op == "call_module":
        return getattr(module.get_submodule(str(n.target)), "mode", "nearest") != "nearest"
    return n.target is F.interpolate and _interpolation(n) != "nearest"


def _interpolation(n: fx.Node) -> str:
    return str(n.args[3] if len(n.args) > 3 else n.kwargs.get("mode", "nearest"))


def _with_unit_weights(module: nn.Module, events: Tensor) -> Tensor:
    weight = torch.ones_like(cast(Tensor, module.weight), dtype=events.dtype)
    if isinstance(module, nn.Linear):
        return F.linear(events, weight)
    conv = cast(Any, module)
    rank = weight.dim() - 2
    padding = conv.padding
    if conv.padding_mode != "zeros":
        events = F.pad(events, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = 0
    function: Any
    arguments: tuple[Any, ...]
    if conv.transposed:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        arguments = (conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation)
    else:
        function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        arguments = (conv.stride, padding, conv.dilation, conv.groups)
    reached: Tensor = function(events, weight, None, *arguments)
    return reached


def _pool_arguments(n: fx.Node) -> dict[str, Any]:
    names = ("input", "kernel_size", "stride", "padding")
    given = dict(zip(names, n.args, strict=False)) | dict(n.kwargs)
    if n.target in POOL_FUNCTIONS and len(n.args) > 4:
        given["ceil_mode"] = n.args[4]
    if n.target in MAX_POOL_FUNCTIONS:
        given.update(dict(zip(("dilation", "ceil_mode"), n.args[4:], strict=False)))
    return given


def _pool_sum(events: Tensor, options: dict[str, Any], shape: torch.Size) -> Tensor:
    """Sum of the events in each window of a pool whose output has ``shape``."""
    rank = events.dim() - 2
    kernel = _per_axis(options["kernel_size"], rank)
    stride = _per_axis(options.get("stride") or options["kernel_size"], rank)
    padding = _per_axis(options.get("padding") or 0, rank)
    dilation = _per_axis(options.get("dilation") or 1, rank)
    if options.get("ceil_mode"):
        events = F.pad(events, [v for s in reversed(stride) for v in (0, s - 1)])
    channels = events.shape[1]
    weight = torch.ones((channels, 1, *kernel), dtype=events.dtype, device=events.device)
    function = cast(Any, (F.conv1d, F.conv2d, F.conv3d)[rank - 1])
    sums = function(events, weight, None, stride, padding, dilation, groups=channels)
    # With ceil_mode torch leaves out a last window that would begin in the padding.
    return cast(Tensor, sums[(..., *(slice(size) for size in shape[2:]))])


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value) * (rank // len(value))


def _adaptive_pool_sum(events: Tensor, size: torch.Size) -> Tensor:
    """Sum of the events in each window of an adaptive pool, axis by axis."""
    for axis, cells in enumerate(size):
        length = events.shape[axis + 2]
        member = torch.zeros((length, cells), dtype=events.dtype, device=events.device)
        for cell in range(cells):
            member[cell * length // cells : -(-(cell + 1) * length // cells), cell] = 1
        events = (events.movedim(axis + 2, -1) @ member).movedim(-1, axis + 2)
    return events


def _keeps_every_value(n: fx.Node) -> bool:
    """Sums with a constant and products with a factor: as many events out as in."""
    return n.target in (*SUMS, *SCALES, *NEGATIONS, "add", "sub", "mul", "div")


def _elements(n: fx.Node) -> int:
    return int(n.meta["tensor_meta"].shape[1:].numel())
