"""From an ``nn.Module`` to the traced, folded, classified network that every pass runs on."""

from __future__ import annotations

import copy
import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from conversion._errors import ConfigError, ConversionError
from conversion.graph._rewrite import rewrite, shape_of
from conversion.graph._roles import Role, ceiling_of, channels_of, role_of


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
            self.roles[node.name] = role_of(node, modules, self.roles)
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
                channels=channels_of(node, modules),
                ceiling=ceiling_of(node, modules),
            )
        )
    return sites


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
