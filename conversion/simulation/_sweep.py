"""One layer changed at a time: everything before it is computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from conversion._config import ConversionConfig, LayerConfig
from conversion._convert import enough_memory, fresh_neurons, thresholds
from conversion._profile import Profile
from conversion.calibration import Correction
from conversion.energy import Counts
from conversion.simulation._counter import SpikeCounter
from conversion.simulation._model import event_bits
from conversion.simulation._passes import SpikingPass, running_mean


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Result on the calibration inputs with one layer changed and everything recalibrated.

    Attributes:
        layer: The layer that was changed, or None.
        config: What it was changed to.
        answers: Running means of the outputs over the steps, each ``(T, N, ...)``.
        counts: Events per step, mean per sample, ``(sources, T)``.
    """

    layer: str | None
    config: LayerConfig | None
    answers: Mapping[str, Tensor]
    counts: Counts


def sweep(
    profile: Profile,
    config: ConversionConfig,
    alternatives: Sequence[LayerConfig],
    on_branch: Callable[[Branch], None],
) -> None:
    """Try every alternative in one layer at a time, around a config, on the calibration inputs.

    Each branch equals ``convert`` followed by ``simulate`` at the T of the calibration, for about
    half the cost of ``convert`` alone: it starts at the layer that changes, and the calibration
    pass measures too.

    Args:
        profile: From :func:`conversion.profile`.
        config: The config around which layers change.
        alternatives: The layer configs to try in each layer.
        on_branch: Called with each branch, layer by layer, and finally with the config itself.

    Raises:
        ConfigError: The config's calibration takes more than one pass, or its layers are not those
            of the network.
        ConversionError: A layer's output is not finite, or memory runs out.
    """
    config.check_layers(profile.layers)
    _ = config.calibration.correction

    def at_layer(name: str, trunk: _CalibratingPass) -> None:
        for layer in alternatives:
            changed = replace(config, layers={**config.layers, name: layer})
            branch = _CalibratingPass(profile, changed)
            on_branch(branch.told(name, branch.after(trunk)))

    with enough_memory(profile, config), torch.no_grad():
        trunk = _CalibratingPass(profile, config, at_layer)
        on_branch(trunk.told(None, trunk.whole()))


class _CalibratingPass(SpikingPass):
    """Calibrates a config as the calibration inputs pass by, and measures it in the same pass.

    Args:
        profile: Profile of the network.
        config: The config.
        at_layer: Called before each spiking layer runs, with its name and this pass.
    """

    def __init__(
        self,
        profile: Profile,
        config: ConversionConfig,
        at_layer: Callable[[str, _CalibratingPass], None] | None = None,
    ) -> None:
        neurons = fresh_neurons(profile, config, thresholds(profile, config))
        step = config.calibration.correction
        signed = any(neuron.signed for neuron in neurons.values())
        bits = event_bits(profile.costs, neurons)
        self._counter = SpikeCounter(profile.costs, bits, signed=signed)
        super().__init__(
            profile.network,
            neurons,
            on_spikes=self._counter.count,
            tune=Correction(profile, neurons, potentials=step.potentials) if step else None,
        )
        self._profile = profile
        self._config = config
        self._at_layer = at_layer

    def whole(self) -> list[Any]:
        """Run from the first node; outputs ``(T·N, ...)``."""
        steps = self._config.steps_of_calibration
        return self.advance(self.start(self._profile.inputs), steps)

    def after(self, trunk: _CalibratingPass) -> list[Any]:
        """Run from where another pass has just arrived, with the spikes that it counted so far."""
        self._counter.take_over(trunk._counter)
        return self.resume(dict(trunk._env), trunk._state, trunk._steps, trunk._at)

    def told(self, layer: str | None, outputs: list[Any]) -> Branch:
        """The branch of this pass."""
        steps, samples = self._config.steps_of_calibration, len(self._profile.inputs)
        return Branch(
            layer=layer,
            config=None if layer is None else self._config.layers[layer],
            answers={
                name: running_mean(value, steps)
                for name, value in self._network.answers(outputs).items()
            },
            counts=self._counter.counts((steps, samples)).map(lambda found: found.mean(2)),
        )

    def _spike(self, node: fx.Node) -> Tensor:
        if self._at_layer is not None:
            self._at = self._temporal.index(node)
            self._at_layer(self._sites[node.name].name, self)
        return super()._spike(node)
