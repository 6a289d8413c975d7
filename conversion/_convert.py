"""The spiking model, and the one way to make it: thresholds, then streaming calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from conversion._config import ConversionConfig
from conversion._energy import Burst, Costs
from conversion._errors import ConfigError, ConversionError, is_out_of_memory
from conversion._graph import Network
from conversion._iat import ExitRule, confidence
from conversion._learn import Batches, OnIteration, endless, learn_firing, tune_weights
from conversion._neurons import NEURONS, AdaFire
from conversion._passes import SpikingPass, laid_out, running_mean, summable
from conversion._profile import Profile


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
            name: make_neuron(network, config, name, thetas[name], biases[name], v_inits[name])
            for name in network.sites
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


def thresholds(profile: Profile, config: ConversionConfig) -> dict[str, Tensor]:
    """θ per layer and channel, ``(C,)``, by the config's rule."""
    return {
        name: profile.threshold(
            name,
            phi=layer.phi,
            timesteps=config.steps_of_calibration,
            shift=config.v_init,
            rule=config.thresholds,
            granularity=config.granularity,
        )
        for name, layer in config.layers.items()
    }


def convert(
    profile: Profile,
    config: ConversionConfig,
    *,
    data: Tensor | Batches | None = None,
    on_iteration: OnIteration | None = None,
) -> SpikingModel:
    """Make the spiking model of a profiled network; the caller's model is not touched.

    Thresholds are those of the config's rule for each layer's φ. Then the config's calibration,
    each building on the one before, or on light:

    - ``"light"`` (Li et al., ICML 2021, Sec. 4.2) shifts each layer's bias by the per-channel
      mean of (ANN output − SNN mean output), earlier layers already corrected, all in one
      spiking pass over the calibration data;
    - ``"advanced"`` (ibid., Sec. 4.3) then shifts each neuron's initial potential by T times the
      mean difference that is left;
    - ``"tuned"`` (ibid.) tunes the weights of each layer towards the ANN's activations between
      the two;
    - ``"learned"`` starts from light and learns a factor on every threshold and every bias by
      straight-through gradients of the outputs' divergence from the ANN's, averaged over the
      steps, and of ``config.energy_weight`` times the synaptic operations. With dual-threshold
      neurons this is of the family of *Error Compensation Learning* (Liu et al., ICML 2025, arXiv
      2506.01968), whose full text was not available to us; no labels are needed.

    Args:
        profile: From :func:`conversion.profile`.
        config: The choices.
        data: For ``"tuned"`` and ``"learned"``: inputs ``(N, ...)``, or batches of inputs or of
            ``(inputs, labels)``, such as a training loader; gone through as often as
            ``config.iterations`` asks. None takes the profile's calibration inputs.
        on_iteration: Told (iterations done, loss).

    Raises:
        ConfigError: The config names other layers than the network has; ``data`` is empty, or
            nothing would learn from it.
        ConversionError: A layer's output, or the loss, is NaN or infinite; ``data`` has another
            shape; the network is in half precision and shall learn; or memory does not suffice.
    """
    config.check_layers(profile.layers)
    kind, network = config.calibration, profile.network
    if data is not None and kind not in ("tuned", "learned"):
        raise ConfigError(f"data is for tuned and learned calibration, got {kind!r}")
    batches = endless(data, profile)
    weights: Mapping[str, Tensor] = {}
    with enough_memory(profile, config), torch.inference_mode(False), torch.enable_grad():
        thetas: Mapping[str, Tensor] = thresholds(profile, config)
        v_init = torch.tensor(config.v_init, device=profile.device)
        neurons = {
            name: make_neuron(network, config, name, theta, torch.zeros_like(theta), v_init)
            for name, theta in thetas.items()
        }
        if kind in ("light", "learned", "tuned"):
            _correct(profile, network, config, neurons)
        if kind in ("learned", "tuned") and not neurons:
            kind = "none"  # nothing spikes, so there is nothing to learn
        if kind == "learned":
            factors = learn_firing(profile, neurons, batches, config, on_iteration)
            thetas = {name: theta * factors[name] for name, theta in thetas.items()}
        if kind == "tuned":
            weights = tune_weights(profile, neurons, batches, config, on_iteration)
            network = network.with_weights(weights)
        if kind in ("advanced", "tuned"):
            _correct(profile, network, config, neurons, potentials=True)
    return SpikingModel(
        profile.network,
        profile.costs,
        config,
        thetas=thetas,
        biases={name: neuron.bias for name, neuron in neurons.items()},
        v_inits={name: neuron.v_init for name, neuron in neurons.items()},
        weights=weights,
    )


@contextmanager
def enough_memory(profile: Profile, config: ConversionConfig) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConversionError(
            f"calibrating with {len(profile.inputs)} samples × {config.steps_of_calibration} steps"
            " needs more memory than there is; use fewer calibration samples"
        ) from error


def _correct(
    profile: Profile,
    network: Network,
    config: ConversionConfig,
    neurons: dict[str, AdaFire],
    *,
    potentials: bool = False,
) -> None:
    """Shift biases, and potentials if asked, in one spiking pass over the calibration data."""
    tune = Correction(profile, neurons, potentials=potentials)
    with torch.no_grad():
        run = SpikingPass(network, neurons, tune=tune)
        run.advance(run.start(profile.inputs), config.steps_of_calibration)


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


class SpikeCounter:
    """Sums spikes and accumulates per source, step and sample as the pass goes by."""

    def __init__(self, costs: Costs, burst: Burst, *, signed: bool) -> None:
        self._signed = signed
        self._fan_out = costs.fan_out
        self._burst = burst
        self._spikes: dict[str, Tensor] = {}
        self._synops: dict[str, Tensor] = {}

    def count(self, node: str, counts: Tensor, steps: int) -> None:
        if node not in self._fan_out:
            return
        fan_out = self._fan_out[node].to(counts.device, torch.float32)
        counts = counts.float()  # half precision could not hold the sums
        if self._signed:
            counts = counts.abs()  # a negative spike is an event too
        events = counts if self._burst == "count" else (counts > 0.5).to(counts)
        order = (0, *range(2, counts.dim()), 1) if counts.dim() == 4 else tuple(range(counts.dim()))
        weights = fan_out.permute([axis - 1 for axis in order[1:]]).reshape(-1)
        rows = events.permute(order).reshape(len(counts), -1)
        # Two matrix-vector products: measured 4 to 6 times faster than one (C·H·W, 2) product.
        self._spikes[node] = rows.sum(1).view(steps, -1)
        self._synops[node] = torch.mv(rows, weights).view(steps, -1)

    def take_over(self, other: SpikeCounter) -> None:
        """Start with what another one has counted so far."""
        self._spikes, self._synops = dict(other._spikes), dict(other._synops)

    def stacked(self, nodes: list[str], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if not nodes:
            return torch.zeros(0, *shape), torch.zeros(0, *shape)
        spikes = torch.stack([self._spikes[node] for node in nodes])
        synops = torch.stack([self._synops[node] for node in nodes])
        return spikes.double(), synops.double()


def make_neuron(
    network: Network,
    config: ConversionConfig,
    name: str,
    theta: Tensor,
    bias: Tensor,
    v_init: Tensor,
) -> AdaFire:
    layer = config.layers[name]
    return NEURONS[layer.neuron](
        threshold=theta * layer.rho,
        phi=layer.phi,
        bias=bias,
        v_init=v_init,
        ceiling=network.sites[name].ceiling,
    )
