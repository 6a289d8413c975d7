"""Spike trains against independent simulators: sinabs and SpikingJelly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from conversion import ConversionConfig, Profile, SpikingModel, convert, profile
from conversion.graph import is_size
from conversion.graph._operations import call
from conversion.simulation import SpikingPass

STEPS = 7


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn((20, 2, 6, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found(images: Tensor) -> Profile:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(80, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    return profile(net, images)


def spikes(model: SpikingModel, images: Tensor) -> dict[str, Tensor]:
    """Spike counts ``(T, N, ...)`` of every layer."""
    trains: dict[str, Tensor] = {}

    def keep(node: str, counts: Tensor, steps: int) -> None:
        trains[node] = counts.clone().unflatten(0, (steps, -1))

    with torch.inference_mode():
        run = SpikingPass(model.network, model.neurons, on_spikes=keep)
        run.advance(run.start(images), STEPS)
    return trains


def value_of(model: SpikingModel, node: fx.Node, x: Tensor) -> Any:
    """What a node of a chain of layers is for inputs ``x``."""
    if node.op == "get_attr":
        return model.network.constant(node)
    return model.network.size(node, len(x)) if is_size(node) else x


def as_peers_see_it(model: SpikingModel, images: Tensor, make_neuron) -> dict[str, Tensor]:
    """The same network layer by layer with a peer's neurons, thresholds scaled to 1.

    Every layer's current is divided by its threshold, so that a peer with one threshold per layer
    can run thresholds per channel; the potential starts at half by a first input of one half.
    """
    trains: dict[str, Tensor] = {}
    current: Tensor = images.expand(STEPS, *images.shape)
    sites = {site.node: name for name, site in model.network.sites.items()}
    for node in model.network.graph.nodes:
        if node.op != "call_function" or is_size(node):
            continue
        flat = current.flatten(0, 1)
        if node.name in sites:
            name = sites[node.name]
            shape = (-1, *[1] * (flat.dim() - 2))
            size, bias = model.thetas[name].view(shape), model.biases[name].view(shape)
            x = ((flat + bias) / size).unflatten(0, (STEPS, -1)).clone()
            x[0] += 0.5
            trains[node.name] = make_neuron()(x)
            flat = trains[node.name].flatten(0, 1) * size
        else:
            flat = call(node, lambda n, x=flat: value_of(model, n, x))
        current = flat.unflatten(0, (STEPS, -1))
    return trains


def same_spikes(ours: dict[str, Tensor], foreign: dict[str, Tensor]) -> None:
    assert ours.keys() == foreign.keys()
    for node, counts in ours.items():
        assert counts.shape == foreign[node].shape
        differing = float((counts != foreign[node]).float().mean())
        # A potential that meets the threshold to the last bit may fall either way.
        assert differing < 1e-3, (node, differing)
        assert counts.sum() > 0


@pytest.mark.parametrize("phi", [1, 2, 4])
@pytest.mark.parametrize("calibration", ["none", "light"])
def test_the_spikes_of_sinabs(found: Profile, images: Tensor, phi: int, calibration: str) -> None:
    layers = pytest.importorskip("sinabs.layers")
    activation = pytest.importorskip("sinabs.activation")
    model = convert(
        found, ConversionConfig.uniform(found.layers, timesteps=STEPS, phi=phi,
                                        calibration=calibration),
    )  # fmt: skip

    def neuron():
        iaf = layers.IAF(
            spike_threshold=1.0, spike_fn=activation.MaxSpike(phi),
            reset_fn=activation.MembraneSubtract(), min_v_mem=None,
        )  # fmt: skip
        return lambda x: iaf(x.transpose(0, 1)).transpose(0, 1)  # it wants (N, T, ...)

    with torch.inference_mode():
        same_spikes(spikes(model, images), as_peers_see_it(model, images, neuron))


def test_the_spikes_of_spikingjelly(found: Profile, images: Tensor) -> None:
    """Its integrate-and-fire neuron fires one spike a step: φ = 1."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=STEPS, phi=1))

    def soft_reset():
        return neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")

    with torch.inference_mode():
        same_spikes(spikes(model, images), as_peers_see_it(model, images, soft_reset))
