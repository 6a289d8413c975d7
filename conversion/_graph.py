"""From an ``nn.Module`` to the traced, folded, classified network that every pass runs on."""

from __future__ import annotations

import copy
import enum
import hashlib
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from conversion._errors import ConversionError

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)

SYNAPSE_MODULES = (*_CONVS, *_TRANSPOSED, nn.Linear)
POOL_MODULES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE_POOL_MODULES = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
MAX_POOL_MODULES = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_WIRE_MODULES = (*POOL_MODULES, *ADAPTIVE_POOL_MODULES, *_NORMS, nn.Flatten, nn.ZeroPad2d)
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
_RELU_FUNCTIONS: tuple[Callable[..., Any], ...] = (F.relu, torch.relu, F.relu6, F.hardtanh)
SUMS: tuple[Callable[..., Any], ...] = (operator.add, torch.add, operator.sub, torch.sub)
SCALES: tuple[Callable[..., Any], ...] = (operator.mul, torch.mul, operator.truediv, torch.div)
_RESHAPES: tuple[Callable[..., Any], ...] = (torch.flatten, torch.reshape, torch.squeeze)
_RESHAPE_METHODS = ("view", "reshape", "flatten", "squeeze")
_OUT_OF_PLACE: dict[Any, Any] = {operator.iadd: operator.add, operator.isub: operator.sub}


class Role(enum.Enum):
    """What a node of the network is to the spiking simulation (docs/how-it-works)."""

    PLAIN = "plain"  # input, constants, output: nothing to simulate
    SYNAPSE = "synapse"  # convolution or linear layer: where a spike is multiplied by weights
    WIRE = "wire"  # linear without weights of its own: pools, sums, concatenation, reshapes
    SPIKING = "spiking"  # a ReLU-like activation
    GATE = "gate"  # max-pool: cumulative difference, spikes stay spikes
    ANALOG = "analog"  # anything else: cumulative difference, costs MACs every step


class Timing(enum.Enum):
    """Whether a node's value depends on the sample, and on the step."""

    CONSTANT = 0
    STATIC = 1
    TEMPORAL = 2


def reshape_samples(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape every sample, whatever the size of the batch: ``(B, *) -> (B, *shape)``."""
    return x.reshape(x.shape[0], *shape)


@dataclass(frozen=True, kw_only=True)
class SpikingSite:
    """A place where the ANN had a ReLU-like activation.

    Attributes:
        name: Fully qualified name; a module's second call gets the suffix ``_1``, as in torch.fx.
        node: Name of the node in the traced graph.
        shape: Shape of one sample's activation, ``(C, ...)``.
        ceiling: Upper clip of the activation (6 for ReLU6), or None.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    ceiling: float | None


class Network:
    """A traced network in evaluation mode: BatchNorm folded, nodes classified.

    Attributes:
        module: The traced copy; the caller's model is never touched.
        roles: Role of each node, by node name.
        timing: Timing of each node, by node name.
        sites: The spiking layers in order of execution, by layer name.
        fingerprint: SHA-256 of the model's parameters and buffers.
        sample_shape: Shape of one input sample.
    """

    def __init__(
        self, module: fx.GraphModule, sample_shape: tuple[int, ...], fingerprint: str
    ) -> None:
        self.module = module
        self.sample_shape = sample_shape
        self.fingerprint = fingerprint
        modules = dict(module.named_modules())
        self.roles = {node.name: _role(node, modules) for node in module.graph.nodes}
        self.timing = _timing(module.graph, self.roles)
        self.sites = {site.name: site for site in _sites(module.graph, self.roles, modules)}
        if not self.sites:
            raise ConversionError(
                "the network has no ReLU-like activation, so nothing in it could spike;"
                " spikefront converts ReLU, ReLU6 and Hardtanh networks"
            )

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


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a model's parameters and buffers."""
    digest = hashlib.sha256()
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
    fingerprint = model_fingerprint(model)
    source = copy.deepcopy(model).eval().requires_grad_(False)
    device = next((p.device for p in source.parameters()), torch.device("cpu"))
    sample = sample[:2].to(device)
    with torch.no_grad():
        expected = _logits_of(source, sample)
        module = _symbolic_trace(source)
        _drop_dropout(module)
        _fold_batch_norm(module)
        _make_out_of_place(module)
        _fix_shapes(module, sample)
        _as_channels_last(module)
        _check_same(module, sample, expected)
    return Network(module, tuple(sample.shape[1:]), fingerprint)


def _logits_of(model: nn.Module, sample: Tensor) -> Tensor:
    try:
        out = model(sample)
    except Exception as error:
        raise ConversionError(
            f"the model does not run on a sample of shape {tuple(sample.shape)}: {error}"
        ) from error
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


def _drop_dropout(module: fx.GraphModule) -> None:
    modules = dict(module.named_modules())
    for node in list(module.graph.nodes):
        is_module = node.op == "call_module" and isinstance(
            modules[node.target], (*_DROPOUTS, nn.Identity)
        )
        if is_module or (node.op == "call_function" and node.target is F.dropout):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()


def _fold_batch_norm(module: fx.GraphModule) -> None:
    modules = dict(module.named_modules())
    calls: dict[Any, int] = {}
    for node in module.graph.nodes:
        calls[node.target] = calls.get(node.target, 0) + 1
    for node in list(module.graph.nodes):
        norm = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, _NORMS) or norm.running_mean is None:
            continue
        source = node.args[0]
        layer = modules.get(source.target) if source.op == "call_module" else None
        if not isinstance(layer, SYNAPSE_MODULES):
            continue
        if calls[source.target] > 1 or calls[node.target] > 1 or len(source.users) > 1:
            continue  # shared: it stays a per-channel affine map of its own
        _set_module(module, source.target, _fold(layer, norm))
        modules[source.target] = module.get_submodule(source.target)
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
    module.recompile()
    module.delete_all_unused_submodules()


