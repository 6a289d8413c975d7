"""Calibration by gradient: real spikes forward, the slopes of unrounded spikes backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from conversion._errors import ConfigError, ConversionError
from conversion._profile import Profile
from conversion.calibration._steps import Batches, Draft, Step
from conversion.graph import Inputs, batches_of
from conversion.neurons._adafire import AdaFire
from conversion.simulation._passes import AnalogPass, SpikingPass, ann_logits, running_mean

_BATCH = 32
_FIRING_RATE = 0.01
_WEIGHT_RATE = 0.003


@dataclass(frozen=True, kw_only=True)
class LearnFiring(Step):
    """Thresholds and biases of least divergence from the ANN; weights stay as they are.

    Adam on a factor on each channel's threshold and on its bias, in units of the threshold, with
    a cosine rate. The loss is the Kullback-Leibler divergence from the ANN of the mean output so
    far (for outputs that are no ``(N, classes)`` the relative squared error), averaged over the
    steps, since early exit needs an answer at each of them; plus ``energy_weight`` times the
    synaptic operations over the ANN's MACs. With dual-threshold neurons this is of the family of
    *Error Compensation Learning* (Liu et al., ICML 2025, arXiv 2506.01968), whose full text was
    not available to us; no labels are needed.
    """

    learns = True

    iterations: int
    energy_weight: float

    def run(self, draft: Draft) -> None:
        """Leave the neurons as learned, and their factors in the draft's θ."""
        if not draft.neurons:
            return  # nothing spikes, so there is nothing to learn
        profile, neurons = draft.profile, draft.neurons
        thresholds = {name: neuron.threshold.clone() for name, neuron in neurons.items()}
        biases = {name: neuron.bias.clone() for name, neuron in neurons.items()}
        growth = {n: torch.zeros_like(v, requires_grad=True) for n, v in thresholds.items()}
        shifts = {n: torch.zeros_like(v, requires_grad=True) for n, v in thresholds.items()}
        run = _LearningPass(profile, neurons)

        def place() -> None:
            for name, neuron in neurons.items():
                neuron.threshold = thresholds[name] * growth[name].exp()
                neuron.bias = biases[name] + shifts[name] * thresholds[name]

        def loss(x: Inputs) -> Tensor:
            with torch.no_grad():
                expected = ann_logits(profile.network, x)
            place()
            outputs = run.outputs(x, draft.timesteps)
            nothing = torch.zeros((), device=x.device)
            loss = sum((_divergence(y, expected) for y in outputs), nothing)
            energy = run.synops / (profile.costs.ann_macs * len(x))
            return loss / len(outputs) + self.energy_weight * energy

        groups = [{"params": [*growth.values(), *shifts.values()], "lr": _FIRING_RATE}]
        _descend(groups, loss, draft, self.iterations)
        with torch.no_grad():
            place()
        draft.thetas |= {n: draft.thetas[n] * g.detach().exp() for n, g in growth.items()}


@dataclass(frozen=True, kw_only=True)
class TuneWeights(Step):
    """Weights with which each layer's mean output is nearest to the ANN's activation.

    The weight calibration of Li et al. (ICML 2021, Sec. 4.3): each layer is tuned by itself, on
    the spikes that it really gets, towards the ANN's activation, through a straight-through clip.
    They tune layer after layer on cached inputs; here all layers learn at the same time, each
    from the spikes of its step, and no gradient leaves a layer.
    """

    learns = True
    saves = ("weight",)

    iterations: int

    def run(self, draft: Draft) -> None:
        """Leave the tuned weights in the draft, and in its network."""
        if not draft.neurons:
            return
        network = draft.profile.network
        weights = {n: w.clone().requires_grad_() for n, w in network.synapse_weights().items()}
        tuned = network.with_weights(weights)
        run = _LearningPass(replace(draft.profile, network=tuned), draft.neurons, apart=True)

        def loss(x: Inputs) -> Tensor:
            activations: dict[str, Tensor] = {}
            with torch.no_grad():
                expected = AnalogPass(network, activations.__setitem__).run(x)
            run.activations, run.errors = activations, {}
            found = run.outputs(x, draft.timesteps)[-1]
            return sum(run.errors.values(), _relative_error(found, expected))

        groups = [
            {
                "params": [w],
                "lr": _WEIGHT_RATE * float(w.detach().std(correction=0)),
            }
            for w in weights.values()
        ]
        _descend(groups, loss, draft, self.iterations)
        draft.weights = {name: weight.detach() for name, weight in weights.items()}
        draft.network = network.with_weights(draft.weights)


