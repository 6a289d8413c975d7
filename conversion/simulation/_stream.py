"""A batch on its way through the steps, smaller with every sample that is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conversion._errors import ConversionError
from conversion.graph import Inputs, Network
from conversion.neurons import AdaFire
from conversion.simulation._passes import SpikingPass


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Outputs of the samples that ran a step.

    Attributes:
        samples: Their positions in the original batch, ``(n,)``.
        logits: Running mean of the main output, ``(n, ...)``.
        answers: Running means of all outputs, by name.
        leaves: Which of them leave, being confident enough or at T, ``(n,)``.
        step: Number of steps they ran.
    """

    samples: Tensor
    logits: Tensor
    answers: Mapping[str, Tensor]
    leaves: Tensor
    step: int


class StreamState:
    """Potentials and sums between two steps, for the samples that still run.

    Args:
        network: The network.
        neurons: Its layers of neurons by name.
        x: Inputs of the network; if they vary over time, the frames available so far.

    Attributes:
        samples: Positions in the original batch of the samples that still run, ``(n,)``.
        step: Steps done.
    """

    def __init__(self, network: Network, neurons: dict[str, AdaFire], x: Any) -> None:
        self._network = network
        self._run = SpikingPass(network, neurons)
        self._pass = self._run.start(x)
        self._totals: list[Any] = []
        self.samples = torch.arange(self._pass.samples, device=network.device)
        self.step = 0

    @property
    def begun(self) -> int:
        """Number of samples in the original batch."""
        return self._pass.begun

    def feed(self, frames: Any) -> None:
        """Provide the next frames, ``(n, T, ...)``, of the samples that still run.

        Raises:
            ConversionError: Their number of samples or their form does not match, or the network's
                input is static.
        """
        if self._network.feed == "static":
            raise ConversionError("the input of this network is static: pass it only once")
        inputs = self._network.take(frames)
        if len(inputs) != len(self.samples):
            raise ConversionError(
                f"{len(self.samples)} samples still run, got frames of {len(inputs)}; see"
                " state.samples"
            )
        self._set_frames(inputs)

    def _set_frames(self, inputs: Inputs) -> None:
        tensors = zip(self._pass.sequence, inputs.tensors, strict=True)
        self._pass.sequence, self._pass.first = dict(tensors), self.step

    def advance(self) -> list[Any]:
        """Run one step; returns the running means of all outputs, in order."""
        found = self._run.advance(self._pass, 1)
        self.step += 1
        self._totals = [self._added(i, value) for i, value in enumerate(found)]
        return [v / self.step if self._counts(i, v) else v for i, v in enumerate(self._totals)]

    def keep(self, stay: Tensor) -> None:
        """Drop the samples that have left; ``stay``, ``(n,)``, is true for the others."""
        if bool(stay.all()):
            return
        index = stay.nonzero().squeeze(1)
        self.samples = self.samples[index]
        self._pass.keep(index)
        self._totals = [v[index] if self._varies(i) else v for i, v in enumerate(self._totals)]

    def _varies(self, index: int) -> bool:
        return self._network.output_axis(index) is not None

    def _counts(self, index: int, value: Any) -> bool:
        return self._varies(index) and adds_up(value)

    def _added(self, index: int, value: Any) -> Any:
        counts = self._totals and self._counts(index, value)
        return self._totals[index] + value if counts else value


def one_frame(x: Any) -> Inputs:
    """A frame ``(n, ...)`` as inputs of one step, ``(n, 1, ...)``."""
    inputs = Inputs.of(x)
    return inputs.with_tensors([tensor.unsqueeze(1) for tensor in inputs.tensors])


def adds_up(value: Any) -> bool:
    """Whether the outputs of the steps are averaged: indices and booleans are not."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