def _fold(layer: nn.Module, norm: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, cast(nn.BatchNorm1d, norm))
    transposed = isinstance(layer, _TRANSPOSED)
    folded: nn.Module = fuse_conv_bn_eval(cast(Any, layer), cast(Any, norm), transpose=transposed)
    return folded


def _set_module(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _make_out_of_place(module: fx.GraphModule) -> None:
    for submodule in module.modules():
        if getattr(submodule, "inplace", False):
            submodule.inplace = False  # type: ignore[assignment]
    for node in module.graph.nodes:
        node.target = _OUT_OF_PLACE.get(node.target, node.target)
        if node.op == "call_method" and node.target in ("relu_", "add_", "sub_"):
            node.target = node.target.rstrip("_")
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
    module.recompile()


def _fix_shapes(module: fx.GraphModule, sample: Tensor) -> None:
    """Record shapes; make every reshape keep the batch, which the simulation multiplies by T."""
    probe = torch.cat([sample[:1]] * 3)
    ShapeProp(module).propagate(probe)
    modules = dict(module.named_modules())
    for node in list(module.graph.nodes):
        if not _is_reshape(node, modules):
            continue
        shape = _shape(node)
        if shape[0] != len(probe) or _shape(node.args[0])[0] != len(probe):
            raise ConversionError(
                f"node {node.name!r} reshapes across the batch dimension, to {tuple(shape)};"
                " keep the first dimension for the batch"
            )
        with module.graph.inserting_after(node):
            fixed = module.graph.call_function(
                reshape_samples, (node.args[0], tuple(int(size) for size in shape[1:]))
            )
        fixed.meta = dict(node.meta)
        node.replace_all_uses_with(fixed)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _is_reshape(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], nn.Flatten)
    if node.op == "call_method":
        return node.target in _RESHAPE_METHODS
    return node.op == "call_function" and node.target in _RESHAPES


def _shape(node: Any) -> torch.Size:
    meta = node.meta.get("tensor_meta")
    if meta is None or not hasattr(meta, "shape"):
        raise ConversionError(f"node {node.name!r} does not give one tensor")
    return cast(torch.Size, meta.shape)


def _as_channels_last(module: fx.GraphModule) -> None:
    """Measured 2 to 3 times faster on small CPU convolutions, never slower."""
    if any(isinstance(m, nn.Conv2d) for m in module.modules()):
        module.to(memory_format=torch.channels_last)


def _check_same(module: fx.GraphModule, sample: Tensor, expected: Tensor) -> None:
    error = (module(sample) - expected).norm() / expected.norm().clamp_min(1e-12)
    if not error <= 1e-4:
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
    if isinstance(module, _WIRE_MODULES):
        return Role.WIRE
    if isinstance(module, nn.Upsample) and module.mode == "nearest":
        return Role.WIRE
    return Role.ANALOG


def _function_role(node: fx.Node) -> Role:
    target = cast(Callable[..., Any], node.target)
    if target in _RELU_FUNCTIONS:
        return Role.SPIKING if target is not F.hardtanh or _floor_is_zero(node) else Role.ANALOG
    if target in MAX_POOL_FUNCTIONS:
        return Role.GATE
    if target in (*POOL_FUNCTIONS, *ADAPTIVE_POOL_FUNCTIONS, *SUMS, torch.cat, reshape_samples):
        return Role.WIRE
    if target in SCALES:
        return Role.WIRE if _is_scaling(node) else Role.ANALOG
    if target is torch.mean and _is_spatial_mean(node):
        return Role.WIRE
    return Role.ANALOG if "tensor_meta" in node.meta else Role.PLAIN


def _method_role(node: fx.Node) -> Role:
    if node.target == "relu":
        return Role.SPIKING
    if node.target in ("add", "sub", "contiguous"):
        return Role.WIRE
    if node.target == "mean" and _is_spatial_mean(node):
        return Role.WIRE
    return Role.ANALOG if "tensor_meta" in node.meta else Role.PLAIN


def _is_scaling(node: fx.Node) -> bool:
    """Whether a product or quotient has one operand that depends on the sample, on top."""
    first, second = node.args[:2]
    varying = [n for n in (first, second) if isinstance(n, fx.Node) and n.op != "get_attr"]
    is_product = node.target in (operator.mul, torch.mul)
    return len(varying) == 1 and (is_product or varying[0] is first)


def _floor_is_zero(node: fx.Node) -> bool:
    minimum: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("min_val", -1.0)
    return bool(minimum == 0)


def mean_dims(node: fx.Node) -> tuple[int, ...]:
    """The dimensions that a ``mean`` node averages over, as non-negative numbers."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
    if isinstance(dims, int):
        dims = (dims,)
    rank = len(_shape(node.args[0]))
    return tuple(dim % rank for dim in cast(tuple[int, ...], dims or ()))


def _is_spatial_mean(node: fx.Node) -> bool:
    dims = mean_dims(node)
    return bool(dims) and min(dims) >= 2


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
        shape = tuple(int(size) for size in _shape(node)[1:])
        sites.append(
            SpikingSite(name=name, node=node.name, shape=shape, ceiling=_ceiling(node, modules))
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


def _ceiling(node: fx.Node, modules: dict[str, nn.Module]) -> float | None:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return float(module.max_val) if isinstance(module, nn.Hardtanh) else None
    if node.target is F.relu6:
        return 6.0
    if node.target is F.hardtanh:
        value = node.args[2] if len(node.args) > 2 else node.kwargs.get("max_val", 1.0)
        return float(cast(float, value))
    return None
