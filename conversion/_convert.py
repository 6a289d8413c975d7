"""The one way to make a spiking model: thresholds, then the steps of a calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from conversion._config import ConversionConfig
from conversion._errors import ConfigError, ConversionError, is_out_of_memory
from conversion._profile import Profile
from conversion.calibration import Batches, Draft, OnIteration, endless
from conversion.graph import Inputs
from conversion.neurons import AdaFire
from conversion.simulation import SpikingModel, make_neuron


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
            neuron=layer.neuron,
        )
        for name, layer in config.layers.items()
    }


def convert(
    profile: Profile,
    config: ConversionConfig,
    *,
    data: Tensor | Inputs | Batches | None = None,
    on_iteration: OnIteration | None = None,
) -> SpikingModel:
    """Make the spiking model of a profiled network; the caller's model is not touched.

    Thresholds are those of the config's rule for each layer's φ; then come the steps of its
    calibration (:mod:`conversion.calibration`).

    Args:
        profile: From :func:`conversion.profile`.
        config: The choices.
        data: For a calibration that learns: inputs ``(N, ...)``, or batches of inputs or of
            ``(inputs, labels)``, such as a training loader; gone through as often as its
            iterations ask. None takes the profile's calibration inputs.
        on_iteration: Told (iterations done, loss).

    Raises:
        ConfigError: The config names other layers than the network has; ``data`` is empty, or
            nothing would learn from it.
        ConversionError: A layer's output, or the loss, is NaN or infinite; ``data`` has another
            shape; or memory does not suffice.
    """
    if not isinstance(profile, Profile) or not isinstance(config, ConversionConfig):
        raise ConfigError(
            "convert takes what profile(model, data) gives, and a ConversionConfig, got"
            f" {type(profile).__name__} and {type(config).__name__}"
        )
    config.check_layers(profile.layers)
    calibration = config.calibration
    if data is not None and not calibration.learns:
        raise ConfigError(f"data is for a calibration that learns, got {calibration.name!r}")
    with enough_memory(profile, config), torch.inference_mode(False), torch.enable_grad():
        draft = _draft(profile, config, endless(data, profile), on_iteration)
        for step in calibration.steps:
            step.run(draft)
    return SpikingModel(
        profile.network,
        profile.costs,
        config,
        thetas=draft.thetas,
        biases={name: neuron.bias for name, neuron in draft.neurons.items()},
        v_inits={name: neuron.v_init for name, neuron in draft.neurons.items()},
        weights=draft.weights,
    )


def _draft(
    profile: Profile,
    config: ConversionConfig,
    batches: Iterator[Inputs],
    on_iteration: OnIteration | None,
) -> Draft:
    thetas = thresholds(profile, config)
    return Draft(
        profile=profile,
        network=profile.network,
        timesteps=config.steps_of_calibration,
        neurons=fresh_neurons(profile, config, thetas),
        thetas=dict(thetas),
        batches=batches,
        on_iteration=on_iteration,
    )


def fresh_neurons(
    profile: Profile, config: ConversionConfig, thetas: Mapping[str, Tensor]
) -> dict[str, AdaFire]:
    """Neurons of a config before any calibration."""
    v_init = torch.tensor(config.v_init, device=profile.device)
    return {
        name: make_neuron(
            config.layers[name],
            theta,
            torch.zeros_like(theta),
            v_init,
            profile.network.sites[name].ceiling,
        )
        for name, theta in thetas.items()
    }


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
