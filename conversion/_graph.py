"""From an ``nn.Module`` to the traced, folded, classified network that every pass runs on."""

from __future__ import annotations

import copy
import enum
import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from conversion._errors import ConfigError, ConversionError
from conversion._rewrite import (
    NORMS,
    SYNAPSE_MODULES,
    for_each_sample,
    reshape_samples,
    rewrite,
    shape_of,
)

POOL_MODULES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE_POOL_MODULES = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
MAX_POOL_MODULES = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MOVING_MODULES = (
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d,
    nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d,
    nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.ChannelShuffle, nn.Upsample,
)  # fmt: skip
_WIRE_MODULES = (*POOL_MODULES, *ADAPTIVE_POOL_MODULES, *NORMS, *_MOVING_MODULES)
_RELU_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh)

POOL_FUNCTIONS: tuple[Callable[..., Any], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
ADAPTIVE_POOL_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
)
MAX_POOL_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    # F.max_pool*d are dispatchers over return_indices; a trace holds whichever was looked up.
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    torch.max_pool1d,
    torch.max_pool2d,
    torch.max_pool3d,
)
_CLAMPS: tuple[Any, ...] = (
    torch.clamp, torch.clip, torch.clamp_min, "clamp", "clip", "clamp_min",
)  # fmt: skip
_RELUS: tuple[Any, ...] = (F.relu, torch.relu, "relu", F.relu6, F.hardtanh, *_CLAMPS)
SUMS: tuple[Callable[..., Any], ...] = (operator.add, torch.add, operator.sub, torch.sub)
JOINS: tuple[Callable[..., Any], ...] = (torch.cat, torch.stack)
REDUCTIONS: tuple[Any, ...] = (torch.mean, "mean", torch.sum, "sum")
NEGATIONS: tuple[Any, ...] = (operator.neg, torch.neg, "neg")
SCALES: tuple[Callable[..., Any], ...] = (operator.mul, torch.mul, operator.truediv, torch.div)
_MOVES = (
    "permute", "transpose", "swapaxes", "movedim", "narrow", "select", "unsqueeze", "getitem",
    "roll", "flip", "pad", "contiguous", "clone", "for_each_sample",
)  # fmt: skip
"""Functions and methods that only move values, by name."""


class Role(enum.Enum):
    """What a node of the network is to the spiking simulation (docs/how-it-works)."""

    PLAIN = "plain"  # input, constants, output: nothing to simulate
    SYNAPSE = "synapse"  # convolution or linear layer: where a spike is multiplied by weights
    WIRE = "wire"  # linear without weights of its own: pools, sums, concatenation, reshapes
    SPIKING = "spiking"  # a ReLU-like activation
    GATE = "gate"  # max-pool of spikes: cumulative difference, spikes stay spikes
    ANALOG = "analog"  # anything else: cumulative difference, costs MACs every step


class Timing(enum.Enum):
    """Whether a node's value depends on the sample, and on the step."""

    CONSTANT = 0
    STATIC = 1
    TEMPORAL = 2


