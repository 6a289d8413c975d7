"""A hash that tells models apart by what they compute."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from conversion._files import tensors_sha256
from conversion.graph._normalise import Pick, is_size
from conversion.graph._operations import name_of


def fingerprint(graph: fx.Graph, constants: Mapping[str, Tensor]) -> str:
    """SHA-256 over what a model does, node by node, and over every tensor that it uses."""
    digest = hashlib.sha256()
    position = {node: f"%{i}" for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if node.op == "get_attr":
            value = constants[str(node.target)]
            text = f"{value.dtype} {tuple(value.shape)} {tensors_sha256([value])};"
            digest.update(text.encode())
            continue
        options = {k: v for k, v in node.kwargs.items() if k not in _PLACES}
        arguments = fx.node.map_arg((node.args, options), position.__getitem__)
        kind = name_of(node) if node.op == "call_function" else node.op
        result = node.target.index if isinstance(node.target, Pick) else ""
        digest.update(f"{kind}{result} {arguments} {_shape(node)};".encode())
    return digest.hexdigest()


_PLACES = ("device", "layout", "pin_memory", "memory_format", "non_blocking")
"""Arguments that say where a value is, and not what."""


def _shape(node: fx.Node) -> str:
    value = node.meta.get("val")
    if is_size(node):
        return _open(value)
    if not isinstance(value, Tensor):
        return ""
    return f"{value.dtype} {[_open(n) for n in value.shape]}"


def _open(size: Any) -> str:
    """A size with N for the batch, whatever its symbol is called."""
    if not isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return str(size)
    expression = size.node.expr
    names = {symbol: sympy.Symbol("N") for symbol in expression.free_symbols}
    return str(expression.xreplace(names))
