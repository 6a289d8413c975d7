"""NIR, for other simulators and chips, with golden vectors that prove how they read it."""

from __future__ import annotations

import importlib
import io
import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from conversion._files import write_file
from conversion.export._program import ExportError, Layer, Program, program_of
from conversion.export._run import run_program
from conversion.export._semantics import READERS, Agreement, compare
from conversion.simulation import SpikingModel

_GOLDEN = 8
"""Samples that are replayed."""


def nir_graph(program: Program) -> Any:
    """The ``nir.NIRGraph`` of a program: spikes as units, sums as edges.

    Average pools and scales become convolutions, since not all readers support ``AvgPool2d`` and
    ``Scale``; grouped convolutions become dense.

    Raises:
        ExportError: NIR has no node for a layer, or the package ``nir`` is missing.
    """
    nir = _package("nir")
    nodes: dict[str, Any] = {}
    sums: dict[str, list[str]] = {}
    edges: list[tuple[str, str]] = []
    for layer in program.layers.values():
        sources = [s for name in layer.inputs for s in sums.get(name, [name])]
        if layer.kind == "sum":
            sums[layer.name] = sources
            continue
        nodes[layer.name] = _node(nir, layer, program)
        edges += [(source, layer.name) for source in sources]
    return nir.NIRGraph(nodes=nodes, edges=edges, type_check=False)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(f"this format needs the package {name}: pip install {name}") from error


def _node(nir: Any, layer: Layer, program: Program) -> Any:
    shape = np.array(layer.shape)
    if layer.kind == "input":
        return nir.Input(input_type={"input": shape})
    if layer.kind == "output":
        return nir.Output(output_type={"output": shape})
    if layer.kind == "fire":
        assert layer.neuron is not None
        if bool(layer.neuron.bias.any()):
            raise ExportError(f"no layer before {layer.name!r} can take the bias of its neurons")
        sizes = _numpy(layer.neuron.threshold).reshape(-1, *[1] * (len(layer.shape) - 1))
        thresholds = np.broadcast_to(sizes, layer.shape).copy()
        return nir.IF(r=np.ones_like(thresholds), v_threshold=thresholds)
    before = program.layers[layer.inputs[0]].shape
    if layer.kind == "flatten":
        start = {"input": np.array(before)}
        return nir.Flatten(input_type=start, start_dim=0, end_dim=-1)
    if layer.kind == "linear":
        return nir.Affine(weight=_numpy(layer.weight), bias=_bias(layer, layer.shape[0]))
    if layer.kind == "scale" and len(before) == 1:
        assert layer.weight is not None
        return nir.Affine(weight=np.diag(_numpy(layer.weight)), bias=_bias(layer, before[0]))
    if layer.kind in ("conv", "scale", "average"):
        return _convolution(nir, layer, before)
    raise ExportError(f"NIR has no node for {layer.name!r}: {layer.kind} of windows over time")


def _convolution(nir: Any, layer: Layer, before: tuple[int, ...]) -> Any:
    rank, channels = len(before) - 1, before[0]
    if rank > 2:
        raise ExportError(f"NIR has no convolution of rank {rank}, as {layer.name!r} needs")
    ones, groups = (1,) * rank, channels
    stride, padding, dilation = ones, (0,) * rank, ones
    if layer.kind == "conv":
        weight, groups = _numpy(layer.weight), layer.groups
        stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    elif layer.kind == "scale":
        weight = _numpy(layer.weight).reshape(channels, 1, *ones)
    else:
        weight = np.full((channels, 1, *layer.kernel), 1 / np.prod(layer.kernel), np.float32)
        stride, padding = layer.stride, layer.padding
    common = {
        "weight": _dense(layer, weight, groups),
        "groups": 1,
        "bias": _bias(layer, len(weight)),
    }
    if rank == 1:
        return nir.Conv1d(
            input_shape=before[1], stride=stride[0], padding=padding[0], dilation=dilation[0],
            **common,
        )  # fmt: skip
    return nir.Conv2d(
        input_shape=tuple(before[1:]), stride=stride, padding=padding, dilation=dilation, **common
    )


_MOST_WEIGHTS = 2**24


