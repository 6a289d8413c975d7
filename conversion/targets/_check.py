"""What of a spiking network does not fit a target, layer by layer, and what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, log2, prod

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from conversion.export import Layer, Program
from conversion.targets._target import Target


@dataclass(frozen=True, kw_only=True)
class Violation:
    """Something that does not fit.

    Attributes:
        layer: Name of the layer; ``"network"`` of all together.
        rule: What is limited.
        found: What the network has.
        limit: What the target allows.
        change: What to do about it.
        chosen: Whether a config decides it: a search can keep within it. Else the ANN does.
    """

    layer: str
    rule: str
    found: str
    limit: str
    change: str
    chosen: bool = False


Rule = Callable[[Program, Target], Iterator[Violation]]

RULES: list[Rule] = []
"""Every rule looks at those limits that a target has."""


def rule(function: Rule) -> Rule:
    """Register a rule."""
    RULES.append(function)
    return function


def check(program: Program, target: Target) -> list[Violation]:
    """Everything of a program that does not fit a target; empty if it fits."""
    return [violation for one in RULES for violation in one(program, target)]


@rule
def _spikes(program: Program, target: Target) -> Iterator[Violation]:
    for layer in program.fires:
        neuron = layer.neuron
        assert neuron is not None
        most = target.most_spikes
        if most is not None and neuron.phi > most:
            yield Violation(
                layer=layer.name, rule="φ", found=str(neuron.phi), limit=str(most), chosen=True,
                change=f"search with --phi-max {most}",
            )  # fmt: skip
        if neuron.signed and not target.negative_spikes:
            yield Violation(
                layer=layer.name, rule="negative spikes", found="dual-threshold", limit="none",
                change="search with --neuron adafire", chosen=True,
            )  # fmt: skip
        if neuron.ceiling is not None and not target.ceilings:
            yield Violation(
                layer=layer.name, rule="ceiling", found="ReLU6 or Hardtanh", limit="none",
                change="train the ANN with ReLU",
            )  # fmt: skip


@rule
def _input(program: Program, target: Target) -> Iterator[Violation]:
    if not (target.analog_input or program.events):
        yield Violation(
            layer=program.input.name, rule="input", found="values", limit="spikes",
            change="feed events, or make the first layer's currents outside the chip",
        )  # fmt: skip


@rule
def _operations(program: Program, target: Target) -> Iterator[Violation]:
    for layer in program.layers.values():
        if layer.kind == "largest" and not target.max_pool:
            yield Violation(
                layer=layer.name, rule="max pooling", found="between spikes", limit="none",
                change="train the ANN with average pooling",
            )  # fmt: skip
        if layer.kind == "conv" and not target.convolutions:
            yield Violation(
                layer=layer.name, rule="convolution", found="one", limit="none",
                change="use linear layers",
            )  # fmt: skip
        if layer.kind == "sum" and not target.shortcuts:
            yield Violation(
                layer=layer.name, rule="shortcut", found="one", limit="none",
                change="use a network without residual connections",
            )  # fmt: skip


@rule
def _windows(program: Program, target: Target) -> Iterator[Violation]:
    limits = {"kernel": target.kernel, "padding": target.padding}
    for layer in program.layers.values():
        if layer.kind == "conv":
            for name, most in limits.items():
                if most is not None and max(getattr(layer, name)) > most:
                    found = "×".join(map(str, getattr(layer, name)))
                    yield _size(layer, name, found, str(most))
            if target.strides and not set(layer.stride) <= set(target.strides):
                yield _size(layer, "stride", "×".join(map(str, layer.stride)), _any(target.strides))
            if target.kernel is not None and max(layer.dilation) > 1:
                yield _size(layer, "dilation", "×".join(map(str, layer.dilation)), "1")
        if layer.kind == "average" and target.pools:
            odd = not set(layer.kernel) <= set(target.pools) or layer.kernel != layer.stride
            if odd:
                found = "×".join(map(str, layer.kernel))
                yield _size(layer, "pooling window", found, _any(target.pools))


@rule
def _shapes(program: Program, target: Target) -> Iterator[Violation]:
    for layer in _weighted(program):
        before = program.layers[layer.inputs[0]].shape
        for name, shape, most in (
            ("input size", before, target.input_size),
            ("output size", layer.shape, target.output_size),
        ):
            area = shape[1:]
            if most is not None and any(n > m for n, m in zip(area, most, strict=False)):
                yield _size(layer, name, "×".join(map(str, area)), "×".join(map(str, most)))
        if target.channels is not None and layer.shape[0] > target.channels:
            yield _size(layer, "channels", str(layer.shape[0]), str(target.channels))


@rule
def _wires(program: Program, target: Target) -> Iterator[Violation]:
    if target.destinations is None:
        return
    for layer in program.fires:
        count = len(destinations(program, layer.name))
        if count > target.destinations:
            yield Violation(
                layer=layer.name, rule="layers it sends to", found=str(count),
                limit=str(target.destinations), change="let fewer layers read its output",
            )  # fmt: skip


@rule
def _totals(program: Program, target: Target) -> Iterator[Violation]:
    neurons = sum(prod(layer.shape) for layer in program.fires)
    weights = sum(w.numel() for layer in _weighted(program) if (w := layer.weight) is not None)
    totals = {
        "neurons": (neurons, target.neurons),
        "weights": (weights, target.synapses),
        "inputs": (prod(program.input.shape), target.inputs),
        "outputs": (prod(program.output.shape), target.outputs),
        "bytes": (
            memory_bytes(program, weight_bits=target.weight_bits, state_bits=target.state_bits),
            target.bytes,
        ),
    }
    for name, (found, most) in totals.items():
        if most is not None and found > most:
            yield Violation(
                layer="network", rule=name, found=f"{found:,}", limit=f"{most:,}",
                change="use a smaller network, or several chips",
            )  # fmt: skip


@rule
def _cores(program: Program, target: Target) -> Iterator[Violation]:
    """Each layer needs a core of its own that is large enough (bipartite matching)."""
    if not target.cores:
        return
    cores = [core for core in target.cores for _ in range(core.count)]
    layers = list(_weighted(program))
    needs = [layer_memory(program, layer, target) for layer in layers]
    fits = np.array([[w <= c.weights and n <= c.neurons and b <= c.biases for c in cores]
                     for w, n, b in needs])  # fmt: skip
    alone = [layer for layer, row in zip(layers, fits, strict=True) if not row.any()]
    for layer, (weights, neurons, biases) in zip(layers, needs, strict=True):
        if layer in alone:
            yield Violation(
                layer=layer.name, rule="core memory",
                found=f"{weights:,} words of weights, {neurons:,} of neurons, {biases:,} of biases",
                limit=" or ".join(f"{c.weights:,}/{c.neurons:,}" for c in target.cores),
                change="fewer channels, or a smaller map (pool or stride earlier)",
            )  # fmt: skip
    if alone:
        return
    placed = maximum_bipartite_matching(csr_matrix(fits), perm_type="column")
    if (placed < 0).any():
        yield Violation(
            layer="network", rule="cores", found=f"{len(layers)} layers",
            limit=f"{int((placed >= 0).sum())} of them find a core of their own",
            change="use fewer or smaller layers",
        )  # fmt: skip


def layer_memory(program: Program, layer: Layer, target: Target) -> tuple[int, int, int]:
    """Words of weight, neuron and bias memory of a convolution or linear layer.

    By powers of two a kernel of kx × ky with c inputs and f outputs takes
    ``c·2^(⌈log₂ kx·ky⌉ + ⌈log₂ f⌉)`` words, and a map of f × h × w neurons ``f·2^(⌈log₂ h⌉ + ⌈log₂
    w⌉)`` (Speck's overview). A linear layer is a convolution over its whole input.
    """
    assert layer.weight is not None
    biases = layer.shape[0] if layer.bias is not None and bool(layer.bias.any()) else 0
    if target.memory == "plain":
        return layer.weight.numel(), prod(layer.shape), biases
    before, outputs = _map_before(program, layer), layer.shape[0]
    kernel = layer.kernel if layer.kind == "conv" else before[1:]
    kernel_words = before[0] * 2 ** (_bits(prod(kernel)) + _bits(outputs))
    neurons = outputs * 2 ** sum(_bits(n) for n in layer.shape[1:])
    return kernel_words, neurons, biases


def memory_bytes(
    program: Program, *, weight_bits: int | None = None, state_bits: int | None = None
) -> int:
    """Bytes of weights, biases and potentials; 32 bits where nothing else is said."""
    weight, state = weight_bits or 32, state_bits or 32
    weights = sum(w.numel() for layer in _weighted(program) if (w := layer.weight) is not None)
    biases = sum(b.numel() for layer in _weighted(program) if (b := layer.bias) is not None)
    potentials = sum(prod(layer.shape) for layer in program.fires) + prod(program.output.shape)
    return ceil((weights * weight + (biases + potentials) * state) / 8)


def destinations(program: Program, name: str) -> set[str]:
    """The layers with weights, and the neurons, that one layer's spikes reach."""
    found: set[str] = set()
    for user in program.users(name):
        plain = user.kind in ("sum", "average", "largest", "flatten", "scale")
        found |= destinations(program, user.name) if plain else {user.name}
    return found


def _map_before(program: Program, layer: Layer) -> tuple[int, ...]:
    """Shape of what a layer reads, before it was flattened."""
    source = program.layers[layer.inputs[0]]
    while source.kind == "flatten":
        source = program.layers[source.inputs[0]]
    return source.shape


def _weighted(program: Program) -> Iterable[Layer]:
    return (layer for layer in program.layers.values() if layer.kind in ("conv", "linear"))


def _size(layer: Layer, name: str, found: str, limit: str) -> Violation:
    return Violation(
        layer=layer.name, rule=name, found=found, limit=limit,
        change=f"train the ANN with another {name}",
    )  # fmt: skip


def _any(values: Iterable[int]) -> str:
    return " or ".join(map(str, values))


def _bits(count: int) -> int:
    return ceil(log2(count))
