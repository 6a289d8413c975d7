"""A spiking model that runs in integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from conversion._errors import ConversionError
from conversion.export import ExportError, Program, program_of
from conversion.graph import Inputs, Network
from conversion.integers._fixed_point import (
    FixedPoint,
    FixedSteps,
    fixed_point,
    run_fixed_point,
)
from conversion.simulation import Simulation, SpikeCounter, SpikingModel, StreamState
from conversion.simulation._model import event_bits
from conversion.simulation._passes import check_steps

STATE_BITS = 16
"""Of potentials, biases and thresholds."""


class IntegerModel(SpikingModel):
    """A spiking model with weights of ``config.bits`` bits and 16 bits for everything else.

    :func:`conversion.export.program_of` must support the network.

    Attributes:
        fixed: The integer program.
    """

    fixed: FixedPoint

    @torch.inference_mode()
    def simulate(self, x: Any) -> Simulation:
        """Run all T steps, in integers; see :meth:`SpikingModel.simulate`."""
        inputs = self.network.take(x)
        (given,) = inputs.tensors
        steps, device = self.config.timesteps, self.network.device
        if self.network.feed != "static":
            check_steps(given, steps, steps)
        fixed = self._fixed_of_all_steps()
        run = run_fixed_point(fixed, given)
        signed = any(neuron.signed for neuron in self.neurons.values())
        counter = SpikeCounter(self.costs, event_bits(self.costs, self.neurons), signed=signed)
        for name, spikes in self._sources(fixed.program, given, run.spikes).items():
            counter.count(name, spikes.flatten(0, 1).to(device), steps)
        (name,) = self.network.output_names
        means = run.means.to(given.dtype)
        return Simulation(
            logits=self.outputs.main({name: means}),
            answers={name: means},
            outputs=self.network.structured([means]),
            counts=replace(counter.counts((steps, len(inputs))), weight_bits=self.config.bits),
        )

    def _sources(
        self, program: Program, given: Tensor, spikes: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        found = dict(spikes)
        if self.network.feed == "events":
            found[program.input.name] = given[:, : program.timesteps].transpose(0, 1)
        return found

    def _fixed_of_all_steps(self) -> FixedPoint:
        steps = self.config.timesteps
        return replace(self.fixed, program=replace(self.fixed.program, timesteps=steps))

    def _begin(self, x: Any) -> StreamState:
        return _IntegerStream(self.network, self._fixed_of_all_steps(), x)

    def running(self, timesteps: int) -> SpikingModel:
        """The same model with another T and without an exit rule."""
        plain = super().running(timesteps)
        if any(neuron.ceiling is not None for neuron in self.neurons.values()):  # they count steps
            return in_integers(plain, state_bits=self.fixed.state_bits)
        return _as_integers(plain, self.fixed)


class _IntegerStream(StreamState):
    """As :class:`StreamState`, in integers."""

    def __init__(self, network: Network, fixed: FixedPoint, x: Any) -> None:
        self._network, self._steps = network, FixedSteps(fixed)
        self.step = 0
        self._set_frames(network.take(x))
        self._begun = len(self._given)
        self.samples = torch.arange(self._begun, device=network.device)

    @property
    def begun(self) -> int:
        return self._begun

    def _set_frames(self, inputs: Inputs) -> None:
        (self._given,) = inputs.tensors
        self._first = self.step

    def advance(self) -> list[Any]:
        x = self._given
        if self._network.feed != "static":
            check_steps(x, self.step - self._first + 1, self.step + 1)
            x = x[:, self.step - self._first]
        self.step += 1
        return [self._steps.advance(x).to(self._given.dtype)]

    def keep(self, stay: Tensor) -> None:
        if bool(stay.all()):
            return
        index = stay.nonzero().squeeze(1)
        self.samples, self._given = self.samples[index], self._given[index]
        self._steps.keep(index)


def in_integers(model: SpikingModel, *, state_bits: int = STATE_BITS) -> SpikingModel:
    """The integer version of a model, if its config sets ``bits``; otherwise the model itself.

    Args:
        model: The model.
        state_bits: Width of potentials, biases and thresholds.

    Raises:
        ConversionError: The network has an operation that integers do not support.
    """
    bits = model.config.bits
    if bits is None:
        return model
    try:
        fixed = fixed_point(program_of(model), weight_bits=bits, state_bits=state_bits)
    except ExportError as error:
        raise ConversionError(f"{bits} bits need an integer network: {error}") from error
    return _as_integers(model, fixed)


def _as_integers(model: SpikingModel, fixed: FixedPoint) -> IntegerModel:
    found = model._with(IntegerModel)
    assert isinstance(found, IntegerModel)
    found.exit, found.fixed = model.exit, fixed
    return found