def _dense(layer: Layer, weight: np.ndarray, groups: int) -> np.ndarray:
    """Weights of one group, zeros between the former ones: NIR's type check knows no groups."""
    if groups == 1:
        return weight
    outputs, inputs = len(weight) // groups, weight.shape[1]
    shape = (len(weight), inputs * groups, *weight.shape[2:])
    if np.prod(shape, dtype=float) > _MOST_WEIGHTS:
        raise ExportError(
            f"{layer.name!r} has {groups} groups of channels, which NIR's readers do not support;"
            f" expanded it would have {np.prod(shape, dtype=float):.2g} weights"
        )
    found = np.zeros(shape, np.float32)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        found[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return found


def _numpy(values: Tensor | None) -> np.ndarray:
    assert values is not None
    return values.float().numpy()


def _bias(layer: Layer, size: int) -> np.ndarray:
    return np.zeros(size, np.float32) if layer.bias is None else _numpy(layer.bias)


def save_nir(
    model: SpikingModel, path: Path, *, reader: str, x: Tensor, approximate: bool = False
) -> tuple[Agreement, list[Path]]:
    """Write ``path`` (NIR) for one reader, with a sidecar for what NIR lacks and golden vectors.

    ``<name>.nir.json`` holds φ, T and how the reader's network differs; ``<name>.nir.npz`` the
    initial potentials by layer, and inputs with the expected spikes of every layer and mean
    outputs.

    Args:
        model: The spiking model.
        path: Path of the graph.
        reader: The program that will read it, one of :data:`READERS`.
        x: Inputs to compare on; the first eight are replayed.
        approximate: Whether to write a network that the reader runs differently.

    Raises:
        ExportError: The reader would run a different network, and ``approximate`` is false.
        FileError: The file cannot be written.
    """
    if reader not in READERS:
        raise ExportError(f"reader {reader!r} is unknown; known: {', '.join(READERS)}")
    program = program_of(model, plain_shortcuts=not READERS[reader].uniform)
    graph = nir_graph(program)
    x = x.double().cpu()
    found = compare(program, READERS[reader], x)
    if READERS[reader].depth_first and (missed := missed_sums(graph.edges)):
        raise ExportError(
            f"{reader} runs graphs depth first and would miss a branch of the sums at"
            f" {', '.join(missed)}: only shortcuts without a layer of their own can be read"
            f"{_instead(reader)}"
        )
    if not (found.exact or approximate):
        raise ExportError(
            f"{reader} would run another network: {found.differing:.2%} of the spike counts differ,"
            f" outputs by up to {found.output:.1%}, and {found.decisions:.0%} of the decisions stay"
            f" ({_why(program, reader)}). --approximate writes it all the same{_instead(reader)}"
        )
    about = {
        "reader": asdict(READERS[reader]),
        "timesteps": program.timesteps,
        "input_over_time": program.over_time,
        "agreement": asdict(found),
        "layers": {
            layer.name: {"phi": layer.neuron.phi, "signed": layer.neuron.signed}
            for layer in program.fires
            if layer.neuron is not None
        },
    }
    files = [
        write_file(path, _bytes(graph)),
        write_file(path.with_suffix(".nir.json"), json.dumps(about, indent=2) + "\n"),
        write_file(path.with_suffix(".nir.npz"), _golden(program, x[:_GOLDEN])),
    ]
    return found, files


def _instead(reader: str) -> str:
    return "; --format sinabs writes the exact network" if reader == "sinabs" else ""


def missed_sums(edges: Iterable[tuple[str, str]]) -> list[str]:
    """Nodes that a depth-first run reaches before all of their inputs."""
    children: dict[str, list[str]] = {}
    parents: dict[str, list[str]] = {}
    for source, target in edges:
        children.setdefault(source, []).append(target)
        parents.setdefault(target, []).append(source)
    done: list[str] = []
    waiting = [next(node for node in children if node not in parents)]
    missed = []
    while waiting:
        node = waiting.pop()
        if node not in done:
            missed += [node] if any(p not in done for p in parents.get(node, ())) else []
            done.append(node)
            waiting += reversed(children.get(node, []))
    return missed


def _why(program: Program, reader: str) -> str:
    """What of a program a reader's neuron cannot do."""
    neurons = [layer.neuron for layer in program.fires if layer.neuron is not None]
    semantics = READERS[reader]
    reasons: Iterable[tuple[bool, str]] = (
        (any(n.signed for n in neurons), "dual-threshold neurons fire negative spikes"),
        (any(n.ceiling is not None for n in neurons), "ReLU6 has a ceiling"),
        (semantics.most is None, "it knows no largest φ"),
        (semantics.most is not None and any(n.phi > semantics.most for n in neurons),
         f"it fires at most {semantics.most} spike a step"),
        (semantics.floor is not None, f"its potentials stop at {semantics.floor}"),
        (semantics.reset == "zero", "it resets to 0"),
        (semantics.leak != 1, f"it leaks, {semantics.leak} stay"),
    )  # fmt: skip
    return "; ".join(text for applies, text in reasons if applies)


def _bytes(graph: Any) -> bytes:
    nir = _package("nir")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "graph.nir"
        nir.write(place, graph)
        return place.read_bytes()


def _golden(program: Program, x: Tensor) -> bytes:
    kept: dict[str, list[np.ndarray]] = {}
    means, _ = run_program(
        program, x, lambda name, spikes: kept.setdefault(name, []).append(spikes.numpy())
    )
    arrays: dict[str, Any] = {
        f"spikes/{name}": np.stack(found).astype(np.int16) for name, found in kept.items()
    }
    for layer in program.fires:
        assert layer.neuron is not None
        arrays[f"v_init/{layer.name}"] = _numpy(layer.neuron.v_init)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, input=x.float().numpy(), output=means.float().numpy(), **arrays)
    return buffer.getvalue()
