"""The captured, folded, classified network that every pass runs on."""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sympy
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from conversion._errors import ConfigError, ConversionError
from conversion.graph._batch import Axis, reshaped
from conversion.graph._inputs import Feed, Inputs, laid_out, wide
from conversion.graph._labels import labels_of
from conversion.graph._normalise import describe, is_size, sizes_of
from conversion.graph._operations import (
    GATES,
    PRODUCTS,
    WIRES,
    Role,
    argument,
    ceiling_of,
    channel_dim,
    is_relu,
    name_of,
    operands,
    pool_rank,
    varying,
    weight_of,
)


class Timing(enum.Enum):
    """What a node's value depends on."""

    CONSTANT = 0  # nothing
    SIZED = 1  # the size of the batch: zeros for every sample, positions of samples
    STATIC = 2  # the sample
    TEMPORAL = 3  # the sample and the step


@dataclass(frozen=True, kw_only=True)
class SpikingSite:
    """A place where the ANN had a ReLU-like activation.

    Attributes:
        name: Fully qualified name; a module's second call gets the suffix ``_1``.
        node: Name of the node in the graph.
        shape: Shape of one sample's activation: ``(C, ...)``, behind a linear layer ``(..., C)``.
        channels: Which dimension of a batch of activations ``(N, ...)`` holds the channels.
        ceiling: Upper clip of the activation (6 for ReLU6), or None.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    channels: int
    ceiling: float | None

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.shape[self.channels - 1] if self.shape else 1

    def to_channels(self, x: Tensor) -> Tensor:
        """Values ``(N, ...)`` as ``(N, C, ...)``."""
        return x.movedim(self.channels, 1) if self.shape else x.unsqueeze(1)

    def from_channels(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`to_channels`."""
        return x.movedim(1, self.channels) if self.shape else x.squeeze(1)


