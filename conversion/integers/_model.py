"""A spiking model that runs in integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from conversion._errors import ConversionError
from conversion.export import ExportError, Program, program_of
from conversion.integers._fixed_point import FixedPoint, fixed_point, run_fixed_point
from conversion.simulation import Inference, Simulation, SpikeCounter, SpikingModel
from conversion.simulation._model import event_bits

STATE_BITS = 16
"""Of potentials, biases and thresholds."""


class IntegerModel(SpikingModel):
    """A spiking model with weights of ``config.bits`` bits and 16 bits for everything else.

    :func:`conversion.export.program_of` must support the network. All samples run all steps; the
    early exit is applied afterwards.

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
        fixed = replace(self.fixed, program=replace(self.fixed.program, timesteps=steps))
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

    def step(self, x: Any = None, state: Any = None) -> Any:
        """Not in integers: raises :class:`ConversionError`."""
        raise ConversionError(
            "an integer model runs all steps at once; export it to run it step by step"
        )

    @torch.inference_mode()
    def infer(self, x: Any) -> Inference:
        """Outputs at each sample's exit; see :meth:`SpikingModel.infer`."""
        found = self.simulate(x)
        steps, samples = found.logits.shape[:2]
        exits = torch.full((samples,), steps - 1, device=found.logits.device)
        if self.exit is not None:
            score = self.exit.score
            certain = [self.outputs.confidence(found.at(step), score) for step in range(steps)]
            exits = self.exit.exits(torch.stack(certain))
        rows = torch.arange(samples, device=exits.device)
        named = {name: answer[exits, rows] for name, answer in found.answers.items()}
        (only,) = named.values()
        return Inference(
            logits=self.outputs.main(named),
            answers=named,
            outputs=self.network.structured([only]),
            timesteps=exits + 1,
        )

    def running(self, timesteps: int) -> SpikingModel:
        """The same model with another T and without an exit rule."""
        plain = super().running(timesteps)
        if any(neuron.ceiling is not None for neuron in self.neurons.values()):  # they count steps
            return in_integers(plain, state_bits=self.fixed.state_bits)
        return _as_integers(plain, self.fixed)


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