@dataclass(frozen=True, kw_only=True)
class SpikingSite:
    """A place where the ANN had a ReLU-like activation.

    Attributes:
        name: Fully qualified name; a module's second call gets the suffix ``_1``, as in torch.fx.
        node: Name of the node in the traced graph.
        shape: Shape of one sample's activation: ``(C, ...)``, behind a linear layer ``(..., C)``.
        channels: Which dimension of a batch of activations holds the channels.
        ceiling: Upper clip of the activation (6 for ReLU6), or None.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    channels: int
    ceiling: float | None


class Network:
    """A traced network in evaluation mode: BatchNorm folded, nodes classified.

    Attributes:
        module: The traced copy; the caller's model is never touched.
        roles: Role of each node, by node name.
        timing: Timing of each node, by node name.
        sites: The spiking layers in order of execution, by layer name.
        discrete: Names of nodes that change from step to step and give indices or booleans.
        fingerprint: SHA-256 of the model's operations, parameters and buffers.
        sample_shape: Shape of one input sample.
        input_dtype: Type of its values.
    """

    def __init__(self, module: fx.GraphModule, sample: Tensor, fingerprint: str) -> None:
        self.module = module
        self.sample_shape = tuple(sample.shape[1:])
        self.input_dtype = sample.dtype
        self.fingerprint = fingerprint
        modules = dict(module.named_modules())
        self.roles: dict[str, Role] = {}
        for node in module.graph.nodes:
            role = _role(node, modules)
            if role is Role.GATE and not _carries_spikes(
                node.all_input_nodes[0], self.roles, modules
            ):
                role = Role.ANALOG
            self.roles[node.name] = role
        self.timing = _timing(module.graph, self.roles)
        self.discrete = {
            node.name
            for node in module.graph.nodes
            if self.timing[node.name] is Timing.TEMPORAL and _check_values(node)
        }
        self.sites = {site.name: site for site in _sites(module.graph, self.roles, modules)}

    @property
    def analog_nodes(self) -> list[str]:
        """Names of the nodes that are neither linear nor ReLU-like and cost MACs every step."""
        return [name for name, role in self.roles.items() if role is Role.ANALOG]

    def node(self, name: str) -> fx.Node:
        """The graph node of that name."""
        nodes: Iterable[fx.Node] = self.module.graph.nodes
        return next(node for node in nodes if node.name == name)

    def to(self, device: torch.device | str) -> Network:
        """This network on another device."""
        moved = copy.copy(self)
        moved.module = copy.deepcopy(self.module).to(device)
        return moved

    def check_inputs(self, x: Tensor) -> None:
        """Raise :class:`ConversionError` unless ``x`` is ``(N, ...)`` of the profiled shape."""
        if not isinstance(x, Tensor) or tuple(x.shape[1:]) != self.sample_shape:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ConversionError(
                f"inputs must have the shape (N, {', '.join(map(str, self.sample_shape))})"
                f" that the network was profiled with, got {found}"
            )

    def sample(self, device: torch.device | str) -> Tensor:
        """One input of zeros, ``(1, ...)``."""
        return torch.zeros(1, *self.sample_shape, dtype=self.input_dtype, device=device)

    def with_weights(self, weights: Mapping[str, Tensor]) -> Network:
        """A copy with other values of some parameters, by name.

        Raises:
            ConfigError: It has no such parameter, or one of another shape.
        """
        changed = copy.copy(self)
        changed.module = copy.deepcopy(self.module)
        parameters = dict(changed.module.named_parameters())
        for name, value in weights.items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise ConfigError(f"the network has no parameter {name!r} of {tuple(value.shape)}")
            parameters[name].data.copy_(value)
        return changed


def _fingerprint(module: fx.GraphModule, model: nn.Module) -> str:
    """SHA-256 over what a traced model does, node by node, and over its parameters and buffers."""
    digest = hashlib.sha256()
    modules = dict(module.named_modules())
    position = {node: f"%{i}" for i, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        target = node.target if isinstance(node.target, str) else node.target.__name__
        if node.op == "call_module":
            called = modules[target]
            target = f"{target} {type(called).__name__}({called.extra_repr()})"
        arguments = fx.node.map_arg((node.args, node.kwargs), position.__getitem__)
        digest.update(f"{node.op} {target} {arguments};".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def trace(model: nn.Module, sample: Tensor) -> Network:
    """Trace, fold and classify a model.

    Args:
        model: A network in any mode, on any device; it is copied, never changed.
        sample: At least one input, ``(N, ...)``, used for shapes and for a check of the copy.

    Raises:
        ConversionError: The model cannot be traced, has an unsupported form, or its folded copy
            does not compute what the model computes.
    """
    source = _copy(model).eval().requires_grad_(False)
    device = next((p.device for p in source.parameters()), torch.device("cpu"))
    sample = sample[:2].to(device)
    with torch.no_grad():
        expected = _logits_of(source, sample)
        module = _symbolic_trace(source)
        fingerprint = _fingerprint(module, model)
        rewrite(module, sample)
        _as_channels_last(module)
        _check_same(module, sample, expected)
    return Network(module, sample, fingerprint)


def _copy(model: nn.Module) -> nn.Module:
    """A copy whose parametrised weights (weight norm, spectral norm) are plain parameters."""
    try:
        source = copy.deepcopy(model)
    except RuntimeError as error:
        raise ConversionError(
            f"the model cannot be copied: {error}. Remove old-style weight_norm or spectral_norm"
            " hooks first"
        ) from error
    for module in list(source.modules()):
        if parametrize.is_parametrized(module):
            _make_plain(module)
    return source


def _make_plain(module: nn.Module) -> None:
    """Put the values of parametrised weights in their place.

    ``remove_parametrizations`` would change the class, which a copy shares with its model.
    """
    names = list(cast(Any, module.parametrizations))
    values = {name: getattr(module, name).detach().clone() for name in names}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def _logits_of(model: nn.Module, sample: Tensor) -> Tensor:
    try:
        out = model(sample)
    except Exception as error:
        raise ConversionError(
            f"the model does not run on a sample of shape {tuple(sample.shape)}: {error}"
        ) from error
    if isinstance(out, dict):  # a segmentation network's
        out = out.get("out", out)
    if not isinstance(out, Tensor):
        raise ConversionError(
            f"the model must return one tensor of logits; it returned {type(out).__name__}."
            " Wrap it in a module that returns the tensor to convert"
        )
    return out


class _Tracer(fx.Tracer):
    """A tracer that knows, after it failed, in which module it was."""

    path = ""

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        outer, self.path = self.path, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        self.path = outer
        return result


def _symbolic_trace(model: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:
        where = f"module {tracer.path!r}" if tracer.path else "the model's own forward"
        raise ConversionError(
            f"torch.fx cannot trace {where}: {error}. Move code that depends on the values of"
            " tensors out of forward, or replace it with tensor operations"
        ) from error
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        names = ", ".join(node.name for node in inputs)
        raise ConversionError(f"the model must take one tensor; its forward takes: {names}")
    return fx.GraphModule(model, graph)


def _as_channels_last(module: fx.GraphModule) -> None:
    """Measured 2 to 3 times faster on small CPU convolutions, never slower."""
    if any(isinstance(m, nn.Conv2d) for m in module.modules()):
        module.to(memory_format=torch.channels_last)


def _check_same(module: fx.GraphModule, sample: Tensor, expected: Tensor) -> None:
    error = (module(sample) - expected).norm() / expected.norm().clamp_min(1e-12)
    if not error <= 1e-3:  # rounding alone has been seen to give 1e-4 where variances are tiny
        raise ConversionError(
            f"the traced copy differs from the model by {error:.1e} (relative); its forward"
            " depends on something that tracing froze, such as a flag or a random number"
        )


def _role(node: fx.Node, modules: dict[str, nn.Module]) -> Role:
    if node.op == "call_module":
        return _module_role(modules[str(node.target)])
    if node.op == "call_function":
        return _function_role(node)
    if node.op == "call_method":
        return _method_role(node)
    return Role.PLAIN


def _module_role(module: nn.Module) -> Role:
    if isinstance(module, SYNAPSE_MODULES):
        return Role.SYNAPSE
    if isinstance(module, _RELU_MODULES) and getattr(module, "min_val", 0.0) == 0.0:
        return Role.SPIKING
    if isinstance(module, MAX_POOL_MODULES):
        return Role.GATE
    return Role.WIRE if isinstance(module, _WIRE_MODULES) else Role.ANALOG


def _function_role(node: fx.Node) -> Role:
    target = cast(Callable[..., Any], node.target)
    if "tensor_meta" not in node.meta:
        return Role.PLAIN
    if target in _RELUS:
        return Role.SPIKING if _floor(node) == 0 else Role.ANALOG
    if target in MAX_POOL_FUNCTIONS:
        return Role.GATE
    if target in JOINS and _joins_samples(node):
        return Role.ANALOG
    if target in (*POOL_FUNCTIONS, *ADAPTIVE_POOL_FUNCTIONS, *SUMS, *JOINS, reshape_samples):
        return Role.WIRE
    if target in SCALES:
        return Role.WIRE if _is_scaling(node) else Role.ANALOG
    if target is F.interpolate or target in NEGATIONS:
        return Role.WIRE
    if target in REDUCTIONS:
        return Role.WIRE if _keeps_batch(node) else Role.ANALOG
    return Role.WIRE if _is_move(node, target.__name__) else Role.ANALOG


def _method_role(node: fx.Node) -> Role:
    if "tensor_meta" not in node.meta:
        return Role.PLAIN
    if node.target in _RELUS:
        return Role.SPIKING if _floor(node) == 0 else Role.ANALOG
    if node.target in ("add", "sub", *NEGATIONS):
        return Role.WIRE
    if node.target in REDUCTIONS:
        return Role.WIRE if _keeps_batch(node) else Role.ANALOG
    if node.target in ("mul", "div"):
        return Role.WIRE if _is_scaling(node) else Role.ANALOG
    return Role.WIRE if _is_move(node, str(node.target)) else Role.ANALOG


def _is_move(node: fx.Node, name: str) -> bool:
    """Whether a node only moves values, each within its sample.

    Raises:
        ConversionError: It moves them from sample to sample.
    """
    if name not in _MOVES or len(node.all_input_nodes) != 1:
        return name == for_each_sample.__name__
    if name == "pad" and (node.args[3] if len(node.args) > 3 else node.kwargs.get("value")):
        return False  # what it puts in is no spike
    if not _keeps_samples_apart(node):
        raise ConversionError(
            f"node {node.name!r} moves values from sample to sample; keep the first dimension"
            " for the batch"
        )
    return True


def _keeps_samples_apart(node: fx.Node) -> bool:
    """Whether numbered samples still are what they were behind a node that moves values."""
    shape = shape_of(node.args[0])
    number = torch.arange(1.0, shape[0] + 1)
    x = number.view(-1, *[1] * (len(shape) - 1)).expand(shape)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: x)
    function = cast(Any, node.target)
    if node.op == "call_method":
        moved = getattr(args[0], function)(*args[1:], **kwargs)
    else:
        moved = function(*args, **kwargs)
    if moved.dim() == 0 or len(moved) != len(x):
        return False
    rows = moved.reshape(len(x), -1)
    return bool(((rows == number[:, None]) | (rows == 0)).all())  # 0: padding


def _joins_samples(node: fx.Node) -> bool:
    """Whether a ``cat`` or ``stack`` is along the batch."""
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    return int(cast(int, dim)) % len(shape_of(node)) == 0


def _carries_spikes(node: fx.Node, roles: dict[str, Role], modules: dict[str, nn.Module]) -> bool:
    """Whether a node gives whole spikes of one size per channel, ``(N, C, ...)``."""
    if node.target is torch.cat:
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        return bool(dim == 1) and all(
            _carries_spikes(n, roles, modules) for n in node.all_input_nodes
        )
    if roles[node.name] is Role.SPIKING:
        return _channels(node, modules) == 1 and len(shape_of(node)) > 2
    return roles[node.name] is Role.GATE


def _is_scaling(node: fx.Node) -> bool:
    """Whether a product or quotient has one operand that depends on the sample, on top."""
    if node.kwargs.get("rounding_mode") is not None:
        return False
    first, second = node.args[:2]
    varying = [n for n in (first, second) if isinstance(n, fx.Node) and n.op != "get_attr"]
    is_product = node.target in (operator.mul, torch.mul, "mul")
    return len(varying) == 1 and (is_product or varying[0] is first)


def _floor(node: fx.Node) -> float:
    """Lower clip of a ReLU-like node."""
    if node.target is F.hardtanh:
        minimum = node.args[1] if len(node.args) > 1 else node.kwargs.get("min_val", -1.0)
    elif node.target in _CLAMPS:
        minimum = node.args[1] if len(node.args) > 1 else node.kwargs.get("min")
        if len(node.all_input_nodes) > 1:  # clipped by a tensor
            return float("nan")
    else:
        minimum = 0
    return float(minimum) if isinstance(minimum, (int, float)) else float("nan")


def reduced_dims(node: fx.Node) -> tuple[int, ...]:
    """The dimensions that a ``mean`` or ``sum`` node runs over, as non-negative numbers."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
    if isinstance(dims, int):
        dims = (dims,)
    rank = len(shape_of(node.args[0]))
    return tuple(dim % rank for dim in cast(tuple[int, ...], dims or ()))


