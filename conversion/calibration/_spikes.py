"""A spiking pass that gradients go back through: real spikes forward, smooth ones backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from conversion._profile import Profile
from conversion.graph import Inputs, SpikingSite, laid_out
from conversion.neurons import AdaFire
from conversion.neurons._adafire import by_channel
from conversion.outputs import relative_error
from conversion.simulation._passes import SpikingPass, running_mean


class _Fire(torch.autograd.Function):
    """Spikes of a layer and the synaptic operations that they cause; slopes by the neuron."""

    @staticmethod
    def forward(
        ctx: Any,
        currents: Tensor,
        threshold: Tensor,
        bias: Tensor,
        v_init: Tensor,
        neuron: AdaFire,
        shape: tuple[int, int],
        fan_out: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        steps, samples = shape
        counts = neuron.fire(currents, neuron.start(currents[:samples]), steps)
        ctx.save_for_backward(currents, counts)
        ctx.neuron, ctx.shape, ctx.fan_out = neuron, shape, fan_out
        synops = currents.new_zeros(())
        if fan_out is not None:
            events = counts.abs() if neuron.signed else counts
            synops = weighted_sum(events, fan_out)
        return neuron.values(counts), synops

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by_spikes, by_synops = grads
        currents, counts = ctx.saved_tensors
        neuron: AdaFire = ctx.neuron
        steps, samples = ctx.shape
        scratch = by_spikes * counts
        by_size = by_channel(scratch)
        by_counts = neuron.values(by_spikes)
        if ctx.fan_out is not None:
            by_counts.addcmul_(torch.sign(counts, out=scratch), by_synops * ctx.fan_out)
        slopes = neuron.slopes(by_counts, currents, samples, steps)
        by_v_init = slopes.v_init if neuron.v_init.dim() else None
        return slopes.current, slopes.threshold + by_size, slopes.bias, by_v_init, None, None, None


class LearningPass(SpikingPass):
    """A spiking pass that gradients can go back through.

    Args:
        profile: Profile of the network.
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
        self._by_channel: dict[str, Tensor] = {}
        self._apart = apart
        self.synops = torch.zeros(())
        self.activations: Mapping[str, Tensor] = {}
        self.errors: dict[str, Tensor] = {}

    def answers(self, x: Inputs, steps: int) -> list[dict[str, Tensor]]:
        """Mean outputs up to each step."""
        self.synops = torch.zeros((), device=x.device)
        found = self._network.answers(self.advance(self.start(x), steps))
        means = {name: running_mean(value, steps) for name, value in found.items()}
        return [{name: mean[step] for name, mean in means.items()} for step in range(steps)]

    def _count(self, node: str, counts: Tensor, _: int) -> None:
        """Of max-pools; spiking layers count as they fire."""
        if node in self._fan_out:
            self.synops = self.synops + (counts.abs() * self._fan_out[node]).sum()

    def _fan_out_of(self, node: str, site: SpikingSite, dtype: torch.dtype) -> Tensor | None:
        """Of each neuron, ``(C, ...)``, in the layout of the currents."""
        if node in self._fan_out and node not in self._by_channel:
            fan_out = site.to_channels(self._fan_out[node][None])
            self._by_channel[node] = laid_out(fan_out.to(dtype))[0]
        return self._by_channel.get(node)

    def _spike(self, node: fx.Node) -> Tensor:
        site = self._sites[node.name]
        current = self._current(node)
        neuron = self._neurons[site.name]
        fan_out = self._fan_out_of(node.name, site, current.dtype)
        given = (current, neuron.threshold, neuron.bias, neuron.v_init)
        shape = (self._steps, self._state.samples)
        found = cast(tuple[Tensor, Tensor], _Fire.apply(*given, neuron, shape, fan_out))
        spikes, synops = found
        self.synops = self.synops + synops
        if self.activations:
            mean = spikes.unflatten(0, (self._steps, -1)).mean(0)
            self.errors[site.name] = relative_error(mean, self.activations[site.name])
        if self._apart:
            spikes = spikes.detach()
        return self._network.axes[node.name].back(site.from_channels(spikes))


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """``Σ values·weights`` of ``(N, ...)`` and ``(...)``; one product of a matrix and a vector."""
    if values.dim() == 4:  # a view where the channels are last
        values, weights = values.permute(0, 2, 3, 1), weights.permute(1, 2, 0)
    return (values.reshape(len(values), -1) @ weights.reshape(-1)).sum()
