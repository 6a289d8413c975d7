"""A captured graph brought into the one form that every pass understands.

Afterwards every node gives one tensor (or the size of something), nothing is there that only
matters in training or to memory, what depends on nothing is a constant in at least float32, and
BatchNorm is folded where it can be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from conversion._errors import ConversionError
from conversion.graph._capture import user_line
from conversion.graph._inputs import wide
from conversion.graph._operations import CONVOLUTIONS, argument, name_of

_aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)

_CHECKS = (
    "_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range",
    "sym_constrain_range_for_size",
)  # fmt: skip
_NOTHING = (
    "alias", "detach", "lift_fresh", "lift_fresh_copy", "contiguous", "clone", "positive",
    "detach_copy", "alias_copy",
)  # fmt: skip
"""Operations that give what they get: memory is not looked at."""
_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
_SPLITS = ("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk")
_FILLED: dict[str, Any] = {
    "zeros_like": 0, "ones_like": 1, "empty_like": 0, "new_zeros": 0, "new_ones": 1,
    "new_empty": 0, "zero": 0, "full_like": None, "new_full": None, "fill": None,
}  # fmt: skip
"""Operations that take no more of a tensor than its shape and type, and what they fill in."""
_RESHAPES = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as",
    "reshape_as", "_reshape_alias", "view_copy", "squeeze_copy", "unsqueeze_copy",
)  # fmt: skip
_END = 2**62


def normalise(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    """Bring a graph into the one form, in place; BatchNorm and constants are still there.

    Raises:
        ConversionError: It draws random numbers, or depends on the values of a tensor.
    """
    for name, value in constants.items():
        constants[name] = value.float() if value.dtype in _HALF else value
    for node in list(graph.nodes):
        if node.op == "call_function":
            _simplify(graph, node)
    for node in list(graph.nodes):
        _choose_results(graph, node)
    _drop_unused(graph, constants)
    _check(graph)


def fold(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    """Compute once what depends on nothing, and fold BatchNorm into the layer before it.

    Raises:
        ConversionError: It normalises by the statistics of a batch.
    """
    _fold_constants(graph, constants)
    for node in list(graph.nodes):
        if node.op == "call_function" and name_of(node) == "batch_norm":
            _check_statistics(node)
            _fold_batch_norm(graph, node, constants)
    _drop_unused(graph, constants)


def _drop_unused(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    graph.eliminate_dead_code()
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    for name in set(constants) - used:
        del constants[name]


def is_size(node: Any) -> bool:
    """Whether a node gives the size of something instead of a tensor."""
    return isinstance(node, fx.Node) and isinstance(
        node.meta.get("val"), (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
    )


def sizes_of(node: fx.Node) -> tuple[Any, ...]:
    """Symbolic sizes of the tensor that a node gives."""
    return tuple(node.meta["val"].shape)


class Pick:
    """One result of an operation that has several.

    Args:
        inner: The operation.
        index: Which result.
    """

    def __init__(self, inner: Callable[..., Any], index: int) -> None:
        self.inner = inner
        self.index = index
        self.__name__ = f"{getattr(inner, '__name__', 'operation')}_{index}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The chosen result."""
        return self.inner(*args, **kwargs)[self.index]


def _replace(old: fx.Node, new: fx.Node) -> None:
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def _simplify(graph: fx.Graph, node: fx.Node) -> None:
    name = name_of(node)
    source: Any = node.args[0] if node.args else None
    if name in _CHECKS:
        graph.erase_node(node)
    elif name in _NOTHING or _keeps_everything(node, name, source):
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    elif name in _FILLED:
        _fill(graph, node, _FILLED[name])
    elif name in _RESHAPES:
        _reshape(graph, node, source)
    elif name in ("expand_as", "copy"):  # copy(x, y) is y in the shape of x
        moved: Any = node.args[1] if name == "copy" else source
        dtype = node.meta["val"].dtype
        if wide(moved.meta["val"].dtype) != wide(dtype):
            return  # it converts, too
        _call(graph, node, _aten.expand.default, (moved, _sizes(graph, node)))
    elif name in ("_native_batch_norm_legit_no_training", "native_batch_norm"):
        _as_batch_norm(graph, node)
    elif name == "convolution":
        _as_named_convolution(graph, node)
    elif name == "view_as_complex":  # of a layout that the simulation need not have
        parts = [_part(graph, node, source, i) for i in (0, 1)]
        _call(graph, node, _aten.complex.default, tuple(parts))
    else:
        _widen(node)