def _keeps_batch(node: fx.Node) -> bool:
    dims = reduced_dims(node)
    return bool(dims) and 0 not in dims


def _check_values(node: fx.Node) -> bool:
    """Whether a node that changes from step to step gives no floating-point numbers.

    Raises:
        ConversionError: Its first dimension is not the batch.
    """
    meta: Any = node.meta.get("tensor_meta")
    if node.op == "output" or not hasattr(meta, "shape"):
        return False
    entry = next(n for n in node.graph.nodes if n.op == "placeholder")
    if not meta.shape or meta.shape[0] != shape_of(entry)[0]:
        raise ConversionError(
            f"node {node.name!r} gives {tuple(meta.shape)} for {shape_of(entry)[0]} samples; keep"
            " the first dimension for the batch"
        )
    return not meta.dtype.is_floating_point


def _timing(graph: fx.Graph, roles: dict[str, Role]) -> dict[str, Timing]:
    timing: dict[str, Timing] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            timing[node.name] = Timing.STATIC
        elif roles[node.name] is Role.SPIKING:
            timing[node.name] = Timing.TEMPORAL
        else:
            inputs = [timing[source.name] for source in node.all_input_nodes]
            timing[node.name] = max(inputs, key=lambda t: t.value, default=Timing.CONSTANT)
    return timing