def endless(data: Tensor | Inputs | Batches | None, profile: Profile) -> Iterator[Inputs]:
    """Batches without end: of ``data`` again and again, or drawn from the calibration inputs.

    Raises:
        ConfigError: ``data`` is empty.
        ConversionError: Its inputs have another shape than the network takes.
    """
    network = profile.network
    if data is None or isinstance(data, (Tensor, Inputs)):
        inputs = profile.inputs if data is None else network.take(Inputs.of(data))
        yield from _shuffled(inputs.to(profile.device))
        return
    while True:
        batch = None
        for batch in batches_of(data):
            yield network.take(batch).to(profile.device)
        if batch is None:
            raise ConfigError("there is no data to learn from, or it can be iterated only once")


def _shuffled(x: Inputs) -> Iterator[Inputs]:
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for indices in order.split(_BATCH):
            if len(indices) == min(_BATCH, len(x)):
                yield x[indices].simulated()


def _divergence(found: Tensor, expected: Tensor) -> Tensor:
    if expected.dim() == 2 and expected.shape[1] > 1:
        p = expected.softmax(1)
        return F.kl_div(found.log_softmax(1), p, reduction="sum") / len(expected)
    return _relative_error(found, expected)


def _descend(
    groups: list[dict[str, Any]],
    loss_of: Callable[[Inputs], Tensor],
    draft: Draft,
    iterations: int,
) -> None:
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for done in range(1, iterations + 1):
        loss = loss_of(next(draft.batches))
        if not bool(torch.isfinite(loss)):
            raise ConversionError(f"learning diverges: the loss of iteration {done} is not finite")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if draft.on_iteration is not None:
            draft.on_iteration(done, float(loss.detach()))


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

    def outputs(self, x: Inputs, steps: int) -> Tensor:
        """Mean output of the steps so far, ``(T, N, classes)``."""
        self.synops = torch.zeros((), device=x.device)
        outputs = self.advance(self.start(x), steps)
        return running_mean(outputs[self._network.logits], steps)

    def _count(self, node: str, counts: Tensor, _: int) -> None:
        if node in self._fan_out:
            self.synops = self.synops + (counts.abs() * self._fan_out[node]).sum()

    def _spike(self, node: fx.Node) -> Tensor:
        site = self._sites[node.name]
        current = self._current(node)
        neuron, samples = self._neurons[site.name], self._state.samples
        with torch.no_grad():
            counts = neuron.fire(current, neuron.start(current[:samples]), self._steps)
        smooth = neuron.unrounded(current, samples, self._steps)
        counts = counts + (smooth - smooth.detach())
        self._count(node.name, site.from_channels(counts), self._steps)
        spikes = neuron.values(counts)
        if self.activations:
            mean = spikes.unflatten(0, (self._steps, -1)).mean(0)
            self.errors[site.name] = _relative_error(mean, self.activations[site.name])
        if self._apart:
            spikes = spikes.detach()
        return self._network.axes[node.name].back(site.from_channels(spikes))


def _relative_error(found: Tensor, expected: Tensor) -> Tensor:
    tiny = torch.finfo(expected.dtype).tiny
    return (found - expected).square().sum() / expected.square().sum().clamp_min(tiny)
