"""One NumPy archive, readable with NumPy alone."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from conversion._exits import ExitRule
from conversion._files import write_file
from conversion.export._program import Layer, Program

SCHEMA = "spikefront/npz"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Integers:
    """Parameters of an integer program that a reader needs.

    Attributes:
        weight_bits: Width of the weights before they are shifted.
        state_bits: Width of the potentials, which saturate.
        output_scale: Value of one unit of the output.
    """

    weight_bits: int
    state_bits: int
    output_scale: float


def save_npz(
    program: Program,
    path: Path,
    *,
    exit: ExitRule | None = None,
    integers: Integers | None = None,
) -> list[Path]:
    """Write the layers with their weights and unit spikes, as float32; integers as int32.

    The entry ``program`` is a JSON text: T, the early exit, and the layers in order, each with its
    kind, inputs and options; their arrays are called ``<layer>/weight`` and so on. There is a
    simulator of 90 lines in docs/export.md. Thresholds are 1; in integers they are arrays, currents
    are rounded, and an average pool is a ``total``. Weights on analog inputs stay fractions.

    Raises:
        FileError: The file cannot be written.
    """
    arrays: dict[str, Any] = {}
    layers = [_described(layer, arrays, integers) for layer in program.layers.values()]
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "timesteps": program.timesteps,
        "over_time": program.over_time,
        "exit": {"score": exit.score, "thresholds": list(exit.thresholds)} if exit else None,
        "integers": asdict(integers) if integers else None,
        "layers": layers,
    }
    buffer = io.BytesIO()
    np.savez(buffer, program=np.array(json.dumps(about)), **arrays)
    return [write_file(path, buffer.getvalue())]


def _described(layer: Layer, arrays: dict[str, Any], integers: Integers | None) -> dict[str, Any]:
    described: dict[str, Any] = {"name": layer.name, "kind": layer.kind}
    described |= {"inputs": list(layer.inputs), "shape": list(layer.shape)}
    for name in ("stride", "padding", "dilation", "kernel"):
        if getattr(layer, name):
            described[name] = list(getattr(layer, name))
    if layer.kind == "conv":
        described["groups"] = layer.groups
    tensors: dict[str, Tensor | None] = {"weight": layer.weight, "bias": layer.bias}
    if layer.neuron is not None:
        neuron = layer.neuron
        described |= {"phi": neuron.phi, "signed": neuron.signed}
        tensors = {"v_init": neuron.v_init, "bias": neuron.bias, "size": neuron.size,
                   "ceiling": neuron.ceiling}  # fmt: skip
        tensors |= {"threshold": neuron.threshold} if integers else {}
    for name, tensor in tensors.items():
        if tensor is not None:
            whole = integers is not None and name != "size" and tensor.equal(tensor.round())
            arrays[f"{layer.name}/{name}"] = (tensor.int() if whole else tensor.float()).numpy()
    return described
