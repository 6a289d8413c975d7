"""A program run step by step, as literally as it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from conversion.export._program import Layer, Program

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_LARGEST = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@dataclass
class RunState:
    """What a program remembers between steps, by layer; samples in front.

    Attributes:
        step: Steps done.
        membrane: Potentials, in units of the threshold.
        emitted: Net spikes so far.
        arrived: Of max-pools: spikes so far at their input, and at their output.
    """

    step: int = 0
    membrane: dict[str, Tensor] = field(default_factory=dict)
    emitted: dict[str, Tensor] = field(default_factory=dict)
    arrived: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, index: Tensor) -> None:
        """Drop all samples but those at ``index``, ``(m,)``."""
        for known in (self.membrane, self.emitted):
            known.update({name: value[index] for name, value in known.items()})
        for name, (before, passed) in self.arrived.items():
            self.arrived[name] = before[index], passed[index]


OnSpikes = Callable[[str, Tensor], None]
Fire = Callable[[Layer, Tensor, RunState], Tensor]


def run_step(
    program: Program,
    x: Tensor,
    state: RunState,
    on_spikes: OnSpikes | None = None,
    *,
    fire: Fire | None = None,
) -> Tensor:
    """One step: what the output adds up, ``(N, ...)``.

    Args:
        program: With unit spikes.
        x: Its input at this step, ``(N, ...)``.
        state: Changed in place.
        on_spikes: Told of each layer's spike counts, ``(N, C, ...)``.
        fire: Takes the place of the neurons: spikes of a layer for its current.
    """
    fire = fire or _fire
    state.step += 1
    values: dict[str, Tensor] = {}
    for layer in program.layers.values():
        if layer.kind == "input":
            values[layer.name] = x
        elif layer.kind == "fire":
            values[layer.name] = fire(layer, values[layer.inputs[0]], state)
        else:
            values[layer.name] = _value(layer, values, state)
        if on_spikes is not None and layer.kind in ("fire", "largest"):
            on_spikes(layer.name, values[layer.name])
    return values["output"]


def _value(layer: Layer, values: dict[str, Tensor], state: RunState) -> Tensor:
    given = [values[name] for name in layer.inputs]
    first, rank = given[0], given[0].dim() - 2
    if layer.kind == "conv":
        return _CONV[rank](
            first,
            _as(layer.weight, first),
            None if layer.bias is None else _as(layer.bias, first),
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )
    if layer.kind == "linear":
        bias = None if layer.bias is None else _as(layer.bias, first)
        return F.linear(first, _as(layer.weight, first), bias)
    if layer.kind == "sum":
        return given[0] + given[-1]
    if layer.kind == "scale":
        scaled = first * _per_channel(layer.weight, first)
        return scaled if layer.bias is None else scaled + _per_channel(layer.bias, first)
    if layer.kind in ("average", "total"):
        pooled = _AVERAGE[rank](first, layer.kernel, layer.stride, layer.padding)
        pooled = pooled.reshape(-1, *layer.shape)
        return pooled if layer.kind == "average" else (pooled * prod(layer.kernel)).round()
    if layer.kind == "largest":
        return _largest(layer, first, state)
    if layer.kind == "flatten":
        return first.reshape(-1, *layer.shape)
    return first


def _largest(layer: Layer, spikes: Tensor, state: RunState) -> Tensor:
    """The largest sum of spikes of a window so far, less what was passed on of it."""
    before = state.arrived.get(layer.name)
    arrived = spikes if before is None else before[0] + spikes
    pool = _LARGEST[spikes.dim() - 2]
    passed = pool(arrived, layer.kernel, layer.stride, layer.padding, layer.dilation)
    state.arrived[layer.name] = (arrived, passed)
    return passed if before is None else passed - before[1]


def _fire(layer: Layer, current: Tensor, state: RunState) -> Tensor:
    neuron = layer.neuron
    assert neuron is not None
    if layer.name not in state.membrane:
        state.membrane[layer.name] = _as(neuron.v_init, current).expand_as(current).clone()
        state.emitted[layer.name] = torch.zeros_like(current)
    membrane = state.membrane[layer.name] + current + _per_channel(neuron.bias, current)
    emitted = state.emitted[layer.name]
    size = _per_channel(neuron.threshold, current)
    fired = (membrane / size).clamp(0, neuron.phi).floor()
    if neuron.ceiling is not None:
        most = _per_channel(neuron.ceiling[state.step - 1], current)
        fired = torch.minimum(fired, most - emitted)
    if neuron.signed and state.step > 1:
        back = (membrane <= -0.25 * size) & (emitted > 0.5)
        fired = torch.where(back, -torch.ones_like(fired), fired)
    state.membrane[layer.name] = membrane - fired * size
    state.emitted[layer.name] = emitted + fired
    return fired


def _as(values: Tensor | None, like: Tensor) -> Tensor:
    assert values is not None
    return values.to(like)


def _per_channel(values: Tensor | None, like: Tensor) -> Tensor:
    return _as(values, like).view(-1, *[1] * (like.dim() - 2))


@torch.inference_mode()
def run_program(
    program: Program, x: Tensor, on_spikes: OnSpikes | None = None
) -> tuple[Tensor, RunState]:
    """All T steps.

    Args:
        program: With unit spikes.
        x: ``(N, ...)``, or ``(N, T, ...)`` of one over time.
        on_spikes: Told of each layer's spike counts, step by step.

    Returns:
        Mean outputs of the steps so far, ``(T, N, ...)``, and the last state.
    """
    state, total, means = RunState(), None, []
    for step in range(program.timesteps):
        frame = x[:, step] if program.over_time else x
        output = run_step(program, frame, state, on_spikes)
        total = output if total is None else total + output
        means.append(total / (step + 1))
    return torch.stack(means), state


def binary_trains(counts: Tensor, phi: int) -> Tensor:
    """Bursts as single spikes, for hardware that knows no others.

    A step becomes φ micro-steps, and a burst of n spikes one spike in each of the first n of them.
    An integrate-and-fire neuron of one spike a micro-step fires just so, if all that arrives in a
    step is there before its first micro-step: layers take turns, each φ micro-steps of its own.
    Negative spikes stay negative.

    Args:
        counts: Spike counts of each step, ``(T, N, ...)``.
        phi: Most of them, in size.

    Returns:
        −1, 0 or 1, ``(T·φ, N, ...)``.
    """
    micro = torch.arange(phi, device=counts.device).view(1, phi, *[1] * (counts.dim() - 1))
    fires = (micro < counts.abs().unsqueeze(1)).to(counts.dtype)
    return (fires * counts.sign().unsqueeze(1)).flatten(0, 1)
