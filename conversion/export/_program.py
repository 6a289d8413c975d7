"""A spiking model as a short list of plain layers that other programs support.

Spikes are units: a neuron sends how many times it fired, its threshold is 1, and what one spike is
worth is folded into the weights that it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx

from conversion._errors import ConversionError
from conversion.graph import is_size
from conversion.graph._operations import CONVOLUTIONS, argument, name_of, varying
from conversion.simulation import SpikingModel

Kind = Literal[
    "input",
    "conv",
    "linear",
    "sum",
    "scale",
    "average",
    "total",
    "largest",
    "flatten",
    "fire",
    "output",
]


class ExportError(ConversionError):
    """A format cannot represent a model."""


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """A layer of neurons: ``v += x; n = clip(floor(v / V), 0, φ); v -= n·V``.

    Attributes:
        phi: Maximum spikes per step.
        threshold: V, ``(C,)``: 1, unless spikes arrive by a shortcut whose units it then takes.
        v_init: Potential before the first step, ``(C, ...)``, one per neuron.
        bias: Added at every step, ``(C,)``; zeros where a layer before could take it.
        signed: Whether it fires −1 when it has fired too much (dual threshold).
        ceiling: Maximum number of spikes fired by each step, ``(T, C)``, or None.
        size: Value of one spike in the ANN's units, ρ·θ, ``(C,)``.
    """

    phi: int
    threshold: Tensor
    v_init: Tensor
    bias: Tensor
    signed: bool
    ceiling: Tensor | None
    size: Tensor


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        name: As in the network.
        kind: What it does: ``conv`` of any rank, ``linear``, ``sum`` of its inputs, ``scale`` each
            channel, ``average``, ``total`` or ``largest`` of windows, ``flatten``, ``fire``.
        inputs: Names of the layers that it reads.
        shape: Of its output, one sample, ``(C, ...)``.
        weight: Of ``conv`` ``(out, in/groups, ...)`` and ``linear`` ``(out, in)``; ``(C,)`` of
            ``scale``.
        bias: ``(out,)``, added at every step.
        stride, padding, dilation, kernel: Per axis.
        groups: Of a convolution.
        neuron: Of ``fire``.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    weight: Tensor | None = None
    bias: Tensor | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    groups: int = 1
    neuron: Neuron | None = None


@dataclass(frozen=True)
class Program:
    """Layers in order of execution, from one ``input`` to one ``output``.

    Attributes:
        layers: By name.
        timesteps: T.
        over_time: Whether the input is another one at each step.
        events: Whether the input is counts of spikes.
    """

    layers: Mapping[str, Layer] = field(default_factory=dict)
    timesteps: int = 1
    over_time: bool = False
    events: bool = False

    def users(self, name: str) -> list[Layer]:
        """The layers that read one."""
        return [layer for layer in self.layers.values() if name in layer.inputs]

    @property
    def fires(self) -> list[Layer]:
        """The layers of neurons."""
        return [layer for layer in self.layers.values() if layer.kind == "fire"]

    @property
    def input(self) -> Layer:
        """The input."""
        return next(layer for layer in self.layers.values() if layer.kind == "input")

    @property
    def output(self) -> Layer:
        """The output."""
        return next(layer for layer in self.layers.values() if layer.kind == "output")


def program_of(model: SpikingModel, *, plain_shortcuts: bool = False) -> Program:
    """A spiking model as plain layers with unit spikes.

    Convolutions, linear layers, sums, average and max pooling, and flattening are known; one
    input, one output.

    Args:
        model: The model.
        plain_shortcuts: Whether spikes of a shortcut meet the sum as they are, and the threshold
            behind it is in their units; otherwise they are scaled, and every threshold is 1.

    Raises:
        ExportError: The network has another operation; the message names it.
    """
    network = model.synapses
    if len(network.output_names) != 1 or len(network.inputs.tensors) != 1:
        raise ExportError("only networks with one input and one output can be exported")
    layers: dict[str, Layer] = {}
    place: dict[fx.Node, str] = {}
    reader = _Reader(model, place)
    for node in network.graph.nodes:
        if node.op == "output":
            source = place[network.output_leaves[next(iter(network.output_names.values()))]]
            shape = layers[source].shape
            layers["output"] = Layer(name="output", kind="output", inputs=(source,), shape=shape)
        elif node.op != "get_attr" and not is_size(node) and node.meta["varies"]:
            layer = reader.layer(node)
            place[node] = layer.name
            layers[layer.name] = layer
    raw = Program(
        layers, model.config.timesteps, network.feed != "static", network.feed == "events"
    )
    return _Normaliser(raw, plain_shortcuts).unit_spikes()


class _Reader:
    """The layers of ATen nodes."""

    def __init__(self, model: SpikingModel, place: Mapping[fx.Node, str]) -> None:
        self._model, self._network = model, model.synapses
        self._place = place
        self._sites = {site.node: site for site in self._network.sites.values()}

    def layer(self, node: fx.Node) -> Layer:
        """The layer of a node that depends on the samples."""
        site = self._sites.get(node.name)
        kind = "fire" if site else _KINDS.get(name_of(node))
        if node.op == "placeholder":
            kind = "input"
        if kind is None or not self._network.axes[node.name].is_first:
            raise self._unknown(node)
        inputs = tuple(self._place[source] for source in varying(node))
        shape = self._network.sample_shape(node)
        common: dict[str, Any] = {"name": node.name, "kind": kind, "inputs": inputs, "shape": shape}
        read: Callable[[fx.Node], dict[str, Any]] = getattr(self, f"_{kind}", lambda node: {})
        return Layer(**common, **read(node))

    def _unknown(self, node: fx.Node) -> ExportError:
        return ExportError(
            f"{node.name!r} is {name_of(node)}, which these formats do not know; they know"
            " convolutions, linear layers, sums, average and max pooling and flattening"
        )

    def _constant(self, node: Any) -> Tensor | None:
        return None if node is None else self._network.constant(node).detach().double().cpu()

    def _conv(self, node: fx.Node) -> dict[str, Any]:
        weight = self._constant(node.args[1])
        assert weight is not None
        rank = weight.dim() - 2
        padding = argument(node, 4, "padding", 0)
        if padding == "valid":
            padding = 0
        dilation = _each(argument(node, 5, "dilation", 1), rank)
        stride = _each(argument(node, 3, "stride", 1), rank)
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if any(n % 2 for n in total):
                raise self._unknown(node)
            padding = [n // 2 for n in total]
        return {
            "weight": weight,
            "bias": self._constant(argument(node, 2, "bias")),
            "stride": stride,
            "padding": _each(padding, rank),
            "dilation": dilation,
            "kernel": tuple(weight.shape[2:]),
            "groups": int(argument(node, 6, "groups", 1)),
        }

    def _linear(self, node: fx.Node) -> dict[str, Any]:
        if len(self._network.sample_shape(node)) != 1:
            raise self._unknown(node)
        weight, bias = node.args[1], argument(node, 2, "bias")
        return {"weight": self._constant(weight), "bias": self._constant(bias)}

    def _sum(self, node: fx.Node) -> dict[str, Any]:
        shapes = {self._network.sample_shape(source) for source in varying(node)}
        operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
        plain = len(operands) == 2 and argument(node, 2, "alpha", 1) == 1
        if not plain or len(shapes) != 1 or any(n not in self._place for n in operands):
            raise self._unknown(node)
        return {}

    def _average(self, node: fx.Node) -> dict[str, Any]:
        before = self._network.sample_shape(varying(node)[0])
        rank = len(before) - 1
        if name_of(node).startswith("avg_pool"):
            kernel = _each(node.args[1], rank)
            stride = _each(argument(node, 2, "stride", None) or kernel, rank)
            padding = _each(argument(node, 3, "padding", 0), rank)
            odd = argument(node, 4, "ceil_mode", False) or argument(node, 6, "divisor_override")
            if odd or (any(padding) and not argument(node, 5, "count_include_pad", True)):
                raise self._unknown(node)
            return {"kernel": kernel, "stride": stride, "padding": padding}
        after = self._network.sample_shape(node)
        if name_of(node) == "mean":
            after = (after[0], *[1] * rank)
            dims = {int(d) % (rank + 2) for d in argument(node, 1, "dim", ())}
            if dims != set(range(2, rank + 2)):
                raise self._unknown(node)
        if any(n % m for n, m in zip(before[1:], after[1:], strict=True)):
            raise self._unknown(node)
        kernel = tuple(n // m for n, m in zip(before[1:], after[1:], strict=True))
        return {"kernel": kernel, "stride": kernel, "padding": (0,) * rank}

    def _largest(self, node: fx.Node) -> dict[str, Any]:
        rank = len(self._network.sample_shape(node)) - 1
        kernel = _each(node.args[1], rank)
        if argument(node, 5, "ceil_mode", False):
            raise self._unknown(node)
        return {
            "kernel": kernel,
            "stride": _each(argument(node, 2, "stride", None) or kernel, rank),
            "padding": _each(argument(node, 3, "padding", 0), rank),
            "dilation": _each(argument(node, 4, "dilation", 1), rank),
        }

    def _flatten(self, node: fx.Node) -> dict[str, Any]:
        before = self._network.sample_shape(varying(node)[0])
        after = self._network.sample_shape(node)
        if len(after) != 1 and tuple(n for n in before if n != 1) != tuple(
            n for n in after if n != 1
        ):
            raise self._unknown(node)
        return {}

    def _fire(self, node: fx.Node) -> dict[str, Any]:
        site = self._sites[node.name]
        if site.channels != 1:
            raise self._unknown(node)
        neuron = self._model.neurons[site.name]
        if not vars(type(neuron)).get("described", False):
            raise ExportError(
                f"{type(neuron).__name__} is a custom neuron, which these formats do not support"
            )
        size = neuron.threshold.detach().double().cpu()
        shape = self._network.sample_shape(node)
        v_init = neuron.v_init.detach().double().cpu().expand(shape).clone()
        ceiling = None
        if neuron.ceiling is not None:  # worked out as the engine does, as it may meet a half
            limit, size_ = neuron.ceiling, neuron.threshold.detach().cpu()
            steps = range(1, self._model.config.timesteps + 1)
            ceiling = torch.stack([((t * limit) / size_ + 0.5).floor() for t in steps])
        found = Neuron(
            phi=neuron.phi,
            threshold=torch.ones_like(size),
            v_init=v_init,
            bias=neuron.bias.detach().double().cpu(),
            signed=neuron.signed,
            ceiling=ceiling,
            size=size,
        )
        return {"neuron": found}


_KINDS: dict[str, Kind] = {
    **dict.fromkeys([name for name in CONVOLUTIONS if "transpose" not in name], "conv"),
    "linear": "linear",
    "add": "sum",
    **dict.fromkeys([f"{kind}_pool{n}d" for kind in ("avg", "adaptive_avg") for n in "123"],
                    "average"),
    "mean": "average",
    **dict.fromkeys([f"max_pool{n}d" for n in "123"], "largest"),
    "flatten": "flatten",
    "reshape": "flatten",
    "view": "flatten",
}  # fmt: skip


def _each(value: Any, rank: int) -> tuple[int, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(int(v) for v in (values * rank if len(values) == 1 else values))


class _Normaliser:
    """Folds what a spike is worth into the weights before and after each layer of neurons."""

    def __init__(self, program: Program, plain_shortcuts: bool) -> None:
        self._program = program
        self._plain_shortcuts = plain_shortcuts
        self._layers = dict(program.layers)

    def unit_spikes(self) -> Program:
        """The same program with thresholds of 1 and spikes that are counts."""
        worth: dict[str, Tensor] = {}
        for layer in list(self._program.layers.values()):
            self._take(layer, worth)
            if layer.kind == "fire":
                assert layer.neuron is not None
                worth[layer.name] = layer.neuron.size
                self._divide_current(layer)
            elif layer.kind in ("average", "largest", "flatten") and layer.inputs[0] in worth:
                worth[layer.name] = self._carried(layer, worth[layer.inputs[0]])
        return replace(self._program, layers=self._in_order())

    def _take(self, layer: Layer, worth: Mapping[str, Tensor]) -> None:
        """What a layer gets from spikes is worth something: into its weights, or a layer before."""
        if layer.kind in ("conv", "linear") and layer.inputs[0] in worth:
            assert layer.weight is not None
            size = worth[layer.inputs[0]]
            by_group = size.view(layer.groups, -1).repeat_interleave(
                layer.weight.shape[0] // layer.groups, 0
            )
            weight = layer.weight * by_group.view(*by_group.shape, *[1] * (layer.weight.dim() - 2))
            self._layers[layer.name] = replace(layer, weight=weight)
        elif layer.kind in ("sum", "fire", "output"):
            inputs = [
                self._scaled(name, worth[name], layer.name) if name in worth else name
                for name in layer.inputs
            ]
            self._layers[layer.name] = replace(layer, inputs=tuple(inputs))

    def _scaled(self, source: str, factor: Tensor, user: str) -> str:
        """A layer of its own that multiplies each channel."""
        name = f"{source} to {user}"
        shape = self._layers[source].shape
        self._layers[name] = Layer(
            name=name, kind="scale", inputs=(source,), shape=shape, weight=factor
        )
        return name

    def _carried(self, layer: Layer, size: Tensor) -> Tensor:
        if layer.kind != "flatten":
            return size
        before = self._layers[layer.inputs[0]].shape
        return size.view(-1, *[1] * (len(before) - 1)).expand(before).reshape(-1)

    def _divide_current(self, layer: Layer) -> None:
        """Thresholds of 1: what arrives is divided by the threshold, its bias too."""
        neuron = layer.neuron
        assert neuron is not None
        fire = self._layers[layer.name]
        unit = self._unit(fire.inputs[0], neuron.size)
        source = self._divided(fire.inputs[0], 1.0 / unit, layer.name)
        bias = neuron.bias / unit
        bias = bias if not bias.any() else self._with_bias(source, bias)
        threshold = neuron.size / unit
        v_init = neuron.v_init * threshold.view(-1, *[1] * (neuron.v_init.dim() - 1))
        found = replace(neuron, bias=bias, threshold=threshold, v_init=v_init)
        self._layers[layer.name] = replace(fire, inputs=(source,), neuron=found)

    def _unit(self, source: str, size: Tensor) -> Tensor:
        """What the potential of a layer is counted in: the shortcut's spikes, or its own."""
        summed = [self._layers[name] for name in self._layers[source].inputs]
        shortcuts = [s for s in summed if s.kind == "scale"]
        if self._plain_shortcuts and self._layers[source].kind == "sum" and len(shortcuts) == 1:
            assert shortcuts[0].weight is not None
            return shortcuts[0].weight
        return size

    def _divided(self, source: str, factor: Tensor, user: str) -> str:
        layer = self._layers[source]
        alone = len([one for one in self._layers.values() if source in one.inputs]) == 1
        if alone and layer.kind in ("conv", "linear"):
            assert layer.weight is not None
            weight = layer.weight * factor.view(-1, *[1] * (layer.weight.dim() - 1))
            bias = None if layer.bias is None else layer.bias * factor
            self._layers[source] = replace(layer, weight=weight, bias=bias)
            return source
        if alone and layer.kind == "scale":
            assert layer.weight is not None
            weight = layer.weight * factor
            if layer.bias is None and float((weight - 1).abs().max()) < 1e-12:
                del self._layers[source]
                return layer.inputs[0]
            self._layers[source] = replace(layer, weight=weight)
            return source
        if alone and layer.kind == "sum":
            inputs = tuple(self._divided(name, factor, source) for name in layer.inputs)
            self._layers[source] = replace(layer, inputs=inputs)
            return source
        if alone and layer.kind == "average":
            inputs = (self._divided(layer.inputs[0], factor, source),)
            self._layers[source] = replace(layer, inputs=inputs)
            return source
        return self._scaled(source, factor, user)

    def _with_bias(self, source: str, bias: Tensor) -> Tensor:
        """Give a bias to the layer that makes the current; what is left of it, if none can."""
        layer = self._layers[source]
        alone = len([one for one in self._layers.values() if source in one.inputs]) == 1
        if alone and layer.kind in ("conv", "linear", "scale"):
            found = bias if layer.bias is None else layer.bias + bias
            self._layers[source] = replace(layer, bias=found)
            return torch.zeros_like(bias)
        if alone and layer.kind == "sum":
            return self._with_bias(layer.inputs[0], bias)
        return bias

    def _in_order(self) -> dict[str, Layer]:
        """Each layer after those that it reads."""
        ordered: dict[str, Layer] = {}

        def place(name: str) -> None:
            if name not in ordered:
                for source in self._layers[name].inputs:
                    place(source)
                ordered[name] = self._layers[name]

        for name in self._program.layers:
            place(name)
        return ordered
