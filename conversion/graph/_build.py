"""From a model to the network that every pass runs on, checked against the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from conversion._errors import ConversionError
from conversion.graph._capture import Model, capture, run, twin
from conversion.graph._fingerprint import fingerprint
from conversion.graph._inputs import Feed, Inputs, wide
from conversion.graph._network import Network, Timing
from conversion.graph._normalise import describe, fold, is_size, normalise
from conversion.graph._operations import call, name_of

_PROBES = 3


def build_network(
    model: Model, samples: Any, *, feed: Feed = "static", check: bool = True
) -> Network:
    """Capture, fold and classify a model.

    Args:
        model: A network in any mode, on any device, or an exported program; never changed.
        samples: At least one input, ``(N, ...)``, as the ANN takes it.
        feed: How inputs arrive over time.
        check: Whether to compare with the model, and samples with each other, on real values.

    Raises:
        ConversionError: The model cannot be captured, has an unsupported form, mixes samples, or
            its folded copy does not compute what the model computes.
    """
    _check_model(model)
    given = Inputs.of(samples)
    given.check()
    source = model if isinstance(model, ExportedProgram) else twin(model)
    if not isinstance(source, ExportedProgram):
        _check_tensors(source)
        device = next((p.device for p in source.parameters()), torch.device("cpu"))
        given = given.to(device)
    probe = _probe(given)
    # Run before it is captured: that says more clearly what is wrong with the inputs.
    expected = _first_run(source, given, probe) if check else None
    captured = capture(source, probe)
    graph, constants = captured.graph, captured.constants
    for node, module in captured.modules.items():
        node.meta["module"] = module
    normalise(graph, constants)
    digest = fingerprint(graph, constants)
    fold(graph, constants)
    _as_channels_last(graph, constants)
    network = Network(
        graph,
        constants,
        inputs=probe,
        outputs=captured.outputs,
        fingerprint=digest,
        feed=feed,
    )
    if check:
        _check(network, source, probe, expected)
    return network


def run_ann(
    network: Network, inputs: Inputs, observe: Callable[[fx.Node, Any], None] | None = None
) -> list[Any]:
    """The outputs of the ANN, in the order of their structure.

    Args:
        network: The network.
        inputs: A batch, in the network's structure.
        observe: Told of each node and its value, which is freed after its last use; what it gives
            back, if not None, takes the value's place.
    """
    values: dict[fx.Node, Any] = {}
    given = iter(inputs.tensors)
    samples = len(inputs)
    last = {source: node for node in network.graph.nodes for source in node.all_input_nodes}

    def value(node: fx.Node) -> Any:
        return network.size(node, samples) if is_size(node) else values[node]

    for node in network.graph.nodes:
        if node.op == "output":
            return [fx.node.map_arg(leaf, value) for leaf in node.args[0]]
        if is_size(node):
            continue
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = network.constant(node)
        else:
            values[node] = call(node, value, network.device)
        if observe is not None:
            changed = observe(node, values[node])
            values[node] = values[node] if changed is None else changed
        for source in node.all_input_nodes:
            if last[source] is node:
                values.pop(source, None)
    raise AssertionError("a graph ends with its output")


def _check_model(model: object) -> None:
    if not isinstance(model, (torch.nn.Module, ExportedProgram)):
        kind = "a class" if isinstance(model, type) else f"a {type(model).__name__}"
        raise ConversionError(
            f"a model is an nn.Module or a torch.export.ExportedProgram, got {kind}; load a state"
            " dict into its module, and wrap a function in one"
        )


def _first_run(model: Model, given: Inputs, probe: Inputs) -> Any:
    if isinstance(model, ExportedProgram):
        return None
    try:
        return run(model, probe)
    except ConversionError as error:
        try:
            run(model, given)
        except ConversionError:
            raise error from None
        raise ConversionError(
            f"the model works for batches of {len(given)} samples and not of {len(probe)}; write"
            f" x.shape[0] where a number stands for the size of the batch ({error})"
        ) from error


def _probe(given: Inputs) -> Inputs:
    """Three different samples: of the given ones, or made from them."""
    tensors = []
    for x in given.tensors:
        rows = [x[i % len(x)] for i in range(_PROBES)]
        if x.is_floating_point():  # scaled, which keeps positive values positive
            rows = [row * (1 - 0.1 * (i // len(x))) for i, row in enumerate(rows)]
        tensors.append(torch.stack(rows))
    return given.with_tensors(tensors)


def _check_tensors(model: torch.nn.Module) -> None:
    _check_finite({**dict(model.named_parameters()), **dict(model.named_buffers())})


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
            raise ConversionError(f"the parameter {name!r} of the model contains NaN")
    for name, tensor in tensors.items():
        is_weight = name.rpartition(".")[2] in ("weight", "bias")
        if is_weight and tensor.is_floating_point() and bool(torch.isinf(tensor).any()):
            raise ConversionError(f"the parameter {name!r} of the model contains infinity")


def _as_channels_last(graph: fx.Graph, constants: dict[str, Tensor]) -> None:
    """Measured 2 to 3 times faster on small CPU convolutions, never slower."""
    if not any(name_of(node) in ("conv2d", "conv_transpose2d") for node in graph.nodes):
        return
    for name, value in constants.items():
        if value.dim() == 4:
            constants[name] = value.to(memory_format=torch.channels_last)


def _check(network: Network, model: Model, probe: Inputs, expected: Any) -> None:
    """Compare with the model; and two samples in another order, without the third, with before.

    Raises:
        ConversionError: They differ; where samples mix, the message names the first operation.
    """
    order = torch.tensor([1, 0], device=probe.device)
    values: dict[fx.Node, Tensor] = {}

    def keep(node: fx.Node, value: Any) -> None:
        if network.timing[node.name].value >= Timing.STATIC.value and isinstance(value, Tensor):
            values[node] = _sizes(network.axes[node.name].front(value))[order]

    def compare(node: fx.Node, value: Any) -> None:
        if node not in values:
            return
        mine, before = _sizes(network.axes[node.name].front(value)), values.pop(node)
        if not torch.allclose(mine, before, rtol=1e-3, atol=1e-3 * float(before.mean()) + 1e-9):
            raise ConversionError(
                f"{describe(node)} mixes the samples of a batch: what it returns for a sample"
                " depends on the others; samples must not be averaged, sorted or moved across the"
                " batch"
            )

    expected = run(model, probe) if expected is None else expected
    _check_same(run_ann(network, probe.simulated(), keep), expected, probe)
    other = probe[order]
    found = run_ann(network, other.simulated(), compare)
    _check_same(found, run(model, other), other)


def _check_same(found: list[Any], expected: Any, probe: Inputs) -> None:
    foreign = pytree.tree_leaves(expected)
    if len(foreign) != len(found):
        raise ConversionError(
            f"the model returns {len(foreign)} values when it runs, and {len(found)} when it is"
            " captured"
        )
    for mine, other in zip(found, foreign, strict=True):
        if not isinstance(other, Tensor) or not isinstance(mine, Tensor):
            continue
        half = any(wide(x.dtype) != x.dtype for x in (other, *probe.tensors))
        if not other.is_floating_point():
            continue
        if not bool(torch.isfinite(other).all()):
            raise ConversionError("the model's outputs on its inputs contain NaN or infinity")
        error = (mine.double() - other.double()).norm() / other.double().norm().clamp_min(1e-12)
        # Rounding alone has been seen to give 1e-4 where variances are tiny.
        if not error <= (0.1 if half else 1e-3):
            raise ConversionError(
                f"the captured network differs from the model by {error:.1e} (relative) for"
                f" {len(probe)} samples: the model's output depends on the number of samples or"
                " on something besides its inputs and parameters, or the capture is wrong"
            )


def _sizes(x: Tensor) -> Tensor:
    """Norms of four parts of each sample, ``(N, 4)``: a fraction of the cost of all values."""
    x = torch.view_as_real(x) if x.is_complex() else x
    rows = torch.nan_to_num(x.reshape(len(x), -1).float(), posinf=0.0, neginf=0.0)
    parts = rows.tensor_split(4, dim=1)
    return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], dim=1)
