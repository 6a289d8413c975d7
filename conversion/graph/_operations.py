"""What each ATen operation is to the spiking simulation: one table.

An operation that is missing here is computed on running means, which is exact in the limit for
every function but costs its MACs at every step. A linear one is added by one line in ``WIRES``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx

_aten = torch.ops.aten


class Role(enum.Enum):
    """What a node of the network is to the spiking simulation (docs/explanation/conversion.md)."""

    PLAIN = "plain"  # input, constants, sizes, output: nothing to simulate
    SYNAPSE = "synapse"  # convolution or product with constants: a spike is multiplied by weights
    WIRE = "wire"  # linear without weights of its own: pools, sums, concatenation, reshapes
    SPIKING = "spiking"  # a ReLU-like activation
    GATE = "gate"  # max-pool of spikes: cumulative difference, spikes stay spikes
    ANALOG = "analog"  # anything else: cumulative difference, costs MACs every step


Value = Callable[[fx.Node], Any]
"""What stands for an input of a node: a constant's value, a size, events."""


def name_of(node: fx.Node) -> str:
    """Name of the ATen operation of a node, without overload."""
    target: Any = getattr(node.target, "inner", node.target)
    schema = getattr(target, "_schema", None)
    if schema is None:
        return str(getattr(target, "__name__", target))
    return str(schema.name).partition("::")[2]


def argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    """An argument of a node, by position or keyword."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


# --- synapses: products with something constant -------------------------------------------------


@dataclass(frozen=True)
class Product:
    """An operation that multiplies and adds up.

    Attributes:
        factors: Positions of the two operands; a list of operands where ``listed``.
        bias: Position of what is added, or None.
        listed: Whether the operands are in a list at the first of these positions.
    """

    factors: tuple[int, ...] = (0, 1)
    bias: int | None = None
    listed: bool = False


_CONVOLUTION = Product(bias=2)
CONVOLUTIONS = (
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
)  # fmt: skip

PRODUCTS: dict[str, Product] = {
    **dict.fromkeys(CONVOLUTIONS, _CONVOLUTION),
    "linear": Product(bias=2),
    "mm": Product(),
    "matmul": Product(),
    "mv": Product(),
    "bmm": Product(),
    "addmm": Product(factors=(1, 2), bias=0),
    "baddbmm": Product(factors=(1, 2), bias=0),
    "einsum": Product(factors=(1,), listed=True),
}


def operands(node: fx.Node) -> list[Any]:
    """The factors of a product."""
    product = PRODUCTS[name_of(node)]
    if product.listed:
        return list(cast(Any, node.args[product.factors[0]]))
    return [node.args[place] for place in product.factors]


def weight_of(node: fx.Node) -> fx.Node | None:
    """The constant factor of a synapse, or None if it is not a tensor of the network's own."""
    constant = [o for o in operands(node) if isinstance(o, fx.Node) and o.op == "get_attr"]
    return constant[0] if constant else None


def with_unit_weights(node: fx.Node, signal: Tensor, value: Value) -> Tensor:
    """A synapse on a signal with all weights one and no bias: how often each value arrives."""
    product = PRODUCTS[name_of(node)]

    def given(operand: fx.Node) -> Any:
        if operand.meta.get("varies"):
            return signal
        found = value(operand)
        is_weight = isinstance(found, Tensor) and found.is_floating_point()
        return torch.ones_like(found, dtype=signal.dtype) if is_weight else found

    args: list[Any] = [fx.node.map_arg(arg, given) for arg in node.args]
    if name_of(node) == "addmm":
        return cast(Tensor, args[1] @ args[2])
    if name_of(node) == "baddbmm":
        return torch.bmm(args[1], args[2])
    if product.bias is not None and len(args) > product.bias:
        args[product.bias] = None
    return cast(Tensor, cast(Any, node.target)(*args, **node.kwargs))


def dense_macs(node: fx.Node) -> int:
    """MACs of a convolution for one sample as counters give them, padding included."""
    weight = cast(fx.Node, node.args[1]).meta["val"].shape
    transposed = name_of(node).startswith("conv_transpose")
    counted = cast(fx.Node, node.args[0]) if transposed else node
    return sample_size(counted) * int(prod(weight[1:]))


