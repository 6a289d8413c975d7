"""A traced network brought into the one form that every pass understands.

Afterwards BatchNorm is folded where it can be, nothing happens in place, every node gives one
tensor, no node but the first dimension's own knows the size of the batch, and what does not
depend on the input is a constant.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from conversion._errors import ConversionError

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
SYNAPSE_MODULES = (*CONVS, *TRANSPOSED, nn.Linear)

_DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)  # fmt: skip
_DROPOUT_FUNCTIONS = (
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
    "feature_dropout", "stochastic_depth",
)  # fmt: skip
_RESHAPES: tuple[Callable[..., Any], ...] = (torch.flatten, torch.reshape, torch.squeeze)
_RESHAPE_METHODS = ("view", "reshape", "flatten", "squeeze")
_SPLITS = ("chunk", "split", "tensor_split", "unbind")
_OUT_OF_PLACE: dict[Any, Any] = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
}
_TWO_OPERANDS = (torch.add, torch.sub, torch.mul, torch.div)
_TWO_OPERAND_METHODS = ("add", "sub", "mul", "div")
_PROBE = 3
"""Samples of the probe whose shapes tell which numbers are the size of the batch."""


def rewrite(module: fx.GraphModule, sample: Tensor) -> None:
    """Bring a traced network into the one form, in place, and record the shape of every node.

    Args:
        module: A traced network in evaluation mode.
        sample: At least one input, ``(N, ...)``.

    Raises:
        ConversionError: A node mixes samples, or gives something else than one tensor.
    """
    probe = torch.cat([sample[:1]] * _PROBE)
    _drop_dropout(module)
    _choose_output(module)
    ShapeProp(module).propagate(probe)
    _make_operands_positional(module)
    _name_functional_synapses(module)
    _fold_batch_norm(module)
    _make_out_of_place(module)
    _name_parts(module)
    _choose_results(module)
    _fix_reshapes(module)
    _fix_expands(module)
    _fold_constants(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    module.delete_all_unused_submodules()
    ShapeProp(module).propagate(probe)


def shape_of(node: Any) -> torch.Size:
    """Shape of the one tensor that a node gave to the probe, batch included.

    Raises:
        ConversionError: It gives something else.
    """
    meta = node.meta.get("tensor_meta")
    if meta is None or not hasattr(meta, "shape"):
        raise ConversionError(f"node {node.name!r} does not give one tensor")
    return cast(torch.Size, meta.shape)


def reshape_samples(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape every sample, whatever the size of the batch: ``(B, *) -> (B, *shape)``."""
    return x.reshape(x.shape[0], *shape)


def for_each_sample(constant: Tensor, x: Tensor) -> Tensor:
    """A constant ``(1, ...)`` once for every sample of ``x``."""
    return constant.expand(x.shape[0], *constant.shape[1:])


