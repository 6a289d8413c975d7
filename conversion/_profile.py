"""One pass over the calibration data, which collects all that later choices need."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from conversion._errors import ConfigError, ConversionError
from conversion._files import tensors_sha256
from conversion._html import html_table
from conversion._thresholds import (
    PERCENTILE,
    Granularity,
    Histogram,
    ThresholdRule,
    merge_channels,
    mmse_fractions,
    quantile,
)
from conversion.energy import Costs, costs
from conversion.graph import FEEDS, Feed, Inputs, Network, build_network, gather
from conversion.graph._capture import Model
from conversion.neurons import NEURONS
from conversion.outputs import Outputs, outputs_of
from conversion.simulation._passes import AnalogPass, ann_answers

_LOG = logging.getLogger("spikefront")

_BATCH = 128
"""Samples per pass of the ANN."""


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """Activation statistics of one spiking layer on the calibration data.

    Attributes:
        name: Layer name.
        shape: Shape of one sample's activation, ``(C, ...)``.
        mean: Mean activation per channel, ``(C,)``.
        neuron_mean: Mean activation per neuron, ``(C, ...)``.
        largest: Largest activation per channel, ``(C,)``.
        active: Fraction of activations above zero.
        fan_out: Mean accumulates that one spike of each channel causes, ``(C,)``.
        counts: Histogram counts ``(C, bins)``, bins relative to ``largest``.
        sums: Histogram sums ``(C, bins)`` in units of ``largest``.
        silent: Number of activations that were zero, ``(C,)``.
        headroom: Expected excess of the next sample over the largest activation, as a fraction.
    """

    name: str
    shape: tuple[int, ...]
    mean: Tensor
    neuron_mean: Tensor
    largest: Tensor
    active: float
    fan_out: Tensor
    counts: Tensor
    sums: Tensor
    silent: Tensor
    headroom: float = 0.0

    @property
    def neurons(self) -> int:
        """Number of neurons."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True, kw_only=True, repr=False)
class Profile:
    """A captured network and its statistics on the calibration data.

    Attributes:
        layers: One profile per spiking layer, in order of execution.
        network: The captured model.
        costs: Fan-outs and MACs.
        inputs: The calibration inputs.
        outputs: How the network's outputs are interpreted.
        data_fingerprint: SHA-256 of the calibration inputs.
    """

    layers: dict[str, LayerProfile]
    network: Network
    costs: Costs
    inputs: Inputs
    outputs: Outputs
    data_fingerprint: str
    _thresholds: dict[tuple[Any, ...], Tensor] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        samples, shape = len(self.inputs), self.inputs.describe()
        return f"Profile({len(self.layers)} spiking layers, {samples} samples of {shape})"

    def _repr_html_(self) -> str:
        """The layers, for notebooks."""
        rows = [
            (
                layer.name, "×".join(map(str, layer.shape)), f"{layer.neurons:,}",
                f"{layer.active:.0%}", f"{float(layer.fan_out.mean()):,.1f}",
                f"{float(layer.largest.max()):.3g}",
            )
            for layer in self.layers.values()
        ]  # fmt: skip
        head = ("layer", "shape", "neurons", "active", "mean fan-out", "largest activation")
        return html_table(head, rows, repr(self))

    @property
    def device(self) -> torch.device:
        """The device of the network and the calibration inputs."""
        return self.inputs.device

    @property
    def length(self) -> int | None:
        """Number of steps of inputs that vary over time; None if they are static."""
        return None if self.network.feed == "static" else int(self.inputs.tensors[0].shape[1])

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        """The ANN's outputs on the calibration inputs by name, samples first."""
        return _answers(self.network, self.inputs)

    def threshold(
        self,
        layer: str,
        *,
        phi: int,
        timesteps: int,
        shift: float,
        rule: ThresholdRule = "mmse",
        granularity: Granularity = "channel",
        neuron: str = "adafire",
    ) -> Tensor:
        """θ per channel, ``(C,)``, in units of the activation.

        Args:
            layer: Layer name.
            phi: Maximum spikes per step.
            timesteps: T of the MMSE formula.
            shift: Rounding shift of the MMSE formula.
            rule: ``"mmse"``, ``"max"`` or ``"percentile"``; see :class:`ConversionConfig`.
            granularity: ``"channel"`` or ``"layer"``.
            neuron: The neuron whose staircase the MMSE formula uses.
        """
        key = (layer, phi, timesteps, shift, rule, granularity, neuron)
        if key not in self._thresholds:
            theta = self._theta(*key)
            # A channel that never fired has no scale of its own, so it uses the layer's.
            spare = theta.max() if theta.max() > 0 else torch.ones((), dtype=theta.dtype)
            self._thresholds[key] = torch.where(theta > 0, theta, spare).float().to(self.device)
        return self._thresholds[key]

    def _theta(
        self,
        layer: str,
        phi: int,
        timesteps: int,
        shift: float,
        rule: ThresholdRule,
        granularity: Granularity,
        neuron: str,
    ) -> Tensor:
        found = self.layers[layer]
        counts, sums, largest = found.counts, found.sums, found.largest
        if granularity == "layer":
            counts, sums, largest = merge_channels(counts, sums, largest)
        if rule == "mmse":
            fraction = mmse_fractions(
                counts, sums, phi=phi, timesteps=timesteps, shift=shift, headroom=found.headroom,
                staircase=NEURONS[neuron].staircase,
            )  # fmt: skip
            theta = fraction * largest
        else:
            silent = found.silent.sum(0, keepdim=True) if granularity == "layer" else found.silent
            part = 1.0 if rule == "max" else PERCENTILE
            theta = quantile(counts, silent, part) * largest / phi
        return theta.expand(len(found.largest))


