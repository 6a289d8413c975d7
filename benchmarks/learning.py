"""What a gradient step of learning takes, over its floor.

    python -m benchmarks.learning [--weights resnet20.safetensors --data CIFAR10]

The floor is the forward and backward pass of the same convolutions and linear layers on the same
number of inputs, T of them for every sample: the folded ANN with plain ReLUs. A step of ours adds
the neurons, the ANN's own answers, the loss and Adam. Memory: what the forward pass keeps for the
backward pass, each storage once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from conversion import ConversionConfig, Learned, LearnedWeights, convert
from conversion.calibration import endless
from conversion.graph import run_ann
from evaluators import Evaluator, TaskSpec, digits, load_task

_BATCH = 32


def learn(
    evaluator: Evaluator, kind: type[Learned], neuron: str, timesteps: int, iterations: int
) -> list[float]:
    """The time at the end of each gradient step."""
    found = evaluator.profile
    base = ConversionConfig.uniform(
        found.layers, timesteps=timesteps, phi=4, rho=2.0, neuron=neuron
    )
    seen: list[float] = []
    config = replace(base, calibration=kind(iterations=iterations, energy_weight=0.2))
    convert(found, config, on_iteration=lambda *_: seen.append(time.perf_counter()))
    return seen


def per_step(evaluator: Evaluator, kind: type[Learned], neuron: str, timesteps: int) -> float:
    """Seconds of one gradient step; conversion and calibration are not counted."""
    seen = learn(evaluator, kind, neuron, timesteps, 25)
    return median(later - sooner for sooner, later in pairwise(seen[5:]))


def memory(evaluator: Evaluator, kind: type[Learned], neuron: str, timesteps: int) -> int:
    """Bytes that one forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learn(evaluator, kind, neuron, timesteps, 1)
    return sum(kept.values())


def floor(evaluator: Evaluator, timesteps: int, *, weights: bool) -> float:
    """Seconds of the dense forward and backward pass of T times the batch."""
    network = evaluator.profile.network
    constants = {
        name: value.clone().requires_grad_(weights)
        for name, value in network.synapse_weights().items()
    }
    dense = network.with_weights(constants)
    x, _ = next(endless(None, evaluator.profile))
    repeated = x.with_tensors([t.repeat(timesteps, *[1] * (t.dim() - 1)) for t in x.tensors])
    leaf = repeated.with_tensors([t.clone().requires_grad_(not weights) for t in repeated.tensors])

    def once() -> None:
        run_ann(dense, leaf)[0].square().sum().backward()

    return _seconds(once)


def _seconds(run: Callable[[], None]) -> float:
    taken = []
    for _ in range(25):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return median(taken[5:])


def main() -> None:
    """Print one row of a table for each network, neuron and T."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights")
    parser.add_argument("--data")
    given = parser.parse_args()
    tasks = [digits()]
    if given.weights and given.data:
        spec = TaskSpec(task="cifar10", data=given.data, weights=given.weights)
        tasks.append(load_task(spec))
    print("| task | T | neuron | learned | floor, ms | step, ms | step ÷ floor | kept, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for task in tasks:
        evaluator = Evaluator(task)
        for timesteps in (1, 2, 4):
            for neuron in ("adafire", "dual-threshold"):
                for kind in (Learned, LearnedWeights):
                    least = floor(evaluator, timesteps, weights=kind.weights)
                    step = per_step(evaluator, kind, neuron, timesteps)
                    megabytes = memory(evaluator, kind, neuron, timesteps) / 1e6
                    print(
                        f"| {task.name} | {timesteps} | {neuron} | {kind.name} |"
                        f" {1e3 * least:.1f} | {1e3 * step:.1f} | {step / least:.2f} |"
                        f" {megabytes:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