class Network:
    """A network captured in evaluation mode: BatchNorm folded, nodes classified.

    Attributes:
        graph: ATen operations.
        constants: Weights and other tensors by the names of the ``get_attr`` nodes.
        roles: Role of each node, by node name. A name is that of the node's module, followed by its
            operation if the module has several.
        timing: Timing of each node, by node name.
        axes: The sample dimension of each node's value, by node name.
        sites: The spiking layers in order of execution, by layer name.
        discrete: Names of nodes that change from step to step and return indices or booleans.
        fingerprint: SHA-256 of the model's operations and all tensors they use.
        inputs: Two or three sample inputs of the ANN, for their structure, shapes and types.
        feed: How inputs arrive over time.
        outputs: Structure of the outputs.
    """

    def __init__(
        self,
        graph: fx.Graph,
        constants: dict[str, Tensor],
        *,
        inputs: Inputs,
        outputs: pytree.TreeSpec,
        fingerprint: str,
        feed: Feed = "static",
    ) -> None:
        self.graph = graph
        self.constants = constants
        self.fingerprint = fingerprint
        self.inputs = inputs
        self.outputs = outputs
        self.feed = feed
        self.roles: dict[str, Role] = {}
        self.timing: dict[str, Timing] = {}
        self.axes: dict[str, Axis] = {}
        self._sizes: dict[tuple[fx.Node, int], int] = {}
        self._batch, self._same = _batch_symbols(graph)
        for node in graph.nodes:
            self._classify(node)
        self._rename(labels_of(graph, self.roles))
        self.discrete = {
            node.name
            for node in graph.nodes
            if self.timing[node.name] is Timing.TEMPORAL and _is_discrete(node)
        }
        self.sites = {site.name: site for site in self._sites()}

    @property
    def analog_nodes(self) -> list[str]:
        """Names of nodes that are neither linear nor ReLU-like and cost MACs at every step."""
        return [name for name, role in self.roles.items() if role is Role.ANALOG]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        for constant in self.constants.values():
            return constant.device
        return self.inputs.device  # slower to find, and asked at every node

    def constant(self, node: fx.Node) -> Tensor:
        """The value of a ``get_attr`` node."""
        return self.constants[str(node.target)]

    def size(self, node: fx.Node, samples: int) -> Any:
        """The value of a node that computes a size, for the given number of samples."""
        if (node, samples) not in self._sizes:
            self._sizes[node, samples] = self._evaluate(node.meta["val"], samples)
        return self._sizes[node, samples]

    def sample_shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of one sample of a node's value, without the sample dimension."""
        sizes = [1 if isinstance(n, torch.SymInt) else int(n) for n in sizes_of(node)]
        return self.axes[node.name].shape(sizes)

    def to(self, device: torch.device | str) -> Network:
        """This network on another device."""
        moved = copy.copy(self)
        moved.constants = {name: value.to(device) for name, value in self.constants.items()}
        moved.inputs = self.inputs.to(device)
        return moved

    def take(self, given: Any) -> Inputs:
        """Validate a user's inputs and convert them to the form that is simulated.

        Raises:
            ConversionError: Their shapes, types or structure differ, or there are no samples.
        """
        inputs = Inputs.of(given)
        inputs.check()
        if self.feed != "static":
            return self._sequence(inputs)
        if inputs.signature() == self.inputs.signature():
            return inputs.simulated()
        expected, found = self.inputs.tensors, inputs.tensors
        same = len(expected) == len(found) and all(
            x.shape[1:] == y.shape[1:] for x, y in zip(expected, found, strict=True)
        )
        if not same:
            raise ConversionError(
                f"inputs must have the shape {self.inputs.describe()} that the network was"
                f" profiled with, got {', '.join(str(tuple(x.shape)) for x in found)}"
            )
        for x, y in zip(expected, found, strict=True):
            if x.is_floating_point() != y.is_floating_point():
                raise ConversionError(
                    f"inputs must be {x.dtype}, as the network was profiled with, got {y.dtype}"
                )
        cast_ = [y.to(x.dtype) for x, y in zip(expected, found, strict=True)]
        made = inputs.with_tensors(cast_)
        if made.signature() != self.inputs.signature():
            raise ConversionError(
                "inputs must have the structure that the network was profiled with: the same"
                " arguments, keywords and flags"
            )
        return made.simulated()

    def _sequence(self, inputs: Inputs) -> Inputs:
        expected, found = self.inputs.tensors, inputs.tensors
        lengths = {x.shape[1] for x in found if x.dim() > 1}
        same = (
            len(expected) == len(found)
            and len(lengths) == 1
            and all(x.shape[1:] == y.shape[2:] for x, y in zip(expected, found, strict=True))
        )
        if not same:
            shapes = self.inputs.describe().replace("(N", "(N, T")
            raise ConversionError(
                f"inputs over time must have the shape {shapes}, one frame per step, got"
                f" {', '.join(str(tuple(x.shape)) for x in found)}"
            )
        floats = [y.to(wide(x.dtype)) for x, y in zip(expected, found, strict=True)]
        if self.feed == "events" and any(bool(((x < 0) | (x != x.round())).any()) for x in floats):
            raise ConversionError(
                "events are counts, whole numbers of 0 and more; for other values use feed='frames'"
            )
        return inputs.with_tensors([x.contiguous() for x in floats])

    def still(self, inputs: Inputs) -> Inputs:
        """The ANN's view of inputs from :meth:`take`: their mean, if they vary over time."""
        if self.feed == "static":
            return inputs
        return inputs.with_tensors([laid_out(x.mean(1)) for x in inputs.tensors])

    def structured(self, outputs: Sequence[Any]) -> Any:
        """Outputs in the model's own structure."""
        return pytree.tree_unflatten(list(outputs), self.outputs)

    @property
    def output_leaves(self) -> tuple[Any, ...]:
        """The leaves of the output structure, in order: nodes or constants."""
        leaves: Any = self.graph.output_node().args[0]
        return tuple(leaves)

    @property
    def output_names(self) -> dict[str, int]:
        """Names and positions of outputs that are tensors of samples: ``out``, ``0``, ``a.b``."""
        places = pytree.tree_unflatten(list(range(len(self.output_leaves))), self.outputs)
        paths = pytree.tree_leaves_with_path(places)
        return {_dotted(path): i for path, i in paths if self.output_axis(i) is not None}

    def answers(self, outputs: Sequence[Any]) -> dict[str, Tensor]:
        """Outputs by name, in the order of their structure and with samples first."""
        return {name: outputs[place] for name, place in self.output_names.items()}

    def output_axis(self, index: int) -> Axis | None:
        """The sample dimension of an output, or None if it does not depend on the samples."""
        leaf = self.output_leaves[index]
        return self.axes.get(leaf.name) if isinstance(leaf, fx.Node) else None

    def synapse_weights(self) -> dict[str, Tensor]:
        """The weights of synapses by name, each tensor once."""
        found: dict[str, Tensor] = {}
        for node in self.graph.nodes:
            if self.roles[node.name] is not Role.SYNAPSE:
                continue
            weight = weight_of(node)
            if weight is not None and not any(
                self.constant(weight) is other for other in found.values()
            ):
                found[str(weight.target)] = self.constant(weight)
        return found

    def with_weights(self, weights: Mapping[str, Tensor]) -> Network:
        """A copy with some constants replaced, by name.

        Raises:
            ConfigError: A parameter is unknown or has another shape.
        """
        changed = copy.copy(self)
        changed.constants = dict(self.constants)
        for name, value in weights.items():
            old = self.constants.get(name)
            if old is None or old.shape != value.shape:
                raise ConfigError(f"the network has no parameter {name!r} of {tuple(value.shape)}")
            new = value.to(old)
            if new.stride() != old.stride():  # convolutions are faster in the layout of before
                new = torch.empty_like(old).copy_(new)
            changed.constants |= {n: new for n, c in self.constants.items() if c is old}
        return changed

    def _rename(self, labels: Mapping[str, str]) -> None:
        """Give every operation the name that a user knows it by."""
        for known in (self.roles, self.timing, self.axes):
            values: dict[str, Any] = cast(Any, known)
            renamed = {labels[name]: value for name, value in values.items()}
            values.clear()
            values.update(renamed)
        for node in self.graph.nodes:
            node.name = labels[node.name]

    def _classify(self, node: fx.Node) -> None:
        inputs = [self.timing[source.name] for source in node.all_input_nodes]
        timing = max(inputs, key=lambda t: t.value, default=Timing.CONSTANT)
        if node.op == "placeholder":
            timing = Timing.STATIC if self.feed == "static" else Timing.TEMPORAL
        elif is_size(node):
            timing = Timing.SIZED
        self.timing[node.name] = timing
        node.meta["varies"] = timing.value >= Timing.STATIC.value and not is_size(node)
        node.meta["axis"] = None
        if node.meta["varies"] and node.op != "output":
            node.meta["axis"] = self.axes[node.name] = self._axis(node)
        self.roles[node.name] = self._role(node)
        if self.roles[node.name] is Role.SPIKING:
            self.timing[node.name] = Timing.TEMPORAL

    def _axis(self, node: fx.Node) -> Axis:
        """Where the samples are, by the symbolic sizes.

        Raises:
            ConversionError: They are not in one dimension, or no longer apart.
        """
        if not isinstance(node.meta.get("val"), Tensor):
            raise ConversionError(f"{describe(node)} gives something else than one tensor")
        sizes = sizes_of(node)
        open_ = [i for i, size in enumerate(sizes) if isinstance(size, torch.SymInt)]
        if any(sizes[i].node.expr.free_symbols - set(self._same) for i in open_):
            raise ConversionError(
                f"{describe(node)} gives as many values as other values decide; use masks, such as"
                " torch.where, that keep the shape"
            )
        factors = [self._factor(sizes[i]) for i in open_]
        if len(open_) != 1 or factors[0] is None:
            shape = tuple("N" if i in open_ else int(n) for i, n in enumerate(sizes))
            raise ConversionError(
                f"{describe(node)} mixes the samples of a batch: it gives {_shown(shape)} for N"
                " samples; keep one dimension for the samples"
            )
        dim, factor = open_[0], factors[0]
        if node.op == "placeholder":
            return Axis(0)
        before = [self.axes[source.name] for source in varying(node)]
        found: Axis | None
        if name_of(node) == "reshape":
            source = varying(node)[0]
            plain = [1 if isinstance(n, torch.SymInt) else int(n) for n in sizes_of(source)]
            plain[before[0].dim] = before[0].outer * before[0].inner
            after = [factor if i == dim else int(n) for i, n in enumerate(sizes)]
            found = reshaped(before[0], plain, after, dim)
        elif name_of(node) == "embedding_bag":
            found = Axis(dim) if factor == 1 else None
        elif name_of(node) == "repeat_interleave" and factor % before[0].outer == 0:
            found = Axis(dim, before[0].outer, factor // before[0].outer)
        else:
            inner = {axis.inner for axis in before}
            one = len(inner) == 1 and factor % min(inner) == 0
            found = Axis(dim, factor // min(inner), min(inner)) if one else None
        if found is None:
            raise ConversionError(
                f"{describe(node)} moves values from sample to sample; keep one dimension for the"
                " samples"
            )
        return found

    def _factor(self, size: torch.SymInt) -> int | None:
        """The k of a size k·N, or None if the size is something else."""
        ratio = sympy.simplify(size.node.expr.xreplace(self._same) / self._batch)
        return int(ratio) if ratio.is_Integer and ratio > 0 else None

    def _evaluate(self, value: Any, samples: int) -> Any:
        if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return value
        expression = value.node.expr.xreplace(self._same)
        found = expression.xreplace({self._batch: sympy.Integer(samples)})
        kinds = ((torch.SymInt, int), (torch.SymFloat, float), (torch.SymBool, bool))
        return next(kind(found) for symbolic, kind in kinds if isinstance(value, symbolic))

    def _role(self, node: fx.Node) -> Role:
        if node.op != "call_function" or not node.meta["varies"]:
            return Role.PLAIN
        if _is_discrete(node) or any(_is_discrete(source) for source in varying(node)):
            return Role.ANALOG
        name = name_of(node)
        if is_relu(node, self.constant):
            return Role.SPIKING
        if name in PRODUCTS:
            return Role.SYNAPSE if _has_weights(node) else Role.ANALOG
        if name in WIRES:
            return Role.WIRE if WIRES[name].linear(node) else Role.ANALOG
        if name in GATES and len(sizes_of(node)) == pool_rank(node) + 2:
            return Role.GATE if self._carries_spikes(varying(node)[0]) else Role.ANALOG
        return Role.ANALOG

    def _carries_spikes(self, node: fx.Node) -> bool:
        """Whether a node gives whole spikes of one size per channel, ``(N, C, ...)``."""
        if not self.axes[node.name].is_first:
            return False
        if node.op == "placeholder":
            return self.feed == "events" and len(sizes_of(node)) > 2
        if name_of(node) in ("cat", "concat", "concatenate"):
            dim = int(argument(node, 1, "dim", 0)) % len(sizes_of(node))
            return dim == 1 and all(
                source in varying(node) and self._carries_spikes(source)
                for source in node.all_input_nodes
            )
        if self.roles[node.name] is Role.SPIKING:
            return self._channels(node) == 1 and len(sizes_of(node)) > 2
        return self.roles[node.name] is Role.GATE

    def _channels(self, node: fx.Node) -> int:
        """Which dimension holds the channels of a spiking layer, with the samples in front.

        Those of the layer before it, looked for upwards through what leaves that dimension as it
        is; without one, the first dimension after the samples.
        """
        axis, sizes = self.axes[node.name], sizes_of(node)
        kept = (axis.outer > 1) + (axis.inner > 1)
        waiting, seen = list(varying(node)), {node}
        while waiting:
            source = waiting.pop(0)
            if source in seen or source.op != "call_function":
                continue
            seen.add(source)
            if self.roles[source.name] is Role.SYNAPSE:
                dim = _matching(channel_dim(source), sizes_of(source), sizes)
                if dim is not None and dim != axis.dim:
                    return dim + (1 if dim < axis.dim else kept)
                continue
            moves = name_of(source) in WIRES and WIRES[name_of(source)].moves
            if not moves or name_of(source) == "reshape":
                waiting += varying(source)
        return min(1 + kept, len(self.sample_shape(node)))

    def _sites(self) -> list[SpikingSite]:
        return [
            SpikingSite(
                name=node.name,
                node=node.name,
                shape=self.sample_shape(node),
                channels=self._channels(node),
                ceiling=ceiling_of(node),
            )
            for node in self.graph.nodes
            if self.roles[node.name] is Role.SPIKING
        ]


def _dotted(path: Iterable[Any]) -> str:
    """The way to an output: keys, positions and attributes joined by points."""
    kinds = {pytree.MappingKey: "key", pytree.SequenceKey: "idx", pytree.GetAttrKey: "name"}
    return ".".join(str(getattr(key, kinds[type(key)])) for key in path) or "output"


def _shown(shape: Sequence[Any]) -> str:
    return f"({', '.join(map(str, shape))})"


def _is_discrete(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return False
    dtype: torch.dtype = value.dtype
    return not (dtype.is_floating_point or dtype.is_complex)


def _has_weights(node: fx.Node) -> bool:
    """Whether a product has one factor that varies, and constants beside it."""
    factors = operands(node)
    several = [f for f in factors if isinstance(f, fx.Node) and f.meta["varies"]]
    rest = [n for n in node.all_input_nodes if n not in several]
    constant = bool(rest) and all(n.op == "get_attr" for n in rest)
    return len(several) == 1 < len(factors) and constant


def _matching(dim: int, before: Sequence[Any], after: Sequence[Any]) -> int | None:
    """Where a dimension of one shape is in another, if what lies between may have left it there."""
    size = before[dim]
    if len(before) == len(after) and after[dim] == size:
        return dim
    is_last = dim == len(before) - 1
    return len(after) - 1 if is_last and after[-1] == size else None


def _batch_symbols(graph: fx.Graph) -> tuple[sympy.Symbol, dict[Any, Any]]:
    """The symbol of the size of the batch, and those that stand for the same.

    Raises:
        ConversionError: The model takes some sizes of the batch only.
    """
    entries = [node for node in graph.nodes if node.op == "placeholder"]
    found = sorted({sizes_of(entry)[0].node.expr for entry in entries}, key=str)
    for expression in found:
        if not isinstance(expression, sympy.Symbol):
            raise ConversionError(
                f"the model takes {expression} samples at a time; it must not divide the batch into"
                " parts"
            )
    return found[0], dict.fromkeys(found, found[0])
