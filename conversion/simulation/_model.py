"""The spiking model: what a conversion gives, all steps at once or one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conversion._errors import ConfigError
from conversion._exits import ExitRule, confidence
from conversion.energy import Burst, Costs
from conversion.graph import Network
from conversion.neurons import NEURONS, AdaFire
from conversion.simulation._counter import SpikeCounter
from conversion.simulation._passes import SpikingPass, laid_out, running_mean, summable

if TYPE_CHECKING:
    from conversion._config import ConversionConfig, LayerConfig


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """Every step of a batch, so that any exit policy and any price can be applied afterwards.

    Attributes:
        logits: Mean output of the steps so far, ``(T, N, classes)``.
        spikes: Spikes of each source at each step, ``(sources, T, N)``.
        synops: Accumulates they cause, likewise.
        sources: Names of the sources, in order of execution: spiking layers, and max-pools
            between spikes.
    """

    logits: Tensor
    spikes: Tensor
    synops: Tensor
    sources: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What a deployed model answers.

    Attributes:
        logits: At each sample's exit, ``(N, classes)``.
        timesteps: Steps that each sample ran, ``(N,)``.
    """

    logits: Tensor
    timesteps: Tensor


class SpikingModel(nn.Module):
    """A calibrated spiking network. Made by :func:`convert` or ``conversion.load``.

    Calling it gives the logits at which each sample left, ``(N, classes)``, like the ANN.

    Attributes:
        network: The traced ANN.
        config: The choices it was made with.
        neurons: The layers of neurons by name.
        synapses: What the spikes run through: the ANN's network, or a copy with tuned weights.
    """

    def __init__(
        self,
        network: Network,
        costs: Costs,
        config: ConversionConfig,
        *,
        thetas: Mapping[str, Tensor],
        biases: Mapping[str, Tensor],
        v_inits: Mapping[str, Tensor],
        weights: Mapping[str, Tensor] | None = None,
        exit: ExitRule | None = None,
    ) -> None:
        super().__init__()
        config.check_layers(network.sites)
        self.network = network
        self.weights = dict(weights or {})
        self.synapses = network.with_weights(self.weights) if self.weights else network
        self.costs = costs
        self.config = config
        self.exit = exit
        self.thetas = {name: theta.clone() for name, theta in thetas.items()}
        self.biases = dict(biases)
        self.v_inits = {name: v_init.clone() for name, v_init in v_inits.items()}
        self.neurons = {
            name: make_neuron(
                config.layers[name], thetas[name], biases[name], v_inits[name], site.ceiling
            )
            for name, site in network.sites.items()
        }
        names = {site.node: name for name, site in network.sites.items()}
        self._sources = {node: names.get(node, node) for node in costs.fan_out}

    @property
    def exit(self) -> ExitRule | None:
        """When a sample may stop early, or None to run all steps.

        Raises:
            ConfigError: When set to a rule with fewer thresholds than T.
        """
        return self._exit

    @exit.setter
    def exit(self, rule: ExitRule | None) -> None:
        if rule is not None and len(rule.thresholds) < self.config.timesteps:
            raise ConfigError(
                f"an exit rule needs {self.config.timesteps} thresholds, got {len(rule.thresholds)}"
            )
        self._exit = rule

    def running(self, timesteps: int) -> SpikingModel:
        """The same network with another T, and without an exit rule."""
        return SpikingModel(
            self.network,
            self.costs,
            replace(self.config, timesteps=timesteps),
            thetas=self.thetas,
            biases=self.biases,
            v_inits=self.v_inits,
            weights=self.weights,
        )

    @torch.inference_mode()
    def simulate(self, x: Tensor, *, burst: Burst = "count") -> Simulation:
        """Run all T steps of inputs ``x``, ``(N, ...)``, layer by layer.

        Args:
            x: Inputs on the model's device.
            burst: Whether n spikes of a burst are n events at a synapse, or one.

        Raises:
            ConversionError: The inputs do not have the shape that the network was profiled with.
        """
        steps = self.config.timesteps
        signed = any(neuron.signed for neuron in self.neurons.values())
        self.network.check_inputs(x)
        counter = SpikeCounter(self.costs, burst, signed=signed)
        run = SpikingPass(self.synapses, self.neurons, on_spikes=counter.count)
        outputs = run.advance(run.start(laid_out(x)), steps)
        spikes, synops = counter.stacked(list(self._sources), (steps, len(x)))
        return Simulation(
            logits=running_mean(outputs, steps),
            spikes=spikes,
            synops=synops,
            sources=tuple(self._sources.values()),
        )

    @torch.inference_mode()
    def infer(self, x: Tensor) -> Inference:
        """Run step by step; samples that are confident enough leave the batch and cost no more."""
        self.network.check_inputs(x)
        run = SpikingPass(self.synapses, self.neurons)
        state = run.start(laid_out(x))
        remaining = torch.arange(len(x), device=x.device)
        logits: Tensor | None = None
        timesteps = torch.full((len(x),), self.config.timesteps, device=x.device)
        total = torch.zeros((), device=x.device)
        for step in range(1, self.config.timesteps + 1):
            total = total + summable(run.advance(state, 1))
            logits = total.new_empty((len(x), *total.shape[1:])) if logits is None else logits
            logits[remaining] = total / step
            leaves = self._may_leave(total / step, step)
            if bool(leaves.any()):
                timesteps[remaining[leaves]] = step
                stay = (~leaves).nonzero().squeeze(1)
                if len(stay) == 0:
                    break
                state.keep(stay)
                remaining, total = remaining[stay], total[stay]
        assert logits is not None
        return Inference(logits=logits, timesteps=timesteps)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at each sample's exit, ``(N, classes)``."""
        return self.infer(x).logits

    def _apply(self, fn: Any, recurse: bool = True) -> SpikingModel:
        raise ConfigError(
            "a spiking model stays on the device and type it was made with; give device= to"
            " conversion.profile, conversion.load or evaluators.Evaluator instead"
        )

    def _may_leave(self, logits: Tensor, step: int) -> Tensor:
        if self.exit is None:
            return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        return confidence(logits, self.exit.score) > self.exit.thresholds[step - 1]


def make_neuron(
    layer: LayerConfig, theta: Tensor, bias: Tensor, v_init: Tensor, ceiling: float | None
) -> AdaFire:
    """The layer of neurons of a config, for thresholds θ and biases ``(C,)``."""
    return NEURONS[layer.neuron](
        threshold=theta * layer.rho, phi=layer.phi, bias=bias, v_init=v_init, ceiling=ceiling
    )
