"""Make a spiking model: thresholds, then the steps of a calibration."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from conversion._config import ConversionConfig
from conversion._errors import ConfigError, ConversionError, is_out_of_memory
from conversion._profile import Profile
from conversion.calibration import Batch, Batches, Draft, OnIteration, endless
from conversion.graph import Inputs
from conversion.integers import in_integers
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
    start: SpikingModel | None = None,
    on_iteration: OnIteration | None = None,
) -> SpikingModel:
    """Make the spiking model of a profiled network; your own model is not modified.

    Thresholds follow the config's rule for each layer's φ; then the steps of its calibration run
    (:mod:`conversion.calibration`). A calibration that continues earlier learning starts from that
    learned state instead.

    Args:
        profile: From :func:`conversion.profile`.
        config: The config.
        data: For a calibration that learns: inputs ``(N, ...)``, or batches of inputs or of
            ``(inputs, labels)``, such as a training loader; repeated for as many iterations as
            needed. None uses the profile's calibration inputs.
        start: The model of ``config.goes_on_from()``, if you have it; otherwise it is learned
            first.
        on_iteration: Called with (iterations done, loss) of the last segment.

    Raises:
        ConfigError: The config's layers are not those of the network; ``data`` is empty or would
            not be used; ``start`` has another config.
        ConversionError: A layer's output or the loss is NaN or infinite; ``data`` has another
            shape; or memory runs out.
    """
    if not isinstance(profile, Profile) or not isinstance(config, ConversionConfig):
        raise ConfigError(
            "convert takes the result of profile(model, data) and a ConversionConfig, got"
            f" {type(profile).__name__} and {type(config).__name__}"
        )
    config.check_layers(profile.layers)
    calibration = config.calibration
    if data is not None and not calibration.learns:
        raise ConfigError(f"data needs a calibration that learns, got {calibration.name!r}")
    earlier = config.goes_on_from()
    if earlier is not None and start is None:
        start = convert(profile, earlier, data=data)
    _check_start(start, earlier)
    with enough_memory(profile, config), torch.inference_mode(False), torch.enable_grad():
        segment = len(config.lineage)
        batches = endless(data, profile, seed=segment)
        draft = _draft(profile, config, start, batches, on_iteration)
        with _seeded(segment, profile.device) if calibration.learns else nullcontext():
            for step in calibration.steps:
                step.run(draft)
    found = SpikingModel(
        profile.network,
        profile.costs,
        config,
        outputs=profile.outputs,
        thetas=draft.thetas,
        biases={name: neuron.bias.detach() for name, neuron in draft.neurons.items()},
        v_inits={name: neuron.v_init.detach() for name, neuron in draft.neurons.items()},
        weights=draft.weights,
    )
    return in_integers(found)


def _check_start(start: SpikingModel | None, earlier: ConversionConfig | None) -> None:
    if start is None:
        return
    if earlier is None:
        raise ConfigError("start needs a calibration that continues earlier learning")
    if start.config.without_steps() != earlier.without_steps():
        raise ConfigError("start is not the model of the config that this one continues")


_DRAWING = threading.Lock()
"""Torch's random state belongs to the process, so threads that learn take turns."""


@contextmanager
def _seeded(segment: int, device: torch.device) -> Iterator[None]:
    """Use the same random draws for a learning segment every time, including data augmentation.

    A lost state that is learned again is then identical.
    """
    with _DRAWING, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(segment)
        yield


def _draft(
    profile: Profile,
    config: ConversionConfig,
    start: SpikingModel | None,
    batches: Iterator[Batch],
    on_iteration: OnIteration | None,
) -> Draft:
    if start is None:
        thetas = thresholds(profile, config)
        neurons = fresh_neurons(profile, config, thetas)
    else:
        thetas = start.thetas
        neurons = {
            name: make_neuron(
                config.layers[name],
                theta,
                start.biases[name],
                start.v_inits[name],
                profile.network.sites[name].ceiling,
            )
            for name, theta in thetas.items()
        }
    weights = dict(start.weights) if start else {}
    return Draft(
        profile=profile,
        network=profile.network.with_weights(weights),
        timesteps=config.steps_of_calibration,
        neurons=neurons,
        thetas=dict(thetas),
        weights=weights,
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
            " ran out of memory; use fewer calibration samples"
        ) from error
