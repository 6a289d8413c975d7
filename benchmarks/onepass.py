"""One pass instead of many: ``python -m benchmarks.onepass [--data … --weights …] [--json]``.

Ratios of times within one run on the CIFAR-10 ResNet-20, with random weights and images unless
they are given, against the same result the literal way:

- thresholds for φ = 1 … 8 from histograms, alone and with the gathering of these, against the
  95-point grid evaluated on the raw activations;
- light calibration of all layers in one spiking pass, against one whole pass per layer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.evaluation import cifar_task
from conversion import (
    AdaFire,
    ConversionConfig,
    Profile,
    convert,
    profile,
)
from conversion._thresholds import GRID, Histogram, clip_floor
from conversion.simulation import AnalogPass, SpikingPass

STEPS = 4
PHIS = range(1, 9)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def gathered(activations: dict[str, Tensor]) -> None:
    """The histograms, as :func:`conversion.profile` gathers them."""
    for a in activations.values():
        Histogram(a.shape[1]).add(a)


def histogram_thresholds(found: Profile) -> dict[Any, Tensor]:
    """θ by layer and φ."""
    return {
        (name, phi): found.threshold(name, phi=phi, timesteps=STEPS, shift=0.5)
        for name in found.layers
        for phi in PHIS
    }


def literal_thresholds(activations: dict[str, Tensor]) -> dict[Any, Tensor]:
    """θ by layer and φ: every candidate on every activation."""
    return {(name, phi): _literal(a, phi) for name, a in activations.items() for phi in PHIS}


def _literal(a: Tensor, phi: int) -> Tensor:
    largest = a.amax((0, 2, 3))
    best = torch.full_like(largest, torch.inf)
    theta = largest.clone()
    for fraction in GRID:
        candidate = fraction * largest
        error = squared_error(a, candidate, phi)
        theta = torch.where(error < best, candidate, theta)
        best = torch.minimum(error, best)
    return theta


def squared_error(a: Tensor, theta: Tensor, phi: int) -> Tensor:
    """Per channel."""
    size = theta.clamp_min(1e-12).view(1, -1, 1, 1)
    quantised = clip_floor(a, size, phi=phi, timesteps=STEPS, shift=0.5)
    return (a - quantised).square().sum((0, 2, 3))


def layer_by_layer(found: Profile, config: ConversionConfig) -> dict[str, Tensor]:
    """Biases of light calibration: one pass over the whole network for each layer."""
    model = convert(found, config)
    for name, neuron in model.neurons.items():
        spikes = mean_spikes(found, model.neurons)[found.network.sites[name].node]
        neuron.bias = found.layers[name].mean.float() - spikes * neuron.threshold
    return {name: neuron.bias for name, neuron in model.neurons.items()}


def mean_spikes(found: Profile, neurons: dict[str, AdaFire]) -> dict[str, Tensor]:
    """Mean spikes of each channel, ``(C,)``, by node, over the calibration inputs."""
    means: dict[str, Tensor] = {}

    def keep(node: str, counts: Tensor, _: int) -> None:
        means[node] = counts.mean((0, 2, 3))

    with torch.inference_mode():
        run = SpikingPass(found.network, neurons, on_spikes=keep)
        run.advance(run.start(found.inputs), STEPS)
    return means


def measure(weights: str | None, data: str | None, images: int) -> dict[str, Any]:
    task = cifar_task(weights, data)
    x = torch.cat([inputs for inputs, _ in task.calibration.batches(64)])[:images]
    found = profile(task.model, x)
    activations: dict[str, Tensor] = {}
    with torch.inference_mode():
        AnalogPass(found.network, activations.__setitem__).run(found.inputs)
    gathering, _ = seconds(lambda: gathered(activations))
    fast, by_histogram = seconds(lambda: histogram_thresholds(found))
    slow, literally = seconds(lambda: literal_thresholds(activations))
    excess = [
        float(squared_error(activations[name], by_histogram[name, phi], phi).sum()
              / squared_error(activations[name], literally[name, phi], phi).sum())
        for name, phi in literally
    ]  # fmt: skip
    equal = [torch.isclose(by_histogram[key], literally[key]) for key in literally]
    plain = ConversionConfig.uniform(found.layers, timesteps=STEPS, phi=4, calibration="none")
    light = ConversionConfig.uniform(found.layers, timesteps=STEPS, phi=4)
    layers, biases = seconds(lambda: layer_by_layer(found, plain))
    stream, model = seconds(lambda: convert(found, light))
    difference = max(
        float((model.biases[name] - bias).abs().max() / model.thetas[name].max())
        for name, bias in biases.items()
    )
    return {
        "images": len(x),
        "thresholds_ratio": slow / fast,
        "thresholds_ratio_with_gathering": slow / (gathering + fast),
        "thresholds_equal": float(torch.cat(equal).float().mean()),
        "largest_error_ratio": max(excess),
        "layers": len(biases),
        "calibration_ratio": layers / stream,
        "largest_bias_difference": difference,
    }


@click.command(help=__doc__)
@click.option("--weights")
@click.option("--data")
@click.option("--images", default=64, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, last.")
def main(weights: str | None, data: str | None, images: int, as_json: bool) -> None:
    row = measure(weights, data, images)
    click.echo(
        f"thresholds, φ = 1 … 8, {row['images']} images: literal / histogram ="
        f" {row['thresholds_ratio_with_gathering']:.0f} with the gathering of the histograms,"
        f" {row['thresholds_ratio']:.0f} without (this one grows with the images)"
    )
    click.echo(
        f"  equal on {row['thresholds_equal']:.1%} of the channels; squared error of a layer at"
        f" most {row['largest_error_ratio']:.4f} times the literal one's"
    )
    click.echo(
        f"light calibration of {row['layers']} layers: layer by layer / streaming ="
        f" {row['calibration_ratio']:.1f}"
    )
    click.echo(
        f"  biases differ by at most {row['largest_bias_difference']:.1e} of the largest threshold"
    )
    if as_json:
        click.echo(json.dumps(row))


if __name__ == "__main__":
    main()
