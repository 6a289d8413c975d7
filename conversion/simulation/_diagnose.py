"""Which layer errs, and how: clipping, quantisation, unevenness, or what it was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conversion._errors import ConversionError
from conversion.simulation._model import SpikingModel
from conversion.simulation._passes import AnalogPass, SpikingPass


@dataclass(frozen=True, kw_only=True)
class LayerDiagnosis:
    """Errors of one spiking layer, RMS relative to the RMS of the ANN's activations.

    With x̄ the mean input over T steps and V = ρθ, the mean output s differs from the ANN's
    activation a by ``s − a = (s − q) + (q − c) + (c − r) + (r − a)``, where ``r = ReLU(x̄)``, ``c =
    min(r, φV)`` and ``q = ClipFloor(x̄)``, what the neuron outputs for a constant input (Wang et
    al., arXiv 2412.16219, Sec. 3.1; Bu et al., ICLR 2022, Sec. 3).

    Attributes:
        layer: Its name.
        unevenness: s − q: error because the input is uneven over time.
        quantisation: q − c: error of rounding to whole spikes.
        clipping: c − r: error of the limit of φ spikes per step.
        inherited: r − a: error of the mean input, caused by earlier layers and calibration.
        total: s − a.
    """

    layer: str
    unevenness: float
    quantisation: float
    clipping: float
    inherited: float
    total: float


PARTS = ("clipping", "quantisation", "unevenness", "inherited")


def diagnose(model: SpikingModel, inputs: Any) -> list[LayerDiagnosis]:
    """Run all steps of ``inputs``, ``(N, ...)``, next to the ANN and compare layer by layer.

    All activations of the ANN are kept in memory; a few dozen samples are enough.

    Raises:
        ConversionError: The network has no spiking layer, or the inputs have another shape.
    """
    if not model.neurons:
        raise ConversionError("the network has no spiking layer to diagnose")
    if model.config.bits is not None:
        raise ConversionError("an integer model cannot be diagnosed; diagnose it without bits")
    activations: dict[str, Tensor] = {}
    with torch.inference_mode():
        AnalogPass(model.network, activations.__setitem__).run(inputs)
        observer = _Observer(model, activations)
        run = SpikingPass(
            model.synapses, model.neurons, tune=observer.see_input, on_spikes=observer.see_spikes
        )
        run.advance(run.start(inputs), model.config.timesteps)
    return observer.found


class _Observer:
    def __init__(self, model: SpikingModel, activations: dict[str, Tensor]) -> None:
        self._model = model
        self._activations = activations
        self._layers = {site.node: site for site in model.network.sites.values()}
        self._mean_input = torch.zeros(())
        self.found: list[LayerDiagnosis] = []

    def see_input(self, name: str, current: Tensor, steps: int) -> None:
        samples = len(self._activations[name])
        self._mean_input = current.unflatten(0, (-1, samples)).mean(0)

    def see_spikes(self, node: str, counts: Tensor, steps: int) -> None:
        if (site := self._layers.get(node)) is None:
            return  # a max-pool
        neuron = self._model.neurons[site.name]
        counts = site.to_channels(counts)
        shape = (-1, *[1] * (counts.dim() - 2))
        size, bias = neuron.threshold.view(shape), neuron.bias.view(shape)
        a = self._activations[site.name]
        s = counts.unflatten(0, (steps, -1)).mean(0) * size
        x = self._mean_input + bias
        r = x.clamp(0, neuron.ceiling)
        c = torch.minimum(r, neuron.phi * size)
        whole = neuron.staircase(x, size, phi=neuron.phi, timesteps=steps, shift=neuron.v_init)
        if neuron.ceiling is not None:  # rounded to whole spikes too
            whole = torch.minimum(whole, torch.floor(steps * neuron.ceiling / size + 0.5))
        q = whole * size / steps
        power = float(a.square().mean().sqrt()) or 1.0

        def size_of(error: Tensor) -> float:
            return float(error.square().mean().sqrt()) / power

        self.found.append(
            LayerDiagnosis(
                layer=site.name,
                unevenness=size_of(s - q),
                quantisation=size_of(q - c),
                clipping=size_of(c - r),
                inherited=size_of(r - a),
                total=size_of(s - a),
            )
        )
