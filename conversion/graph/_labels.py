"""Names of operations as a user knows them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from conversion.graph._operations import Role, name_of

_CONTAINERS = (
    "Sequential", "MultiheadAttention", "Transformer", "TransformerEncoder",
    "TransformerDecoder", "TransformerEncoderLayer", "TransformerDecoderLayer",
)  # fmt: skip


def labels_of(graph: fx.Graph, roles: Mapping[str, Role]) -> dict[str, str]:
    """A name for every operation: its module, and what it does where the module does more.

    Spiking layers come first, so that their names do not depend on what stands beside them, then
    what a module is there for.
    """
    operations = [node for node in graph.nodes if node.op == "call_function"]
    order = (Role.SPIKING, Role.SYNAPSE, Role.GATE, Role.ANALOG, Role.WIRE, Role.PLAIN)
    operations.sort(key=lambda node: order.index(roles[node.name]))
    taken: dict[str, str] = {}
    for node in operations:
        taken[_unique(_qualified(node), taken)] = node.name
    labels = {name: label for label, name in taken.items()}
    others = (node for node in graph.nodes if node.op != "call_function")
    kinds = {"placeholder": "input"}
    return labels | {n.name: f"{kinds.get(n.op, n.op)} {n.name}" for n in others}


def _qualified(node: fx.Node) -> str:
    path, kind = node.meta.get("module", ("", ""))
    own = kind.startswith("torch.nn.modules.") and kind.rpartition(".")[2] not in _CONTAINERS
    if own and path:
        return str(path)
    return f"{path}.{name_of(node)}" if path else name_of(node)


def _unique(name: str, taken: Mapping[str, str]) -> str:
    found, number = name, 0
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
