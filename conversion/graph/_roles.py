"""What each node of a traced network is to the spiking simulation."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import fx, nn

from conversion._errors import ConversionError
from conversion.graph._rewrite import (
    NORMS,
    SYNAPSE_MODULES,
    for_each_sample,
    reshape_samples,
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


def role_of(node: fx.Node, modules: dict[str, nn.Module], roles: dict[str, Role]) -> Role:
    """The role of a node, given those of the nodes before it.

    Raises:
        ConversionError: It moves values from sample to sample.
    """
    role = Role.PLAIN
    if node.op == "call_module":
        role = _module_role(modules[str(node.target)])
    elif node.op == "call_function":
        role = _function_role(node)
    elif node.op == "call_method":
        role = _method_role(node)
    if role is Role.GATE and not _carries_spikes(node.all_input_nodes[0], roles, modules):
        return Role.ANALOG
    return role


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
        return channels_of(node, modules) == 1 and len(shape_of(node)) > 2
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


def channels_of(node: fx.Node, modules: dict[str, nn.Module]) -> int:
    """The dimension that holds the channels: the last one behind a linear layer, else the first."""
    shape = shape_of(node)
    while node.all_input_nodes and node.meta.get("tensor_meta") and shape_of(node) == shape:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, SYNAPSE_MODULES):
            return len(shape) - 1 if isinstance(module, nn.Linear) else 1
        node = node.all_input_nodes[0]
    return 1


def ceiling_of(node: fx.Node, modules: dict[str, nn.Module]) -> float | None:
    """Upper clip of a ReLU-like node, or None."""
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