def channel_dim(node: fx.Node) -> int:
    """Which dimension of a synapse's output its weights give the channels of."""
    rank, weight = len(node.meta["val"].shape), weight_of(node)
    if name_of(node) == "einsum":
        inputs, arrow, output = str(node.args[0]).replace(" ", "").partition("->")
        letters = inputs.split(",")
        if not arrow or "." in inputs or weight is None:
            return rank - 1
        place = operands(node).index(weight)
        own = set(letters[place]) - set("".join(letters[:place] + letters[place + 1 :]))
        return next((i for i, letter in enumerate(output) if letter in own), rank - 1)
    if name_of(node) in CONVOLUTIONS:
        return 1
    first = weight is not None and operands(node)[0] is weight
    return rank - 2 if first and rank > 1 else rank - 1


# --- wires: linear, without weights of their own ------------------------------------------------

Events = Callable[[fx.Node, Value], Tensor]
"""Events behind a node, for those that arrive: each goes on to every value it belongs to."""


def call(node: fx.Node, value: Value, device: torch.device | None = None) -> Any:
    """The operation of a node on other inputs; what it makes from nothing is on ``device``."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
    if device is not None and "device" in kwargs:
        kwargs = {**kwargs, "device": device}
    return cast(Any, node.target)(*args, **kwargs)


def _moved(node: fx.Node, value: Value) -> Tensor:
    """The operation itself: it only moves values."""
    return cast(Tensor, call(node, value))


def _joined(node: fx.Node, value: Value) -> Tensor:
    """The operation itself, with nothing where something constant stands beside the events."""

    def events(source: fx.Node) -> Any:
        found = value(source)
        constant = not source.meta.get("varies") and isinstance(found, Tensor)
        return torch.zeros_like(found) if constant and found.is_floating_point() else found

    return cast(Tensor, call(node, events))


def _passed(node: fx.Node, value: Value) -> Tensor:
    """As many events out as in, of all inputs: sums, factors, constants added, norms."""
    shape = [1 if isinstance(n, torch.SymInt) else int(n) for n in node.meta["val"].shape]
    axis = node.meta["axis"]
    shape[axis.dim] = axis.outer * axis.inner
    return cast(Tensor, sum(value(source).expand(shape) for source in varying(node)))


def _filled(node: fx.Node, value: Value) -> Tensor:
    """The operation with zero filled in."""
    args: Any = fx.node.map_arg(node.args, value)
    return cast(Tensor, getattr(torch, name_of(node))(*args[:-1], 0))


def _summed_up(node: fx.Node, value: Value) -> Tensor:
    """Every event of a group counts once."""
    keep = bool(argument(node, 2, "keepdim", False))
    return cast(Tensor, value(varying(node)[0]).sum(reduced_dims(node), keepdim=keep))


def _windows(node: fx.Node, value: Value) -> Tensor:
    """Sum of the events in each window of a pool."""
    events: Tensor = value(varying(node)[0])
    rank = pool_rank(node)
    kernel = _per_axis(argument(node, 1, "kernel_size"), rank)
    stride = _per_axis(argument(node, 2, "stride") or kernel, rank)
    padding = _per_axis(argument(node, 3, "padding", 0) or 0, rank)
    is_max = name_of(node).startswith("max_pool")
    dilation = _per_axis(argument(node, 4, "dilation", 1), rank) if is_max else (1,) * rank
    ceil_mode = argument(node, 5 if is_max else 4, "ceil_mode", False)
    if ceil_mode:
        events = F.pad(events, [v for s in reversed(stride) for v in (0, s - 1)])
    channels = events.shape[-rank - 1]
    weight = torch.ones((channels, 1, *kernel), dtype=events.dtype, device=events.device)
    function = cast(Any, (F.conv1d, F.conv2d, F.conv3d)[rank - 1])
    sums = function(events, weight, None, stride, padding, dilation, groups=channels)
    # With ceil_mode torch leaves out a last window that would begin in the padding.
    sizes = node.meta["val"].shape[-rank:]
    return cast(Tensor, sums[(..., *(slice(int(size)) for size in sizes))])


def pool_rank(node: fx.Node) -> int:
    """Over how many dimensions a pool goes, as its name says."""
    return int(next(letter for letter in name_of(node) if letter.isdigit()))


def _per_axis(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value) * (rank // len(value))


def _cells(node: fx.Node, value: Value) -> Tensor:
    """Sum of the events in each window of an adaptive pool, axis by axis."""
    events: Tensor = value(varying(node)[0])
    sizes = node.meta["val"].shape
    rank = pool_rank(node)
    for axis in range(len(sizes) - rank, len(sizes)):
        length, cells = events.shape[axis], int(sizes[axis])
        member = torch.zeros((length, cells), dtype=events.dtype, device=events.device)
        for cell in range(cells):
            member[cell * length // cells : -(-(cell + 1) * length // cells), cell] = 1
        events = (events.movedim(axis, -1) @ member).movedim(-1, axis)
    return events


@dataclass(frozen=True)
class Wire:
    """A linear operation without weights.

    Attributes:
        events: Where events go; None: each value becomes a weighted sum, no longer whole spikes.
        linear: Whether a node of it is linear in what varies.
        moves: Whether values only change their places, so that zeros stay zeros.
    """

    events: Events | None = _passed
    linear: Callable[[fx.Node], bool] = lambda node: True
    moves: bool = False


def _scales(node: fx.Node) -> bool:
    """Whether a product or quotient has one factor that varies: ``x * x`` has two."""
    factors = [a for a in node.args[:2] if isinstance(a, fx.Node) and a.meta["varies"]]
    return node.kwargs.get("rounding_mode") is None and len(factors) == 1


def _divides(node: fx.Node) -> bool:
    return _scales(node) and varying(node)[0] is node.args[0]


def _by_constants(node: fx.Node) -> bool:
    """Whether all but the first operand is constant: indices, masks, fill values."""
    return varying(node) == [node.args[0]]


def _chosen_by_constants(node: fx.Node) -> bool:
    return node.args[0] not in varying(node)


def _pads_with_zeros(node: fx.Node) -> bool:
    if name_of(node) == "pad" and argument(node, 2, "mode", "constant") != "constant":
        return True
    return argument(node, 3 if name_of(node) == "pad" else 2, "value", 0) in (None, 0)


_SUM = Wire()
_SCALE = Wire(linear=_scales)
_MOVE = Wire(_moved, moves=True)
_JOIN = Wire(_joined, moves=True)
_PAD = Wire(_moved, _pads_with_zeros, moves=True)
_LOOK_UP = Wire(_moved, _by_constants, moves=True)
_BLEND = Wire(None)

WIRES: dict[str, Wire] = {
    "add": _SUM,
    "sub": _SUM,
    "rsub": _SUM,
    "neg": _SUM,
    "mul": _SCALE,
    "multiply": _SCALE,
    "div": Wire(linear=_divides),
    "divide": Wire(linear=_divides),
    "true_divide": Wire(linear=_divides),
    "batch_norm": Wire(linear=_by_constants),
    "to": _SUM,
    "_to_copy": _SUM,
    "mean": Wire(_summed_up),
    "sum": Wire(_summed_up),
    "cumsum": Wire(_moved),
    "avg_pool1d": Wire(_windows),
    "avg_pool2d": Wire(_windows),
    "avg_pool3d": Wire(_windows),
    "adaptive_avg_pool1d": Wire(_cells),
    "adaptive_avg_pool2d": Wire(_cells),
    "adaptive_avg_pool3d": Wire(_cells),
    "cat": _JOIN,
    "concat": _JOIN,
    "concatenate": _JOIN,
    "stack": _JOIN,
    "hstack": _JOIN,
    "vstack": _JOIN,
    "dstack": _JOIN,
    "select_scatter": _JOIN,
    "slice_scatter": _JOIN,
    "where": Wire(_joined, _chosen_by_constants),
    "masked_fill": Wire(_filled, _by_constants),
    "index_fill": Wire(_filled, _by_constants),
    "index": _LOOK_UP,
    "index_select": _LOOK_UP,
    "gather": _LOOK_UP,
    "take_along_dim": _LOOK_UP,
    "pad": _PAD,
    "constant_pad_nd": _PAD,
    "reshape": _MOVE,
    "expand": _MOVE,
    "permute": _MOVE,
    "transpose": _MOVE,
    "t": _MOVE,
    "numpy_T": _MOVE,
    "matrix_H": _MOVE,
    "mT": _MOVE,
    "movedim": _MOVE,
    "moveaxis": _MOVE,
    "swapaxes": _MOVE,
    "swapdims": _MOVE,
    "select": _MOVE,
    "slice": _MOVE,
    "narrow": _MOVE,
    "diagonal": _MOVE,
    "flip": _MOVE,
    "fliplr": _MOVE,
    "flipud": _MOVE,
    "roll": _MOVE,
    "rot90": _MOVE,
    "repeat": _MOVE,
    "tile": _MOVE,
    "repeat_interleave": _MOVE,
    "tril": _MOVE,
    "triu": _MOVE,
    "unfold": _MOVE,
    "im2col": _MOVE,
    "pixel_shuffle": _MOVE,
    "pixel_unshuffle": _MOVE,
    "channel_shuffle": _MOVE,
    "native_channel_shuffle": _MOVE,
    "reflection_pad1d": _MOVE,
    "reflection_pad2d": _MOVE,
    "reflection_pad3d": _MOVE,
    "replication_pad1d": _MOVE,
    "replication_pad2d": _MOVE,
    "replication_pad3d": _MOVE,
    "upsample_nearest1d": _MOVE,
    "upsample_nearest2d": _MOVE,
    "upsample_nearest3d": _MOVE,
    "_upsample_nearest_exact1d": _MOVE,
    "_upsample_nearest_exact2d": _MOVE,
    "_upsample_nearest_exact3d": _MOVE,
    "upsample_linear1d": _BLEND,
    "upsample_bilinear2d": _BLEND,
    "upsample_trilinear3d": _BLEND,
    "upsample_bicubic2d": _BLEND,
    "_upsample_bilinear2d_aa": _BLEND,
    "_upsample_bicubic2d_aa": _BLEND,
    "col2im": _BLEND,
}


# --- neurons and gates --------------------------------------------------------------------------

_RELUS = ("relu", "relu6", "hardtanh", "clamp", "clip", "clamp_min", "threshold", "maximum")

GATES = (
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "max_pool1d_with_indices",
)  # fmt: skip


GATE_EVENTS: Events = _windows
"""How many events reach each window of a gate."""


def is_relu(node: fx.Node, value: Value) -> bool:
    """Whether a node cuts off what is below zero, and nothing else but what is above a ceiling."""
    name = name_of(node)
    if name not in _RELUS or len(varying(node)) != 1:
        return False
    if name in ("relu", "relu6"):
        return True
    if name == "maximum":
        others = [n for n in node.all_input_nodes if n not in varying(node)]
        if node.meta["val"].shape != varying(node)[0].meta["val"].shape:
            return False  # it repeats the values, too
        return bool(others) and others[0].op == "get_attr" and not bool(value(others[0]).any())
    limits = [argument(node, 1, "min", -1.0 if name == "hardtanh" else None)]
    limits += [argument(node, 2, "max")] if name in ("hardtanh", "clamp", "clip") else []
    limits += [node.args[2]] if name == "threshold" else []
    if not all(isinstance(limit, (int, float, type(None))) for limit in limits):
        return False  # clipped by a tensor
    floor, *above = limits
    if name == "threshold":
        return bool(floor == 0 and above[0] == 0)
    ceiling = ceiling_of(node)
    return floor is not None and floor == 0 and (ceiling is None or ceiling > 0)


def ceiling_of(node: fx.Node) -> float | None:
    """Upper clip of a ReLU-like node, or None."""
    name = name_of(node)
    if name == "relu6":
        return 6.0
    if name in ("hardtanh", "clamp", "clip"):
        value = argument(node, 2, "max", 1.0 if name == "hardtanh" else None)
        return float(value) if isinstance(value, (int, float)) else None
    return None


# --- what nodes are asked about -----------------------------------------------------------------


def varying(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node that depend on the sample, once each."""
    return [n for n in node.all_input_nodes if n.meta.get("varies")]


def sample_size(node: fx.Node) -> int:
    """Values that a node gives for one sample."""
    axis = node.meta.get("axis")
    sizes = node.meta["val"].shape
    dims = [int(n) for i, n in enumerate(sizes) if axis is None or i != axis.dim]
    return prod(dims) * (axis.outer * axis.inner if axis else 1)


def reduced_dims(node: fx.Node) -> tuple[int, ...]:
    """The dimensions that a ``mean`` or ``sum`` node runs over, as non-negative numbers."""
    rank = len(cast(fx.Node, node.args[0]).meta["val"].shape)
    dims: Any = argument(node, 1, "dim")
    if dims is None or dims == []:
        return tuple(range(rank))
    return tuple(int(dim) % rank for dim in ((dims,) if isinstance(dims, int) else dims))
