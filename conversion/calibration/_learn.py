"""Learning by gradient through the whole spiking network, or of each layer by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conversion._errors import ConfigError, ConversionError
from conversion._profile import Profile
from conversion.calibration._data import Batch
from conversion.calibration._spikes import LearningPass
from conversion.calibration._steps import Draft, Step
from conversion.graph import laid_out
from conversion.neurons import AdaFire
from conversion.outputs import relative_error
from conversion.simulation._passes import AnalogPass, ann_answers

_FIRING_RATE = 0.01
_LEARNED_WEIGHT_RATE, _TUNED_WEIGHT_RATE = 0.007, 0.003


@dataclass(frozen=True, kw_only=True)
class Learn(Step):
    """Thresholds, biases and potentials of least divergence from the ANN; weights where asked.

    Adam on a factor on each channel's threshold, on its bias in units of the threshold and on each
    neuron's potential before the first step, with a cosine rate. The loss is that of the
    network's :class:`~conversion.Outputs` (of classes the Kullback-Leibler divergence from the
    ANN) of the mean output so far, averaged over the steps, since early exit needs an answer at
    each of them; plus ``energy_weight`` times the synaptic operations over the ANN's
    MACs; plus ``label_weight`` times the cross-entropy with the labels. With dual-threshold neurons
    this is of the family of *Error Compensation Learning* (Liu et al., ICML 2025,
    arXiv 2506.01968), whose full text was not available to us.
    """

    learns = True

    iterations: int
    energy_weight: float
    label_weight: float = 0.0
    weights: bool = False
    rate: float = 1.0

    @property
    def saves(self) -> tuple[str, ...]:  # type: ignore[override]
        """Weights, where they are learned."""
        return ("weight",) if self.weights else ()

    def run(self, draft: Draft) -> None:
        """Leave the neurons as learned, and their factors in the draft's θ."""
        if not draft.neurons:
            return  # nothing spikes, so there is nothing to learn
        firing = _Firing.of(draft.profile, draft.neurons)
        network = draft.network
        weights = _trainable(network.synapse_weights()) if self.weights else {}
        profile = replace(draft.profile, network=network.with_weights(weights))
        run = LearningPass(profile, draft.neurons)
        outputs = profile.outputs

        def loss(batch: Batch) -> Tensor:
            x, labels = batch
            with torch.no_grad():
                expected = ann_answers(draft.profile.network, x)
            firing.place(draft.neurons)
            steps = run.answers(x, draft.timesteps)
            total = torch.stack([outputs.loss(answers, expected) for answers in steps]).mean()
            total = total + self.energy_weight * run.synops / (profile.costs.ann_macs * len(x))
            if self.label_weight:
                by_labels = [outputs.label_loss(answers, _known(labels)) for answers in steps]
                total = total + self.label_weight * torch.stack(by_labels).mean()
            return total

        groups = [firing.group(), *_groups(weights, self.rate * _LEARNED_WEIGHT_RATE)]
        _descend(groups, loss, draft, self.iterations)
        with torch.no_grad():
            firing.place(draft.neurons)
        draft.thetas |= {n: draft.thetas[n] * g.detach().exp() for n, g in firing.growth.items()}
        if weights:
            draft.weights = {**draft.weights, **{n: w.detach() for n, w in weights.items()}}
            draft.network = draft.profile.network.with_weights(draft.weights)


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
        weights = _trainable(network.synapse_weights())
        tuned = network.with_weights(weights)
        run = LearningPass(replace(draft.profile, network=tuned), draft.neurons, apart=True)

        def loss(batch: Batch) -> Tensor:
            x, _ = batch
            activations: dict[str, Tensor] = {}
            with torch.no_grad():
                expected = AnalogPass(network, activations.__setitem__).run(x)
            run.activations, run.errors = activations, {}
            found = run.answers(x, draft.timesteps)[-1]
            pairs = [(found[name], expected[name]) for name in expected]
            errors = [relative_error(*pair) for pair in pairs if pair[0].is_floating_point()]
            return sum([*run.errors.values(), *errors], torch.zeros((), device=x.device))

        _descend(_groups(weights, _TUNED_WEIGHT_RATE), loss, draft, self.iterations)
        draft.weights = {name: weight.detach() for name, weight in weights.items()}
        draft.network = network.with_weights(draft.weights)


@dataclass
class _Firing:
    """What is learned of the neurons: a factor on V, bias and potential in units of V."""

    sizes: dict[str, Tensor]
    biases: dict[str, Tensor]
    growth: dict[str, Tensor]
    shift: dict[str, Tensor]
    potentials: dict[str, Tensor]

    @classmethod
    def of(cls, profile: Profile, neurons: dict[str, AdaFire]) -> _Firing:
        sizes = {name: neuron.threshold.detach().clone() for name, neuron in neurons.items()}
        zeros = {name: torch.zeros_like(size) for name, size in sizes.items()}
        starts = {
            name: laid_out(neuron.v_init.expand_as(profile.layers[name].neuron_mean)[None])[0]
            for name, neuron in neurons.items()
        }
        return cls(
            sizes=sizes,
            biases={name: neuron.bias.detach().clone() for name, neuron in neurons.items()},
            growth=_trainable(zeros),
            shift=_trainable(zeros),
            potentials=_trainable(starts),
        )

    def group(self) -> dict[str, Any]:
        """Of the optimizer."""
        learned = (self.growth, self.shift, self.potentials)
        return {"params": [v for values in learned for v in values.values()], "lr": _FIRING_RATE}

    def place(self, neurons: dict[str, AdaFire]) -> None:
        """Set the neurons to what is learned so far."""
        for name, neuron in neurons.items():
            neuron.threshold = self.sizes[name] * self.growth[name].exp()
            neuron.bias = self.biases[name] + self.shift[name] * self.sizes[name]
            neuron.v_init = self.potentials[name]


def _trainable(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in values.items()}


def _groups(weights: dict[str, Tensor], rate: float) -> list[dict[str, Any]]:
    """Each weight at a rate in units of its own spread."""
    return [
        {"params": [w], "lr": rate * float(w.detach().std(correction=0))} for w in weights.values()
    ]


def _known(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ConfigError("label_weight needs batches (inputs, labels), got inputs alone")
    return labels


def _descend(
    groups: list[dict[str, Any]],
    loss_of: Callable[[Batch], Tensor],
    draft: Draft,
    iterations: int,
) -> None:
    optimizer = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for done in range(1, iterations + 1):
        batch = next(draft.batches)
        loss = loss_of(batch)
        if not bool(torch.isfinite(loss)):
            if not all(bool(torch.isfinite(t).all()) for t in batch[0].tensors):
                raise ConversionError(
                    f"the data to learn from contains NaN or infinity, in batch {done}"
                )
            raise ConversionError(f"learning diverges: the loss of iteration {done} is not finite")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if draft.on_iteration is not None:
            draft.on_iteration(done, float(loss.detach()))
