"""Calibration by gradient: real spikes forward, the slopes of unrounded spikes backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from conversion._config import ConversionConfig
from conversion._errors import ConfigError, ConversionError
from conversion._graph import Network
from conversion._neurons import AdaFire
from conversion._passes import AnalogPass, SpikingPass, laid_out, running_mean
from conversion._profile import Profile
from conversion._rewrite import SYNAPSE_MODULES

Batches = Iterable[Any]
"""Of inputs ``(N, ...)``, or of ``(inputs, labels)``; labels are not looked at."""

OnIteration = Callable[[int, float], None]
"""Told (iterations done, loss)."""

_BATCH = 32
_FIRING_RATE = 0.01
_WEIGHT_RATE = 0.003


def learn_firing(
    profile: Profile,
    neurons: Mapping[str, AdaFire],
    batches: Iterator[Tensor],
    config: ConversionConfig,
    on_iteration: OnIteration | None = None,
) -> dict[str, Tensor]:
    """Thresholds and biases of least divergence from the ANN; weights stay as they are.

    Adam on a factor on each channel's threshold and on its bias, in units of the threshold, with
    a cosine rate. The loss is the Kullback-Leibler divergence from the ANN of the mean output so
    far (for outputs that are no ``(N, classes)`` the relative squared error), averaged over the
    steps, since early exit needs an answer at each of them; plus, if the config weighs it, the
    synaptic operations. The neurons are left as learned.

    Returns:
        The factors by layer, ``(C,)``.
    """
    _check_precision(profile.network)
    thresholds = {name: neuron.threshold.clone() for name, neuron in neurons.items()}
    biases = {name: neuron.bias.clone() for name, neuron in neurons.items()}
    growth = {name: torch.zeros_like(v, requires_grad=True) for name, v in thresholds.items()}
    shifts = {name: torch.zeros_like(v, requires_grad=True) for name, v in thresholds.items()}
    run = _LearningPass(profile, dict(neurons))

    def place() -> None:
        for name, neuron in neurons.items():
            neuron.threshold = thresholds[name] * growth[name].exp()
            neuron.bias = biases[name] + shifts[name] * thresholds[name]

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            expected = profile.network.module(x)
        place()
        outputs = run.outputs(x, config.steps_of_calibration)
        loss = sum((_divergence(y, expected) for y in outputs), torch.zeros((), device=x.device))
        energy = run.synops / (profile.costs.ann_macs * len(x))
        return loss / len(outputs) + config.energy_weight * energy

    groups = [{"params": [*growth.values(), *shifts.values()], "lr": _FIRING_RATE}]
    _descend(groups, loss, batches, config.iterations, on_iteration)
    with torch.no_grad():
        place()
    return {name: value.detach().exp() for name, value in growth.items()}


def tune_weights(
    profile: Profile,
    neurons: Mapping[str, AdaFire],
    batches: Iterator[Tensor],
    config: ConversionConfig,
    on_iteration: OnIteration | None = None,
) -> dict[str, Tensor]:
    """Weights with which each layer's mean output is nearest to the ANN's activation.

    The weight calibration of Li et al. (ICML 2021, Sec. 4.3): each layer is tuned by itself, on
    the spikes that it really gets, towards the ANN's activation, through a straight-through clip.
    They tune layer after layer on cached inputs; here all layers learn at the same time, each
    from the spikes of its step, and no gradient leaves a layer.

    Returns:
        The weights that were tuned, by parameter name.
    """
    network = profile.network
    _check_precision(network)
    tuned = network.with_weights({})
    weights = _synapse_weights(tuned)
    run = _LearningPass(replace(profile, network=tuned), dict(neurons), apart=True)

    def loss(x: Tensor) -> Tensor:
        activations: dict[str, Tensor] = {}
        with torch.no_grad():
            expected = AnalogPass(network, activations.__setitem__).run(x)
        run.activations, run.errors = activations, {}
        found = run.outputs(x, config.steps_of_calibration)[-1]
        return sum(run.errors.values(), _relative_error(found, expected))

    groups = [
        {"params": [w.requires_grad_()], "lr": _WEIGHT_RATE * float(w.detach().std(correction=0))}
        for w in weights.values()
    ]
    _descend(groups, loss, batches, config.iterations, on_iteration)
    return {name: weight.detach() for name, weight in weights.items()}


def endless(data: Tensor | Batches | None, profile: Profile) -> Iterator[Tensor]:
    """Batches without end: of ``data`` again and again, or drawn from the calibration inputs.

    Raises:
        ConfigError: ``data`` is empty.
        ConversionError: Its inputs have another shape than the network takes.
    """
    if data is None or isinstance(data, Tensor):
        inputs = profile.inputs if data is None else data
        profile.network.check_inputs(inputs)
        yield from _shuffled(inputs.to(profile.inputs))
        return
    while True:
        batch = None
        for batch in data:
            inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
            profile.network.check_inputs(inputs)
            yield inputs.to(profile.inputs)
        if batch is None:
            raise ConfigError("there is no data to learn from, or it can be gone through but once")


def _shuffled(x: Tensor) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for indices in order.split(_BATCH):
            if len(indices) == min(_BATCH, len(x)):
                yield x[indices]


def _divergence(found: Tensor, expected: Tensor) -> Tensor:
    if expected.dim() == 2 and expected.shape[1] > 1:
        p = expected.softmax(1)
        return F.kl_div(found.log_softmax(1), p, reduction="sum") / len(expected)
    return _relative_error(found, expected)


def _descend(
    groups: list[dict[str, Any]],
    loss_of: Callable[[Tensor], Tensor],
    batches: Iterator[Tensor],
    iterations: int,
    on_iteration: OnIteration | None,
) -> None:
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for done in range(1, iterations + 1):
        loss = loss_of(laid_out(next(batches)))
        if not bool(torch.isfinite(loss)):
            raise ConversionError(f"learning diverges: the loss of iteration {done} is not finite")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_iteration is not None:
            on_iteration(done, float(loss.detach()))


def _check_precision(network: Network) -> None:
    if {p.dtype for p in network.module.parameters()} & {torch.float16, torch.bfloat16}:
        raise ConversionError(
            "tuned and learned calibration need a network in float32 or float64: convert model and"
            " data with .float()"
        )


def _synapse_weights(network: Network) -> dict[str, Tensor]:
    synapses = [m for m in network.module.modules() if isinstance(m, SYNAPSE_MODULES)]
    theirs = {id(module.weight) for module in synapses}
    return {n: p for n, p in network.module.named_parameters() if id(p) in theirs}


class _LearningPass(SpikingPass):
    """A spiking pass that gradients can go back through.

    Args:
        profile: Of the network.
        neurons: Neuron layers by spiking layer name.
        apart: Whether each layer keeps its gradients to itself.

    Attributes:
        synops: Synaptic operations of the last inputs, summed over samples and steps.
        activations: Of the ANN, by layer, to compare with.
        errors: Relative squared errors of the layers' mean outputs against them.
    """

    def __init__(
        self, profile: Profile, neurons: dict[str, AdaFire], *, apart: bool = False
    ) -> None:
        super().__init__(profile.network, neurons, on_spikes=self._count)
        self._fan_out = {node: f.float() for node, f in profile.costs.fan_out.items()}
        self._apart = apart
        self.synops = torch.zeros(())
        self.activations: Mapping[str, Tensor] = {}
        self.errors: dict[str, Tensor] = {}

    def outputs(self, x: Tensor, steps: int) -> Tensor:
        """Mean output of the steps so far, ``(T, N, classes)``."""
        self.synops = torch.zeros((), device=x.device)
        return running_mean(self.advance(self.start(x), steps), steps)

    def _count(self, node: str, counts: Tensor, _: int) -> None:
        if node in self._fan_out:
            self.synops = self.synops + (counts.abs() * self._fan_out[node]).sum()

    def _spike(self, node: fx.Node) -> Tensor:
        site = self._sites[node.name]
        current: Tensor = self.env[node.all_input_nodes[0]].movedim(site.channels, 1)
        neuron, samples = self._neurons[site.name], self._state.samples
        with torch.no_grad():
            counts = neuron.fire(current, neuron.start(current[:samples]), self._steps)
        smooth = neuron.unrounded(current, samples, self._steps)
        counts = counts + (smooth - smooth.detach())
        self._count(node.name, counts.movedim(1, site.channels), self._steps)
        spikes = neuron.values(counts)
        if self.activations:
            mean = spikes.unflatten(0, (self._steps, -1)).mean(0)
            self.errors[site.name] = _relative_error(mean, self.activations[site.name])
        if self._apart:
            spikes = spikes.detach()
        return spikes.movedim(1, site.channels)


def _relative_error(found: Tensor, expected: Tensor) -> Tensor:
    tiny = torch.finfo(expected.dtype).tiny
    return (found - expected).square().sum() / expected.square().sum().clamp_min(tiny)
