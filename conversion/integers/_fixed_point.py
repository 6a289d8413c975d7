"""Weights, biases, thresholds and potentials as integers, simulated exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from conversion._errors import ConfigError
from conversion.export import ExportError, Layer, Program, RunState, run_step
from conversion.export._run import OnSpikes

Granularity = Literal["channel", "layer"]

_ROOM = 128
"""Thresholds that a potential can hold: of large currents and small φ much stays behind."""

_CANDIDATES = 9
"""Thresholds that are tried, from half of the largest on."""


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """A program of integers.

    A spiking layer's threshold is the integer V, and all that arrives is counted in V-ths of a
    spike: biases and potentials are whole numbers, weights are whole numbers of their bits, shifted
    left by a number of bits for each channel. Analog inputs stay outside: the currents of a first
    layer on them are rounded to whole numbers.

    Attributes:
        program: With integer weights, biases, thresholds and potentials.
        weight_bits: Width of weights, with their sign.
        state_bits: Width of potentials: they stop at its ends.
        output_scale: What one unit of the output is worth in the ANN's.
        clipped: Weights that did not fit and were clipped, as a fraction.
    """

    program: Program
    weight_bits: int
    state_bits: int
    output_scale: float
    clipped: float


@dataclass(frozen=True, kw_only=True)
class FixedRun:
    """What integers gave.

    Attributes:
        means: Mean outputs of the steps so far, in the ANN's units, ``(T, N, ...)``.
        spikes: By layer, of each step, ``(T, N, C, ...)``.
        overflows: Potentials that stopped at an end of their range, as a fraction of all.
        largest: Largest size of a potential, before it stopped.
    """

    means: Tensor
    spikes: Mapping[str, Tensor]
    overflows: float
    largest: float


def fixed_point(
    program: Program,
    *,
    weight_bits: int,
    state_bits: int = 16,
    granularity: Granularity = "channel",
) -> FixedPoint:
    """Round a program to integers.

    Thresholds leave room for 128 of them in a potential. A channel's threshold and the shifts of
    the weights that arrive there are those of the least squared error of the weights within their
    bits; a few of the largest may be clipped for it.

    Args:
        program: With thresholds of 1.
        weight_bits: 2 to 16, sign included.
        state_bits: Of potentials and thresholds, 8 to 32, sign included.
        granularity: A threshold for each channel, or the same for a layer.

    Raises:
        ConfigError: Bits are out of range.
        ExportError: The program has an average pool between a layer and its neurons.
    """
    if not 2 <= weight_bits <= 16:
        raise ConfigError(f"weight_bits must be in 2..16, got {weight_bits!r}")
    if not 8 <= state_bits <= 32:
        raise ConfigError(f"state_bits must be in 8..32, got {state_bits!r}")
    outside = _outside(program)
    program = _with_totals(program, outside)
    layers = dict(program.layers)
    most, highest = 2 ** (weight_bits - 1) - 1, 2 ** (state_bits - 1) - 1
    clipped = counted = 0
    for fire in program.fires:
        feeds = [layers[name] for name in _feeds(program, fire.inputs[0])]
        inside = [feed for feed in feeds if feed.name not in outside]
        threshold, units = _units(fire, inside, most, highest // _ROOM, granularity)
        for feed in feeds:
            unit = units.get(feed.name, threshold)
            layers[feed.name] = _rounded(feed, unit, threshold / unit, most, feed.name in outside)
        clipped += sum(_clipped(feed, units[feed.name], most) for feed in inside)
        counted += sum(feed.weight.numel() for feed in inside if feed.weight is not None)
        layers[fire.name] = _integer_neurons(fire, threshold)
    scale, outputs = _output_layers(program, layers, most, outside)
    layers |= outputs
    _check_whole(layers, outside)
    return FixedPoint(
        program=replace(program, layers=layers),
        weight_bits=weight_bits,
        state_bits=state_bits,
        output_scale=scale,
        clipped=clipped / max(counted, 1),
    )


@torch.inference_mode()
def run_fixed_point(fixed: FixedPoint, x: Tensor) -> FixedRun:
    """All T steps, in integers, held in floats of enough digits to be exact.

    Args:
        fixed: The integer program.
        x: ``(N, ...)``, or ``(N, T, ...)`` of one over time.
    """
    program, steps, means = fixed.program, FixedSteps(fixed), []
    spikes: dict[str, list[Tensor]] = {}
    for step in range(program.timesteps):
        frame = x[:, step] if program.over_time else x
        means.append(steps.advance(frame, lambda n, s: spikes.setdefault(n, []).append(s)))
    return FixedRun(
        means=torch.stack(means),
        spikes={name: torch.stack(found) for name, found in spikes.items()},
        overflows=steps.watch.stopped / max(steps.watch.seen, 1),
        largest=steps.watch.largest,
    )


class FixedSteps:
    """A run of an integer program step by step, on a batch that may shrink.

    Attributes:
        watch: The neurons, which count overflows.
    """

    def __init__(self, fixed: FixedPoint) -> None:
        self._fixed, self._state = fixed, RunState()
        self._dtype = torch.float32 if largest_sum(fixed) < 2**24 else torch.float64
        self._total = torch.zeros((), dtype=torch.float64)
        self.watch = _Watch(2 ** (fixed.state_bits - 1))

    def advance(self, x: Tensor, on_spikes: OnSpikes | None = None) -> Tensor:
        """Run one step; mean outputs of the steps so far, in the ANN's units, ``(n, ...)``."""
        output = run_step(
            self._fixed.program, x.to(self._dtype), self._state, on_spikes, fire=self.watch.fire
        )
        self._total = self._total + output.double() * self._fixed.output_scale
        return self._total / self._state.step

    def keep(self, index: Tensor) -> None:
        """Drop all samples but those at ``index``, ``(m,)``."""
        self._state.keep(index)
        self._total = self._total[index]