def _keeps_everything(node: fx.Node, name: str, source: Any) -> bool:
    if name in _DROPOUTS:
        return not node.args[2]  # whether it is training
    if name == "slice":
        start, end = argument(node, 2, "start"), argument(node, 3, "end")
        whole = end is None or (isinstance(end, int) and end >= _END)
        return start in (0, None) and whole and argument(node, 4, "step", 1) == 1
    if name in ("to", "_to_copy", "type_as"):
        before, after = source.meta["val"], node.meta["val"]
        half = {torch.float16, torch.bfloat16, torch.float32}
        return bool(before.dtype == after.dtype or {before.dtype, after.dtype} <= half)
    return False


def _call(graph: fx.Graph, node: fx.Node, target: Any, args: Any, kwargs: Any = None) -> None:
    with graph.inserting_before(node):
        _replace(node, graph.call_function(target, args, kwargs or {}))


def _sizes(graph: fx.Graph, node: fx.Node) -> list[Any]:
    """The sizes of a node's tensor, with nodes for those that follow the batch."""
    with graph.inserting_before(node):
        return [_size(graph, size) for size in sizes_of(node)]


def _size(graph: fx.Graph, size: Any) -> Any:
    if not isinstance(size, torch.SymInt):
        return int(size)
    made = graph.call_function(symbolic_size, ())
    made.meta = {"val": size}
    return made


def symbolic_size() -> int:
    """Stands for a size that follows the batch; passes compute it from the node's expression."""
    raise AssertionError("a size is computed from its expression")


def _fill(graph: fx.Graph, node: fx.Node, value: Any) -> None:
    if value is None:  # full_like(x, value), fill(x, value), new_full(x, sizes, value)
        value = node.args[2 if name_of(node) == "new_full" else 1]
    if isinstance(value, fx.Node) and not is_size(value):
        _call(graph, node, _aten.expand.default, (value, _sizes(graph, node)))
        return
    dtype = node.meta["val"].dtype
    dtype = torch.float32 if dtype in _HALF else dtype
    kwargs = {"dtype": dtype, "device": node.meta["val"].device}
    _call(graph, node, _aten.full.default, (_sizes(graph, node), value), kwargs)


def _reshape(graph: fx.Graph, node: fx.Node, source: fx.Node) -> None:
    if name_of(node) in ("squeeze", "unsqueeze") and sizes_of(node) == sizes_of(source):
        node.replace_all_uses_with(source)
        graph.erase_node(node)
    elif node.meta["val"].dtype == source.meta["val"].dtype:
        _call(graph, node, _aten.reshape.default, (source, _sizes(graph, node)))


def _part(graph: fx.Graph, node: fx.Node, source: fx.Node, index: int) -> fx.Node:
    """Real or imaginary part of numbers in pairs."""
    with graph.inserting_before(node):
        made = graph.call_function(_aten.select.int, (source, len(sizes_of(source)) - 1, index))
    made.meta = {**node.meta, "val": source.meta["val"].select(-1, index)}
    return made


def _as_named_convolution(graph: fx.Graph, node: fx.Node) -> None:
    """``convolution`` of a decomposed program as the convolution of its kind."""
    x, weight, bias, stride, padding, dilation, transposed, extra, groups = node.args
    rank = len(sizes_of(node)) - 2
    if transposed:
        target = getattr(_aten, f"conv_transpose{rank}d")
        target = target.default if rank == 1 else target.input
        args: tuple[Any, ...] = (x, weight, bias, stride, padding, extra, groups, dilation)
    else:
        target = getattr(_aten, f"conv{rank}d").default
        args = (x, weight, bias, stride, padding, dilation, groups)
    _call(graph, node, target, args)


