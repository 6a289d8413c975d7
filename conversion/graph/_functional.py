"""Whether a graph changes a tensor in place in a way that is more than a new name for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_MAY_ALIAS = (
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "contiguous",
    "reshape", "flatten", "to", "type_as", "view_as", "expand_as", "reshape_as", "movedim",
    "moveaxis", "swapaxes", "swapdims", "chunk", "split", "tensor_split", "narrow", "einsum",
    "unsafe_chunk", "unsafe_split",
)  # fmt: skip
"""Operations that may give their input back although their schema does not say so."""


def mutates(node: fx.Node) -> bool:
    """Whether a node writes into its first argument."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_functional(graph: fx.Graph) -> bool:
    """Whether every in-place operation works on a value that nothing else looks into.

    Then :func:`out_of_place` is all that is to be done; else the graph needs
    ``ExportedProgram.run_decompositions``, which takes several times as long.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    return all(
        _is_alone(node, order) and out_of_place(node.target) is not None
        for node in graph.nodes
        if mutates(node)
    )


def _is_alone(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    source = node.args[0]
    if not isinstance(source, fx.Node) or _aliases(source):
        return False
    return not any(_aliases(user) for user in source.users if order[user] < order[node])


def _aliases(node: fx.Node) -> bool:
    """Whether a node may give a view of its input."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op == "call_function"
    if mutates(node):
        return False  # its result is the only name that is left
    schema = node.target._schema
    name = schema.name.partition("::")[2]
    return name in _MAY_ALIAS or any(r.alias_info is not None for r in schema.returns)


def out_of_place(target: Any) -> Any:
    """The operation that does the same to a copy, or None."""
    packet = str(target._schema.name).partition("::")[2]
    functional = getattr(torch.ops.aten, packet.removesuffix("_"), None)
    return getattr(functional, target._overloadname, None) if functional is not None else None


def make_functional(graph: fx.Graph) -> None:
    """Replace in-place operations; who reads the changed value afterwards reads the result."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not mutates(node):
            continue
        source: Any = node.args[0]
        for user in [user for user in source.users if order[user] > order[node]]:
            user.replace_input_with(source, node)
        node.target = out_of_place(node.target)