def largest_sum(fixed: FixedPoint) -> float:
    """A bound on every sum of whole numbers: of currents, biases and a potential."""
    program, largest = fixed.program, 0.0
    most: dict[str, float] = {}
    for layer in program.layers.values():
        given = [most[name] for name in layer.inputs]
        if layer.kind == "input":
            found = 2.0**15 if program.events else 0.0  # analog values are rounded only later
        elif layer.kind == "fire":
            assert layer.neuron is not None
            largest = max(largest, given[0] + 2.0 ** (fixed.state_bits - 1))
            found = float(layer.neuron.phi)
        elif layer.kind == "total":
            found = given[0] * prod(layer.kernel)
        elif layer.kind == "largest":
            found = given[0] * program.timesteps
        elif layer.weight is not None:
            bias = 0.0 if layer.bias is None else float(layer.bias.abs().max())
            found = float(_rows(layer).abs().sum(1).max()) * given[0] + bias
        else:
            found = sum(given)
        most[layer.name] = found
        largest = max(largest, found)
    return largest


class _Watch:
    """Neurons with integer potentials that stop at the ends of their range."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.stopped = self.seen = 0
        self.largest = 0.0

    def fire(self, layer: Layer, current: Tensor, state: RunState) -> Tensor:
        """Spikes of a layer for its current."""
        neuron = layer.neuron
        assert neuron is not None
        shape = (-1, *[1] * (current.dim() - 2))
        if layer.name not in state.membrane:
            state.membrane[layer.name] = neuron.v_init.to(current).expand_as(current)
            state.emitted[layer.name] = torch.zeros_like(current)
        size, emitted = neuron.threshold.to(current).view(shape), state.emitted[layer.name]
        arrived = current.round() + neuron.bias.to(current).view(shape)
        membrane = self._stop(state.membrane[layer.name] + arrived)
        fired = torch.div(membrane, size, rounding_mode="floor").clamp(0, neuron.phi)
        if neuron.ceiling is not None:
            most = neuron.ceiling[state.step - 1].to(current).view(shape)
            fired = torch.minimum(fired, most - emitted)
        if neuron.signed and state.step > 1:
            back = (4 * membrane <= -size) & (emitted > 0.5)
            fired = torch.where(back, -torch.ones_like(fired), fired)
        state.membrane[layer.name] = membrane - fired * size
        state.emitted[layer.name] = emitted + fired
        return fired

    def _stop(self, membrane: Tensor) -> Tensor:
        self.largest = max(self.largest, float(membrane.abs().max()))
        inside = membrane.clamp(-self._end, self._end - 1)
        self.stopped += int((inside != membrane).sum())
        self.seen += membrane.numel()
        return inside


def _with_totals(program: Program, outside: set[str]) -> Program:
    """Average pools of spikes as sums; their division goes into the weights behind."""
    layers = dict(program.layers)
    shares: dict[str, float] = {}
    for layer in program.layers.values():
        share = shares.get(layer.inputs[0], 1.0) if layer.inputs else 1.0
        if layer.kind == "average" and layer.name not in outside:
            layers[layer.name] = replace(layer, kind="total")
            shares[layer.name] = share / prod(layer.kernel)
        elif layer.kind in ("flatten", "largest"):
            shares[layer.name] = share
        elif layer.kind in ("conv", "linear", "scale") and share != 1:
            assert layer.weight is not None
            layers[layer.name] = replace(layer, weight=layer.weight * share)
        elif share != 1:
            raise ExportError(
                f"fixed point needs weights between the average pool and {layer.name!r}"
            )
    return replace(program, layers=layers)


def _outside(program: Program) -> set[str]:
    """Layers that work on analog inputs: their currents are made outside."""
    if program.events:
        return set()
    found = {program.input.name}
    for layer in program.layers.values():
        alone = bool(layer.inputs) and set(layer.inputs) <= found
        if layer.kind not in ("fire", "output") and alone:
            found.add(layer.name)
    return found


def _check_whole(layers: Mapping[str, Layer], outside: set[str]) -> None:
    """Raise :class:`ExportError` where a layer of spikes kept weights that are not whole."""
    for layer in layers.values():
        weight = layer.weight
        if weight is not None and layer.name not in outside and not weight.equal(weight.round()):
            raise ExportError(
                f"{layer.name!r} feeds neither a layer of neurons of its own nor the output, so its"
                " weights have no scale for integers"
            )


def _feeds(program: Program, source: str) -> Iterator[str]:
    """The layers with weights whose outputs add up at a place."""
    layer = program.layers[source]
    if layer.kind in ("conv", "linear", "scale"):
        yield source
    elif layer.kind == "sum":
        for name in layer.inputs:
            yield from _feeds(program, name)
    else:
        raise ExportError(f"fixed point needs weights between {source!r} and its successors")


def _rows(layer: Layer) -> Tensor:
    """Weights by output channel, ``(C, ...)``."""
    assert layer.weight is not None
    return layer.weight.reshape(len(layer.weight), -1)


def _units(
    fire: Layer, feeds: list[Layer], most: int, highest: int, granularity: Granularity
) -> tuple[Tensor, dict[str, Tensor]]:
    """V of each channel, and into how many parts each layer's weights cut a spike, ``(C,)``.

    The parts are V over a power of two; both make the least squared error of the weights.
    """
    channels = fire.shape[0]
    rows = {feed.name: _rows(feed).double() for feed in feeds}
    if granularity == "layer":
        rows = {name: found.reshape(1, -1) for name, found in rows.items()}
    options = torch.linspace(highest / 2, highest, _CANDIDATES).round().clamp_min(1).double()
    found = {name: _best_units(weights, options, most) for name, weights in rows.items()}
    errors = sum((error for error, _ in found.values()), torch.zeros(_CANDIDATES, 1))
    chosen = errors.flip(0).argmin(0)  # of equal ones the largest
    chosen = _CANDIDATES - 1 - chosen
    units = {
        name: parts.gather(0, chosen.expand(1, parts.shape[1]))[0].expand(channels)
        for name, (_, parts) in found.items()
    }
    return options[chosen].expand(channels).clone(), units


def _best_units(rows: Tensor, options: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Of each candidate V, ``(options, C)``: the least squared error, and its unit."""
    shifts = 2.0 ** torch.arange(32, dtype=torch.float64)
    errors, units = [], []
    for size in options.tolist():
        tried = size / shifts
        error = torch.stack([
            ((rows * unit).round().clamp(-most, most) / unit - rows).square().sum(1)
            for unit in tried.tolist()
        ])  # fmt: skip
        best = error.argmin(0)
        errors.append(error.gather(0, best[None])[0])
        units.append(tried[best])
    return torch.stack(errors), torch.stack(units)