def _as_batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    x, weight, bias, mean, variance = node.args[:5]
    epsilon = node.args[-1]
    args = (x, weight, bias, mean, variance, False, 0.0, epsilon, False)
    for user in list(node.users):
        if user.target is operator.getitem and user.args[1] == 0:
            _call(graph, user, _aten.batch_norm.default, args)


def _widen(node: fx.Node) -> None:
    """Half precision becomes float32 wherever an operation names a type."""
    wide = {
        key: torch.float32 if value in _HALF else value
        for key, value in node.kwargs.items()
        if isinstance(value, torch.dtype)
    }
    if wide:
        node.kwargs = {**node.kwargs, **wide}
    if any(value in _HALF for value in node.args if isinstance(value, torch.dtype)):
        node.args = tuple(torch.float32 if v in _HALF else v for v in node.args)


def _choose_results(graph: fx.Graph, node: fx.Node) -> None:
    """Of an operation with several results keep those that are used, each by itself."""
    if not isinstance(node.meta.get("val"), (tuple, list)) or node.op != "call_function":
        return
    name = name_of(node)
    for user in list(node.users):
        if user.target is not operator.getitem:
            continue
        index = cast(int, user.args[1])
        if name in _SPLITS:
            _as_part(graph, node, user, index)
        else:
            with graph.inserting_before(node):
                picked = graph.call_function(
                    Pick(cast(Any, node.target), index), node.args, node.kwargs
                )
            _replace(user, picked)
    if not node.users:  # said to be random by its kind, it would stay
        graph.erase_node(node)


def _as_part(graph: fx.Graph, node: fx.Node, user: fx.Node, index: int) -> None:
    """A part of a split as a slice of its own."""
    parts = node.meta["val"]
    index %= len(parts)
    source = cast(fx.Node, node.args[0])
    place = 1 if name_of(node) == "unbind" else 2
    dim = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    dim = cast(int, dim) % len(sizes_of(source))
    if name_of(node) == "unbind":
        _call(graph, user, _aten.select.int, (source, dim, index))
        return
    start = sum(part.shape[dim] for part in parts[:index])
    with graph.inserting_before(user):
        ends = [_size(graph, size) for size in (start, start + parts[index].shape[dim])]
    _call(graph, user, _aten.slice.Tensor, (source, dim, *ends))


def describe(node: fx.Node) -> str:
    """An operation with the user's line, as errors name it."""
    line = user_line(node)
    return f"{name_of(node)!r}{f' at {line}' if line else ''}"


_DRAWS: dict[str, Callable[[fx.Node], Any]] = {
    "scaled_dot_product_attention": lambda node: argument(node, 4, "dropout_p", 0.0),
    "rrelu": lambda node: argument(node, 3, "training", False),
    "lstm": lambda node: node.args[6],
    "gru": lambda node: node.args[5],
    "rnn_tanh": lambda node: node.args[5],
    "rnn_relu": lambda node: node.args[5],
}
"""Operations that draw random numbers if an argument says so."""


