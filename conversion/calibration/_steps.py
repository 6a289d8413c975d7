"""The steps of calibrations, which modify the neurons of a conversion in progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from conversion._errors import ConversionError
from conversion._profile import Profile
from conversion.calibration._data import Batch
from conversion.graph import Network
from conversion.neurons import AdaFire
from conversion.simulation._passes import SpikingPass

OnIteration = Callable[[int, float], None]
"""Called with (iterations done, loss)."""


@dataclass(kw_only=True)
class Draft:
    """A conversion in progress, modified by each calibration step.

    Attributes:
        profile: Profile of the network.
        network: The network with the weights tuned so far.
        timesteps: T used for calibration.
        neurons: Neuron layers by spiking layer name.
        thetas: θ per layer and channel, ``(C,)``.
        weights: Tuned weights by parameter name.
        batches: An endless iterator of inputs to learn from.
        on_iteration: Called with (iterations done, loss), or None.
    """

    profile: Profile
    network: Network
    timesteps: int
    neurons: dict[str, AdaFire]
    thetas: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)
    batches: Iterator[Batch]
    on_iteration: OnIteration | None = None


class Step:
    """One step of a calibration.

    Attributes:
        learns: Whether it learns by gradient descent over many batches.
        saves: Kinds of tensors it adds to a deployed config, such as ``"weight"``.
    """

    learns: ClassVar[bool] = False
    saves: ClassVar[tuple[str, ...]] = ()

    def run(self, draft: Draft) -> None:
        """Modify the draft."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Correct(Step):
    """Match the mean output of every layer with the ANN's, in one pass over the calibration data.

    Per channel by the bias (Li et al., ICML 2021, Sec. 4.2); then, with ``potentials``, per neuron
    by the initial potential (ibid., Sec. 4.3).
    """

    potentials: bool = False

    def run(self, draft: Draft) -> None:
        """Shift biases, and potentials if asked, earlier layers already corrected."""
        with torch.no_grad():
            hook = Correction(draft.profile, draft.neurons, potentials=self.potentials)
            run = SpikingPass(draft.network, draft.neurons, tune=hook)
            run.advance(run.start(draft.profile.inputs), draft.timesteps)


class Correction:
    """Matches the mean output of each layer with the ANN's as the calibration batch passes by.

    Per channel by the bias; then, if asked, per neuron by the initial potential: what a neuron
    still falls short of on average over T steps it holds when it starts.
    """

    def __init__(self, profile: Profile, neurons: dict[str, AdaFire], *, potentials: bool) -> None:
        self._profile = profile
        self._neurons = neurons
        self._potentials = potentials

    def __call__(self, name: str, current: Tensor, steps: int) -> None:
        neuron = self._neurons[name]
        missing = self._missing(name, current, steps)
        neuron.bias = neuron.bias + missing.reshape(len(missing), -1).mean(1)
        if self._potentials:
            size = neuron.threshold.view(-1, *[1] * (missing.dim() - 1))
            neuron.v_init = neuron.v_init + steps * self._missing(name, current, steps) / size

    def _missing(self, name: str, current: Tensor, steps: int) -> Tensor:
        """Mean output of the ANN less that of the spiking layer, per neuron, ``(C, ...)``."""
        neuron, layer = self._neurons[name], self._profile.layers[name]
        counts = neuron.fire(current, neuron.start(current[: len(self._profile.inputs)]), steps)
        mean = neuron.values_(counts).mean(0)
        if not bool(torch.isfinite(mean).all()):
            raise ConversionError(f"layer {name!r} diverges: its spiking output is not finite")
        return layer.neuron_mean.to(mean) - mean