def _rounded(layer: Layer, unit: Tensor, shift: Tensor, most: int, outside: bool) -> Layer:
    """Whole weights and biases; of what works outside they stay as fine as they are."""
    assert layer.weight is not None
    shape = (-1, *[1] * (layer.weight.dim() - 1))
    weight = layer.weight * unit.view(shape)
    bias = None if layer.bias is None else layer.bias * unit * shift
    if not outside:
        weight = weight.round().clamp(-most, most)
        bias = None if bias is None else bias.round()
    return replace(layer, weight=weight * shift.view(shape), bias=bias)


def _clipped(layer: Layer, unit: Tensor, most: int) -> int:
    return int(((_rows(layer) * unit[:, None]).round().abs() > most).sum())


def _integer_neurons(fire: Layer, threshold: Tensor) -> Layer:
    neuron = fire.neuron
    assert neuron is not None
    shape = (-1, *[1] * (neuron.v_init.dim() - 1))
    changes: dict[str, Any] = {
        "threshold": threshold,
        "v_init": (neuron.v_init * threshold.view(shape)).round(),
        "bias": (neuron.bias * threshold).round(),
    }
    return replace(fire, neuron=replace(neuron, **changes))


def _output_layers(
    program: Program, layers: Mapping[str, Layer], most: int, outside: set[str]
) -> tuple[float, dict[str, Layer]]:
    """The last layers with one scale for all outputs, since these are compared."""
    source = program.output.inputs[0]
    while program.layers[source].kind == "flatten":
        source = program.layers[source].inputs[0]
    feeds = [layers[name] for name in _feeds(program, source)]
    if all(feed.name in outside for feed in feeds):
        return 1.0, {}
    largest = max(float(_rows(feed).abs().max()) for feed in feeds)
    unit = most / max(largest, 1e-12)
    rounded = {}
    for feed in feeds:
        units = torch.full((feed.shape[0],), unit, dtype=torch.float64)
        shift = torch.full_like(units, _OUTPUT_SHIFT)
        rounded[feed.name] = _rounded(feed, units, shift, most, outside=False)
    return 1 / (unit * _OUTPUT_SHIFT), rounded


_OUTPUT_SHIFT = 16.0
"""By how much the biases of the last layer are finer than its weights."""