@torch.inference_mode(mode=False)
def profile(
    model: Model,
    data: Tensor | Inputs | Iterable[Any],
    *,
    device: torch.device | str = "cpu",
    batch_size: int = _BATCH,
    outputs: Outputs | str | int | None = None,
    feed: Feed = "static",
) -> Profile:
    """Capture a model and profile it on calibration data; labels are not needed.

    Args:
        model: A network with ReLU-like activations, in any mode, or an ``ExportedProgram`` with a
            dynamic batch size; never modified.
        data: Inputs ``(N, ...)``, or batches of inputs or of pairs ``(inputs, labels)``. Inputs are
            a tensor, a dict of keyword arguments, or a tuple of arguments (as the first of a pair,
            or as :class:`Inputs`).
        device: The device to run on.
        batch_size: Samples per forward pass.
        outputs: How the outputs are interpreted; the name or position of an output stands for its
            :class:`Classes`. None uses the only output, or the one called ``out`` or ``logits``, as
            classes.
        feed: How inputs arrive over time: ``"static"``, the same at every step; or ``(N, T, ...)``
            with a frame per step, of values (``"frames"``) or spike counts (``"events"``). The ANN
            sees the mean over the frames, the spiking network the first T of them.

    Raises:
        ConversionError: The model cannot be converted, or returns NaN or infinity.
        ConfigError: There is no calibration data.
    """
    inputs = gather(data)
    device = available_device(device)
    if feed not in FEEDS:
        raise ConfigError(f"feed must be one of {', '.join(FEEDS)}, got {feed!r}")
    network = build_network(model, _still(inputs, feed), feed=feed).to(device)
    read = outputs_of(outputs).chosen(network.output_names)
    if not network.sites:
        _LOG.warning(
            "the network has no ReLU-like activation (ReLU, ReLU6, Hardtanh): nothing in it will"
            " spike, and its spiking version costs as much as the ANN"
        )
    inputs = network.take(inputs.to(device))
    histograms = {name: Histogram(site.width) for name, site in network.sites.items()}
    with torch.inference_mode():
        analog = AnalogPass(network, lambda name, a: histograms[name].add(a))
        for batch in inputs.split(batch_size):
            answers = analog.run(batch)
            _check_finite(read.read(answers))
        read = read.fitted(lambda: _answers(network, inputs))
    cost = costs(network)
    layers = {name: _layer_profile(network, cost, name, h) for name, h in histograms.items()}
    _warn_of_few_values(histograms)
    return Profile(
        layers=layers,
        network=network,
        costs=cost,
        inputs=inputs,
        outputs=read,
        data_fingerprint=tensors_sha256(inputs.tensors),
    )


def _answers(network: Network, inputs: Inputs) -> dict[str, Tensor]:
    """The ANN's outputs by name, samples first."""
    with torch.inference_mode():
        parts = [ann_answers(network, x) for x in inputs.split(_BATCH)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _still(inputs: Inputs, feed: Feed) -> Inputs:
    """Some samples as the ANN takes them."""
    if feed == "static":
        return inputs
    few = inputs[:_PROBED]
    if any(x.dim() < 3 for x in few.tensors):
        raise ConfigError(f"inputs over time have the shape (N, T, ...), got {inputs.describe()}")
    wide = [x if x.is_floating_point() else x.float() for x in few.tensors]
    return few.with_tensors([x.mean(1) for x in wide])


_PROBED = 4


def _check_finite(answers: list[Tensor]) -> None:
    if not all(bool(torch.isfinite(answer).all()) for answer in answers):
        raise ConversionError("the ANN's outputs on the calibration data contain NaN or infinity")


def available_device(device: torch.device | str) -> torch.device:
    """Resolve the name of a device.

    Raises:
        ConfigError: The device is not available.
    """
    try:
        return torch.zeros(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the device {str(device)!r} is not available: {reason}") from error


def _headroom(found: Histogram, ceiling: float | None) -> float:
    """The headroom of a layer, limited by its upper clip."""
    largest = float(found.largest.max()) if found.channels else 0.0
    room = float("inf") if ceiling is None or largest <= 0 else ceiling / largest - 1
    return max(0.0, min(found.headroom(), room))


_FEW = 64
"""Calibration values per channel below which other inputs were seen to err several times as much
as with enough of them (``python -m benchmarks.headroom``)."""


def _warn_of_few_values(histograms: Mapping[str, Histogram]) -> None:
    few = [name for name, h in histograms.items() if h.samples_per_channel < _FEW]
    if few:
        count = min(histograms[name].samples_per_channel for name in few)
        _LOG.warning(
            "the layer %s has only %d calibration values per channel%s: other inputs will often"
            " exceed what was seen; give %d samples or more",
            few[0],
            count,
            f" (and {len(few) - 1} more layers like it)" if len(few) > 1 else "",
            4 * _FEW,
        )


def _layer_profile(network: Network, cost: Costs, name: str, found: Histogram) -> LayerProfile:
    site = network.sites[name]
    fan_out = site.to_channels(cost.fan_out[site.node][None])[0]
    counts, sums = found.relative_to_largest()
    return LayerProfile(
        name=name,
        shape=site.shape,
        mean=found.mean(),
        neuron_mean=found.sum_over_samples / max(1, found.samples),
        largest=found.largest,
        active=float(counts.sum()) / max(1, found.samples_per_channel * found.channels),
        fan_out=fan_out.reshape(found.channels, -1).mean(1),
        counts=counts,
        sums=sums,
        silent=found.samples_per_channel - counts.sum(1),
        headroom=_headroom(found, site.ceiling),
    )