class Pick(nn.Module):
    """One result of a module, or of a function, that has several."""

    def __init__(self, inner: Callable[..., Any], index: int) -> None:
        super().__init__()
        self.inner = inner
        self.index = index

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The chosen result."""
        return self.inner(*args, **kwargs)[self.index]


def _drop_dropout(module: fx.GraphModule) -> None:
    modules = dict(module.named_modules())
    for node in list(module.graph.nodes):
        is_module = node.op == "call_module" and isinstance(
            modules[node.target], (*_DROPOUTS, nn.Identity)
        )
        name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
        if is_module or name in _DROPOUT_FUNCTIONS:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _fold_batch_norm(module: fx.GraphModule) -> None:
    modules = dict(module.named_modules())
    calls: dict[Any, int] = {}
    for node in module.graph.nodes:
        calls[node.target] = calls.get(node.target, 0) + 1
    for node in list(module.graph.nodes):
        norm = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, NORMS):
            continue
        if norm.running_mean is None:
            raise ConversionError(
                f"node {node.name!r} normalises by the statistics of each batch; give its"
                " BatchNorm running statistics"
            )
        source = node.args[0]
        layer = modules.get(source.target) if source.op == "call_module" else None
        if not isinstance(layer, SYNAPSE_MODULES):
            continue
        shared = calls[source.target] > 1 or calls[node.target] > 1 or len(source.users) > 1
        if shared or (isinstance(layer, nn.Linear) and len(shape_of(source)) != 2):
            continue  # it stays a per-channel affine map of its own
        _set_module(module, source.target, _fold(layer, norm))
        modules[source.target] = module.get_submodule(source.target)
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)


def _fold(layer: nn.Module, norm: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, cast(nn.BatchNorm1d, norm))
    transposed = isinstance(layer, TRANSPOSED)
    folded: nn.Module = fuse_conv_bn_eval(cast(Any, layer), cast(Any, norm), transpose=transposed)
    return folded


def _set_module(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def _make_out_of_place(module: fx.GraphModule) -> None:
    """Make every operation leave its input alone; who read the changed input reads the result."""
    order = {node: position for position, node in enumerate(module.graph.nodes)}
    modules = dict(module.named_modules())
    for node in module.graph.nodes:
        if not _is_in_place(node, modules):
            continue
        source = node.args[0]
        if isinstance(source, fx.Node):
            for user in [user for user in source.users if order[user] > order[node]]:
                user.replace_input_with(source, node)
        if node.op == "call_method":
            node.target = node.target.rstrip("_")
        elif node.op == "call_function":
            node.target = _out_of_place(node.target)
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
    for submodule in modules.values():
        if getattr(submodule, "inplace", False):
            cast(Any, submodule).inplace = False


def _is_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op not in ("call_method", "call_function"):
        return False
    name = str(getattr(node.target, "__name__", node.target))
    by_name = name.endswith("_") and not name.endswith("__")
    return by_name or node.target in _OUT_OF_PLACE or bool(node.kwargs.get("inplace", False))


def _out_of_place(function: Any) -> Any:
    """The function that does the same to a copy."""
    name = getattr(function, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return getattr(torch, name[:-1], None) or getattr(F, name[:-1])
    return _OUT_OF_PLACE.get(function, function)


def _make_operands_positional(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        lists = node.target in (torch.cat, torch.stack)
        names = ("tensors",) if lists else ("input", "other")
        if not (lists or node.target in (*_TWO_OPERANDS, *_TWO_OPERAND_METHODS)):
            continue
        kwargs = dict(node.kwargs)
        node.args = (*node.args, *(kwargs.pop(name) for name in names if name in kwargs))
        node.kwargs = kwargs


_FUNCTIONAL_CONVS: dict[Any, type[nn.Module]] = {
    F.conv1d: nn.Conv1d,
    F.conv2d: nn.Conv2d,
    F.conv3d: nn.Conv3d,
}


def _name_functional_synapses(module: fx.GraphModule) -> None:
    """Make modules of functional convolutions and linear layers whose weights are constant."""
    _fold_constants(module)
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is F.linear:
            made = _linear_of(module, node)
        elif node.target in _FUNCTIONAL_CONVS:
            made = _conv_of(module, node)
        else:
            continue
        if made is None:
            continue
        name = f"functional_{node.name}"
        module.add_submodule(name, made)
        with module.graph.inserting_before(node):
            _replace(node, module.graph.call_module(name, (node.args[0],)))


def _linear_of(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    given = _arguments(node, ("input", "weight", "bias"))
    weight, bias = _constant(module, given["weight"]), _constant(module, given.get("bias"))
    if weight is None or (given.get("bias") is not None and bias is None):
        return None
    return _with_weights(
        nn.Linear(weight.shape[1], weight.shape[0], bias is not None), weight, bias
    )


def _conv_of(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = _arguments(node, names)
    weight, bias = _constant(module, given["weight"]), _constant(module, given.get("bias"))
    if weight is None or (given.get("bias") is not None and bias is None):
        return None
    groups = given.get("groups", 1)
    settings = {key: given[key] for key in ("stride", "padding", "dilation") if key in given}
    make = cast(Any, _FUNCTIONAL_CONVS[node.target])
    conv = make(
        weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), groups=groups,
        bias=bias is not None, **settings,
    )  # fmt: skip
    return _with_weights(conv, weight, bias)


def _arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    return cast(Tensor, operator.attrgetter(str(node.target))(module))


def _with_weights(layer: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return cast(nn.Module, layer.eval())


def _choose_output(module: fx.GraphModule) -> None:
    """Of a dict of outputs, as segmentation networks give it, keep the one called ``out``."""
    node = next(n for n in module.graph.nodes if n.op == "output")
    if isinstance(node.args[0], dict) and "out" in node.args[0]:
        node.args = (node.args[0]["out"],)
    module.graph.eliminate_dead_code()


def _name_parts(module: fx.GraphModule) -> None:
    """Replace the parts of a ``chunk``, ``split`` or ``unbind`` by slices of their own."""
    for node in list(module.graph.nodes):
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        if node.op not in ("call_method", "call_function") or name not in _SPLITS:
            continue
        source, dim = node.args[0], _split_dim(node)
        if dim == 0:
            raise ConversionError(f"node {node.name!r} splits the batch; split another dimension")
        sizes = [meta.shape[dim] if name != "unbind" else 1 for meta in node.meta["tensor_meta"]]
        for part in list(node.users):
            index = part.args[1] % len(sizes)
            where = (source, dim, sum(sizes[:index]))
            with module.graph.inserting_before(part):
                if name == "unbind":
                    piece = module.graph.call_function(torch.select, where)
                else:
                    piece = module.graph.call_function(torch.narrow, (*where, sizes[index]))
            _replace(part, piece)


def _split_dim(node: fx.Node) -> int:
    is_unbind = "unbind" in str(node.target)
    place = 1 if is_unbind else 2
    dim = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    return int(cast(int, dim)) % len(shape_of(node.args[0]))


def _choose_results(module: fx.GraphModule) -> None:
    """Of nodes with several results keep the one that is used, as attention does."""
    for node in list(module.graph.nodes):
        meta = node.meta.get("tensor_meta")
        several = meta is not None and not hasattr(meta, "shape")
        if not several or node.op == "output":
            continue
        used = [user for user in node.users if user.users]
        if not all(user.target in (operator.getitem, getattr) for user in used):
            continue
        for user in used:
            with module.graph.inserting_before(user):
                chosen = _chosen(module, node, cast(Any, user.args[1]))
            _replace(user, chosen)


def _chosen(module: fx.GraphModule, node: fx.Node, result: int | str) -> fx.Node:
    """A node that gives one result, by position or by name, as of ``torch.max(x, dim)``."""
    index = ("values", "indices").index(result) if isinstance(result, str) else result
    inner: Any = node.target
    if node.op == "call_module":
        inner = module.get_submodule(inner)
    elif node.op == "call_method":
        inner = getattr(torch.Tensor, inner)
    name = f"result_{index}_of_{node.name}"
    module.add_submodule(name, Pick(inner, index))
    return module.graph.call_module(name, node.args, node.kwargs)


def _replace(old: fx.Node, new: fx.Node) -> None:
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def _fix_reshapes(module: fx.GraphModule) -> None:
    """Make every reshape keep the batch, which the simulation multiplies by T."""
    modules = dict(module.named_modules())
    for node in list(module.graph.nodes):
        if not _is_reshape(node, modules):
            continue
        shape = shape_of(node)
        if shape[0] != _PROBE or shape_of(node.args[0])[0] != _PROBE:
            raise ConversionError(
                f"node {node.name!r} reshapes across the batch dimension, to {tuple(shape)};"
                " keep the first dimension for the batch"
            )
        sizes = tuple(int(size) for size in shape[1:])
        with module.graph.inserting_after(node):
            fixed = module.graph.call_function(reshape_samples, (node.args[0], sizes))
        _replace(node, fixed)


def _is_reshape(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], (nn.Flatten, nn.Unflatten))
    if "tensor_meta" not in node.meta:
        return False
    if node.op == "call_method":
        return node.target in _RESHAPE_METHODS
    return node.op == "call_function" and node.target in _RESHAPES


def _fix_expands(module: fx.GraphModule) -> None:
    """Give every sample its copy of a constant such as a class token, whatever the batch is."""
    entry = next(n for n in module.graph.nodes if n.op == "placeholder")
    for node in list(module.graph.nodes):
        if node.target not in ("expand", "repeat", torch.Tensor.expand) or node.op == "output":
            continue
        before, after = shape_of(node.args[0]), shape_of(node)
        if after[0] == _PROBE and before[0] == 1 and tuple(before[1:]) == tuple(after[1:]):
            with module.graph.inserting_after(node):
                fixed = module.graph.call_function(for_each_sample, (node.args[0], entry))
            _replace(node, fixed)


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute once what does not depend on the input."""
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = operator.attrgetter(str(node.target))(module)
        sources = node.all_input_nodes
        if node.op not in ("call_function", "call_method") or not sources:
            continue
        if not all(source in known for source in sources):
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        function = cast(Any, node.target)
        is_method = node.op == "call_method"
        function = getattr(args[0], function) if is_method else function
        value = function(*args[1:], **kwargs) if is_method else function(*args, **kwargs)
        if not isinstance(value, Tensor):
            known[node] = value
            continue
        name = f"constant_{node.name}"
        module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        known[constant] = value
        _replace(node, constant)
