"""The ANN with activations rounded to as many levels as a spiking network distinguishes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from conversion._profile import Profile
from conversion.energy import Costs
from conversion.graph import run_ann
from conversion.simulation._passes import answers_of


@torch.inference_mode()
def quantised_answers(profile: Profile, x: Any, levels: Mapping[str, int]) -> dict[str, Tensor]:
    """Outputs of the ANN with quantised activations and unchanged weights.

    T steps of up to φ spikes distinguish φ·T + 1 values, as activations of ``⌈log₂(φ·T + 1)⌉`` bits
    do, which makes this the fair rival (Yan et al., arXiv 2409.08290). Values are rounded to the
    nearest of ``0, θ, …, L·θ`` per channel, with the θ of least squared error on the calibration
    inputs.

    Args:
        profile: Profile of the network.
        x: Inputs of the network.
        levels: L of each layer, not counting 0.
    """
    network = profile.network
    sites = {site.node: site for site in network.sites.values()}
    sizes = {
        name: profile.threshold(name, phi=1, timesteps=levels[name], shift=0.5) / levels[name]
        for name in network.sites
    }

    def round_(node: fx.Node, value: Any) -> Any:
        site = sites.get(node.name)
        if site is None:
            return None
        axis = network.axes[node.name]
        channels = site.to_channels(axis.front(value))
        size = sizes[site.name].to(channels).view(-1, *[1] * (channels.dim() - 2))
        count = torch.floor(channels / size + 0.5).clamp(0, levels[site.name])
        return axis.back(site.from_channels(count * size))

    inputs = network.still(network.take(x))
    return answers_of(network, run_ann(network, inputs, round_))


def level_bits(levels: int) -> int:
    """Width that represents 0 to ``levels``."""
    return max(1, math.ceil(math.log2(levels + 1)))


def operator_bits(costs: Costs, levels: Mapping[str, int]) -> dict[str, int]:
    """Width of the activations each operator reads: that of the widest layer feeding it.

    Args:
        costs: Costs of the network.
        levels: L of each spiking layer; a max-pool passes on what it receives.
    """
    known: dict[str, int] = {}
    bits: dict[str, int] = {}
    for source, reached in costs.targets.items():
        known.setdefault(source, level_bits(levels[source]) if source in levels else _INPUT_BITS)
        for target in reached:
            if target in costs.operators:
                bits[target] = max(bits.get(target, 0), known[source])
            elif target in costs.fan_out and target not in levels:
                known[target] = max(known.get(target, 0), known[source])
    return bits


_INPUT_BITS = 8
