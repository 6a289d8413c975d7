"""The spiking network of the .npz file next to this one, built from torch's and sinabs's layers.

    network = runpy.run_path("NAME.sinabs.py")["network"](batch_size=len(x))
    answers = network.answers(x)  # mean outputs of T steps

The module itself maps ``(samples · steps, ...)`` to the same, the steps of a sample one after the
other, as ``IAFSqueeze`` has it, and remembers its state until ``network.reset()``. Needs torch,
NumPy and sinabs, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sinabs.activation import MaxSpike, MembraneSubtract
from sinabs.layers import IAFSqueeze, Merge
from torch import Tensor, nn

CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
AVERAGE: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
LARGEST: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


class PerChannel(nn.Module):
    """``x · weight + bias`` in each channel."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor | float, bias: Tensor | float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.as_tensor(weight))
        self.register_buffer("bias", torch.as_tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)


class Reshape(nn.Module):
    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape)


class Growth(nn.Module):
    """Max pooling of spikes: by how much the largest sum of spikes in a window grows at a step."""

    def __init__(self, pool: nn.Module, batch_size: int) -> None:
        super().__init__()
        self.pool, self.batch_size = pool, batch_size
        self.before: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        sums = x.unflatten(0, (self.batch_size, -1)).cumsum(1)
        start = 0 if self.before is None else self.before[0].unsqueeze(1)
        largest = self.pool((sums + start).flatten(0, 1)).unflatten(0, sums.shape[:2])
        last = torch.zeros_like(largest[:, 0]) if self.before is None else self.before[1]
        self.before = (sums + start)[:, -1], largest[:, -1]
        growth: Tensor = largest.diff(dim=1, prepend=last.unsqueeze(1))
        return growth.flatten(0, 1)


class Network(nn.Module):
    """From ``(samples · steps, ...)``, the steps of a sample one after the other, to the same."""

    def __init__(self, data: Any, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.modules_of = nn.ModuleDict()
        self.starts: dict[str, Tensor] = {}
        self.wiring: list[tuple[str, str, list[str]]] = []
        program = json.loads(str(data["program"]))
        self.timesteps, self.over_time = program["timesteps"], program["over_time"]
        for layer in program["layers"]:
            key = layer["name"].replace(".", "_")
            while hasattr(self.modules_of, key) or key in self.modules_of:
                key += "_"
            twice = layer["kind"] == "sum" and len(layer["inputs"]) == 1  # x + x
            self.wiring.append((key, layer["name"], layer["inputs"] * (2 if twice else 1)))
            found = {
                k: torch.from_numpy(data[f"{layer['name']}/{k}"])
                for k in ("weight", "bias", "v_init")
                if f"{layer['name']}/{k}" in data
            }
            self.modules_of[key] = made(layer, found, batch_size)
            if "v_init" in found:
                self.starts[key] = found["v_init"]
        self.reset()

    def reset(self) -> None:
        """Forget the last batch: potentials are what they were before the first step."""
        for module in self.modules():
            if isinstance(module, Growth):
                module.before = None
        for key, start in self.starts.items():
            layer: Any = self.modules_of[key]
            layer = layer[-1] if isinstance(layer, nn.Sequential) else layer
            layer.v_mem = start.to(layer.v_mem).expand(self.batch_size, *start.shape).clone()

    def answers(self, x: Tensor) -> Tensor:
        """Mean outputs of T steps, without early exit, after a reset.

        Inputs are ``(batch_size, ...)``, or ``(batch_size, T, ...)`` if they vary over time.
        """
        if len(x) != self.batch_size:
            raise ValueError(f"this network takes {self.batch_size} samples, got {len(x)}")
        steps = (
            x[:, : self.timesteps]
            if self.over_time
            else x[:, None].expand(-1, self.timesteps, *x.shape[1:])
        )
        self.reset()
        outputs: Tensor = self(steps.flatten(0, 1))
        by_sample: Tensor = outputs.unflatten(0, (self.batch_size, self.timesteps))
        return by_sample.mean(1)

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor] = {}
        for key, name, inputs in self.wiring:
            values[name] = self.modules_of[key](*[values[i] for i in inputs] or [x])
        return values["output"]


def made(layer: dict[str, Any], found: dict[str, Tensor], batch_size: int) -> nn.Module:
    """The module of one layer."""
    kind, shape = layer["kind"], layer["shape"]
    if kind == "fire":
        return neurons(layer, found["bias"], batch_size)
    if kind in ("conv", "linear"):
        return weighted(layer, found["weight"], found.get("bias"))
    if kind == "scale":
        return PerChannel(found["weight"], found.get("bias", 0.0))
    if kind in ("average", "largest"):
        return pooling(layer, batch_size)
    if kind == "flatten":
        return nn.Flatten() if len(shape) == 1 else Reshape(shape)
    if kind == "sum":
        merge: nn.Module = Merge()
        return merge
    if kind in ("input", "output"):
        return nn.Identity()
    raise ValueError(f"this file does not know the layer {kind!r}")


def neurons(layer: dict[str, Any], bias: Tensor, batch_size: int) -> nn.Module:
    """Integrate and fire up to φ spikes per step, with soft reset and no floor."""
    found: nn.Module = IAFSqueeze(
        batch_size=batch_size, spike_threshold=1.0, spike_fn=MaxSpike(layer["phi"]),
        reset_fn=MembraneSubtract(), min_v_mem=None,
    )  # fmt: skip
    return nn.Sequential(PerChannel(1.0, bias), found) if bias.any() else found


def pooling(layer: dict[str, Any], batch_size: int) -> nn.Module:
    """Average pooling of spikes, or max pooling of their sums."""
    rank = len(layer["kernel"])
    options = {"stride": layer["stride"], "padding": layer["padding"]}
    if layer["kind"] == "largest":
        pool = LARGEST[rank](layer["kernel"], **options, dilation=layer["dilation"])
        return Growth(pool, batch_size)
    average: nn.Module = AVERAGE[rank](layer["kernel"], **options)
    if len(layer["shape"]) == rank + 1:
        return average
    return nn.Sequential(average, Reshape(layer["shape"]))


def weighted(layer: dict[str, Any], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A convolution or linear layer with its weights."""
    built: nn.Module
    if layer["kind"] == "linear":
        built = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    else:
        built = CONV[weight.dim() - 2](
            weight.shape[1] * layer["groups"], weight.shape[0], tuple(weight.shape[2:]),
            stride=layer["stride"], padding=layer["padding"], dilation=layer["dilation"],
            groups=layer["groups"], bias=bias is not None,
        )  # fmt: skip
    built.load_state_dict({"weight": weight} | ({"bias": bias} if bias is not None else {}))
    return built.requires_grad_(False)


def network(batch_size: int) -> Network:
    """The network for batches of this many samples."""
    with np.load(Path(__file__).with_suffix(".npz")) as data:
        return Network({key: data[key] for key in data}, batch_size)
