"""Predictions for every (φ, ρ) of a layer from the calibration histograms, without a pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from conversion import AdaFire, LayerProfile, Profile
from spaces import LayerSpace


@dataclass(frozen=True)
class LayerTables:
    """Error and energy of each (φ, ρ) of a layer for one calibration T, from the histograms.

    Attributes:
        error: Squared error of the mean of some steps over the mean squared activation,
            ``(layers, φ, ρ)``, as if every step got the same input.
        energy: Accumulates of these steps over the ANN's MACs, ``(layers, φ, ρ)``.
    """

    error: np.ndarray
    energy: np.ndarray


def layer_tables(
    profile: Profile, space: LayerSpace, timesteps: int, *, steps: int = 1
) -> LayerTables:
    """Tables of the first ``steps`` steps of a network calibrated at ``timesteps``.

    No forward pass is needed.
    """
    pairs = [_layer_table(profile, space, layer, timesteps, steps) for layer in space.layers]
    return LayerTables(np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs]))


def _layer_table(
    profile: Profile, space: LayerSpace, name: str, timesteps: int, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    layer = profile.layers[name]
    mean, count, accumulates = _activations(layer)
    power = float((count * mean**2).sum()) or 1.0
    error = np.zeros((space.phi_max, len(space.rhos())))
    energy = np.zeros_like(error)
    for i in range(space.phi_max):
        theta = profile.threshold(name, phi=i + 1, timesteps=timesteps, shift=0.5)
        for j, rho in enumerate(space.rhos()):
            size = theta.double().cpu()[:, None] * rho
            spikes = AdaFire.staircase(mean, size, phi=i + 1, timesteps=steps, shift=0.5)
            error[i, j] = float((count * (mean - spikes * size / steps) ** 2).sum()) / power
            energy[i, j] = float(((count * spikes).sum(1) * accumulates).sum())
    return error, energy / profile.costs.ann_macs


def _activations(
    layer: LayerProfile,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per channel and bin: mean activation, activations per sample; accumulates per spike."""
    channels = len(layer.largest)
    share = layer.active * channels / layer.counts.sum().clamp_min(1)
    count = layer.counts * share * (layer.neurons / channels)
    mean = torch.where(layer.counts > 0, layer.sums / layer.counts.clamp_min(1), 0.0)
    return mean * layer.largest[:, None], count, layer.fan_out.cpu()