def _draws(node: fx.Node) -> bool:
    target = node.target.inner if isinstance(node.target, Pick) else node.target
    if name_of(node) in _DRAWS:
        return bool(_DRAWS[name_of(node)](node))
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def _check(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if _draws(node):
            hint = "; pass training=self.training" if "dropout" in name_of(node) else ""
            raise ConversionError(
                f"{describe(node)} draws random numbers whenever the model runs; disable it in"
                f" evaluation mode{hint}"
            )
        if name_of(node) == "as_strided":
            raise ConversionError(
                f"{describe(node)} reads memory by strides, which differ in a simulation;"
                " use slices, unfold or reshape"
            )
        if name_of(node) in ("item", "_local_scalar_dense", "nonzero", "masked_select"):
            raise ConversionError(
                f"{describe(node)} depends on the values of a tensor; use tensor operations such as"
                " torch.where"
            )


def _check_statistics(node: fx.Node) -> None:
    """Of weights, as weight standardisation takes them, they were constants and are gone."""
    if node.args[5] or node.args[3] is None:
        raise ConversionError(
            f"{describe(node)} normalises by the statistics of each batch; give its BatchNorm"
            " running statistics"
        )


def _fold_constants(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    known: dict[fx.Node, Any] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = constants[str(node.target)]
        if node.op != "call_function" or is_size(node):
            continue
        if not all(source in known for source in node.all_input_nodes):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        value = node.target(*args, **kwargs)
        if not isinstance(value, Tensor):
            continue
        name = free_name(f"constant.{node.name}", constants)
        constants[name] = value
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        _replace(node, constant)
        known[constant] = value


def free_name(name: str, constants: dict[str, Tensor]) -> str:
    """A name that no constant has."""
    found, number = name, 0
    while found in constants:
        number += 1
        found = f"{name}_{number}"
    return found


def _fold_batch_norm(graph: fx.Graph, node: fx.Node, constants: dict[str, Tensor]) -> None:
    layer = node.args[0]
    if not isinstance(layer, fx.Node) or layer.op != "call_function" or len(layer.users) > 1:
        return
    kind, rank = name_of(layer), len(sizes_of(layer))
    is_linear = kind == "linear" and rank == 2
    if not (is_linear or kind in CONVOLUTIONS):
        return  # it stays a per-channel affine map of its own
    weight, bias = layer.args[1], (layer.args[2] if len(layer.args) > 2 else None)
    given = (weight, bias, *node.args[1:5])
    values: list[Any] = [_value(argument, constants) for argument in given]
    if any(v is None and a is not None for v, a in zip(values, given, strict=True)):
        return  # computed from the sample
    w, b, scale, shift, mean, variance = values
    scale = torch.ones_like(mean) if scale is None else scale
    shift = torch.zeros_like(mean) if shift is None else shift
    epsilon: Any = node.args[7]
    transposed = kind.startswith("conv_transpose")
    if transposed and _groups(layer) > 1:
        factor = (variance + epsilon).rsqrt() * scale
        folded = _fold_transposed(w, b, factor, shift - mean * factor, _groups(layer))
    elif is_linear:
        folded = fuse_linear_bn_weights(w, b, mean, variance, epsilon, scale, shift)
    else:
        folded = fuse_conv_bn_weights(w, b, mean, variance, epsilon, scale, shift, transposed)
    names = _folded_names(cast(fx.Node, weight), bias, constants)
    with graph.inserting_before(layer):
        made = [graph.get_attr(name) for name in names]
    for name, value, attr in zip(names, folded, made, strict=True):
        constants[name] = value.detach()
        attr.meta = {"val": cast(fx.Node, weight).meta.get("val")}
    layer.args = (layer.args[0], *made, *layer.args[3:])
    node.replace_all_uses_with(layer)
    graph.erase_node(node)


def _fold_transposed(
    weight: Tensor, bias: Tensor | None, factor: Tensor, shift: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """A factor per channel in a transposed convolution with groups, ``(in, out / groups, ...)``."""
    per_group = factor.view(groups, 1, -1, *[1] * (weight.dim() - 2))
    folded = (weight.unflatten(0, (groups, -1)) * per_group).flatten(0, 1)
    return folded, shift if bias is None else bias * factor + shift


def _groups(layer: fx.Node) -> int:
    return cast(int, layer.args[6]) if len(layer.args) > 6 else 1


def _value(argument: Any, constants: dict[str, Tensor]) -> Tensor | None:
    is_constant = isinstance(argument, fx.Node) and argument.op == "get_attr"
    return constants[str(argument.target)] if is_constant else None


def _folded_names(weight: fx.Node, bias: Any, constants: dict[str, Tensor]) -> list[str]:
    """Names of folded parameters: their own, or new ones where others read the old values."""
    names = [str(weight.target)]
    if isinstance(bias, fx.Node):
        names.append(str(bias.target))
    else:
        stem = names[0].removesuffix("weight").removesuffix(".")
        names.append(free_name(f"{stem}.bias" if stem else "bias", constants))
    readers = {id(constants[name]): 0 for name in names if name in constants}
    for node in weight.graph.nodes:
        if node.op == "get_attr" and id(constants[str(node.target)]) in readers:
            readers[id(constants[str(node.target)])] += len(node.users)
    return [
        name
        if name not in constants or readers[id(constants[name])] == 1
        else free_name(f"{name}.folded", constants)
        for name in names
    ]