def _sites(
    graph: fx.Graph, roles: dict[str, Role], modules: dict[str, nn.Module]
) -> list[SpikingSite]:
    sites: list[SpikingSite] = []
    taken: set[str] = set()
    for node in graph.nodes:
        if roles[node.name] is not Role.SPIKING:
            continue
        name = _unique(_qualified_name(node), taken)
        taken.add(name)
        sites.append(
            SpikingSite(
                name=name,
                node=node.name,
                shape=tuple(int(size) for size in shape_of(node)[1:]),
                channels=_channels(node, modules),
                ceiling=_ceiling(node, modules),
            )
        )
    return sites


def _channels(node: fx.Node, modules: dict[str, nn.Module]) -> int:
    """The dimension that holds the channels: the last one behind a linear layer, else the first."""
    shape = shape_of(node)
    while node.all_input_nodes and node.meta.get("tensor_meta") and shape_of(node) == shape:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, SYNAPSE_MODULES):
            return len(shape) - 1 if isinstance(module, nn.Linear) else 1
        node = node.all_input_nodes[0]
    return 1


def _qualified_name(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    kind = node.target if node.op == "call_method" else getattr(node.target, "__name__", "relu")
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return f"{paths[-1]}.{kind}" if paths and paths[-1] else str(kind)


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _ceiling(node: fx.Node, modules: dict[str, nn.Module]) -> float | None:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return float(module.max_val) if isinstance(module, nn.Hardtanh) else None
    if node.target is F.relu6:
        return 6.0
    if node.target in (F.hardtanh, *_CLAMPS):
        name, default = ("max_val", 1.0) if node.target is F.hardtanh else ("max", None)
        value = node.args[2] if len(node.args) > 2 else node.kwargs.get(name, default)
        return float(value) if isinstance(value, (int, float)) else None
    return None
