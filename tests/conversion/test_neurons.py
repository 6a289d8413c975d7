from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conversion import (
    NEURONS,
    AdaFire,
    ConfigError,
    ConversionConfig,
    DualThreshold,
    convert,
    load,
    profile,
    save,
)
from conversion.neurons import NeuronState


def neuron(phi: int, threshold: float = 1.0, **options: object) -> AdaFire:
    settings = {"v_init": 0.5, "bias": torch.zeros(1), **options}
    return AdaFire(threshold=torch.tensor([threshold]), phi=phi, **settings)  # type: ignore[arg-type]


def literal(
    currents: list[float], *, V: float, phi: int, v_init: float, bias: float = 0.0
) -> list[int]:
    """The definition of DESIGN and of arXiv 2412.16219, one neuron, one step at a time."""
    v = v_init * V
    counts = []
    for x in currents:
        v += x + bias
        n = min(max(math.floor(v / V), 0), phi)
        v -= n * V
        counts.append(n)
    return counts


# Sixteenths and thresholds that are powers of two keep both sides exact in binary floats, so that
# a comparison at the threshold itself is meaningful.
sixteenths = st.integers(-64, 128).map(lambda n: n / 16)


@settings(max_examples=200, deadline=None)
@given(
    currents=st.lists(sixteenths, min_size=1, max_size=12),
    log_v=st.integers(-2, 2),
    phi=st.integers(1, 6),
    v_init=st.sampled_from([0.0, 0.25, 0.5]),
    bias=st.sampled_from([0.0, 0.25, -0.5]),
)
def test_fires_as_the_literal_loop(
    currents: list[float], log_v: int, phi: int, v_init: float, bias: float
) -> None:
    V = 2.0**log_v
    layer = neuron(phi, V, v_init=v_init, bias=torch.tensor([bias]))
    x = torch.tensor(currents).view(-1, 1)
    counts = layer.fire(x, layer.start(x[:1]), len(currents))
    expected = literal(currents, V=V, phi=phi, v_init=v_init, bias=bias)
    assert counts.flatten().tolist() == expected


@settings(max_examples=100, deadline=None)
@given(
    currents=st.lists(sixteenths, min_size=1, max_size=12),
    phi=st.integers(1, 5),
)
def test_conserves_charge_and_keeps_counts_in_range(currents: list[float], phi: int) -> None:
    layer = neuron(phi, 0.5)
    x = torch.tensor(currents).view(-1, 1)
    state = layer.start(x[:1])
    counts = layer.fire(x, state, len(currents))
    assert set(counts.flatten().tolist()) <= set(range(phi + 1))
    left = float(state.membrane) * 0.5
    assert left + 0.5 * float(counts.sum()) == pytest.approx(sum(currents) + 0.25, abs=1e-6)


def test_steps_at_once_and_one_by_one_are_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(6 * 3, 4, 5, 5)
    layer = AdaFire(threshold=torch.rand(4) + 0.2, phi=3, bias=torch.randn(4) * 0.1, v_init=0.5)
    together = layer.fire(x, layer.start(x[:3]), 6)
    state = layer.start(x[:3])
    single = torch.cat([layer.fire(part, state, 1) for part in x.chunk(6)])
    assert torch.equal(together, single)


def test_a_constant_current_may_be_given_once() -> None:
    x = torch.rand(3, 4)
    layer = AdaFire(threshold=torch.ones(4), phi=2, bias=torch.zeros(4), v_init=0.0)
    once = layer.fire(x, layer.start(x), 5)
    repeated = layer.fire(x.repeat(5, 1), layer.start(x), 5)
    assert torch.equal(once, repeated)


def test_each_channel_has_its_threshold() -> None:
    layer = AdaFire(threshold=torch.tensor([1.0, 2.0]), phi=8, bias=torch.zeros(2), v_init=0.0)
    x = torch.full((1, 2, 1, 1), 4.0)
    counts = layer.fire(x, layer.start(x), 1)
    assert counts.flatten().tolist() == [4, 2]
    assert layer.values_(counts).flatten().tolist() == [4, 4]


@pytest.mark.parametrize("current", [3.0, 7.0, 20.0])
def test_a_ceiling_bounds_the_mean_output(current: float) -> None:
    layer = neuron(8, 1.0, ceiling=6.0)
    steps = 50
    x = torch.tensor([[current]])
    counts = layer.fire(x, layer.start(x), steps)
    assert float(counts.sum()) / steps == pytest.approx(min(current, 6.0), abs=1 / steps)


def test_keep_forgets_the_other_samples() -> None:
    layer = neuron(1, 1.0, ceiling=6.0)
    x = torch.tensor([[0.1], [0.2], [0.3]])
    state = layer.start(x)
    layer.fire(x, state, 1)
    state.keep(torch.tensor([2]))
    assert state.membrane.flatten().tolist() == pytest.approx([0.8])
    assert state.emitted is not None
    assert state.emitted.shape == (1, 1)


def literal_dual(currents: list[float], *, V: float, phi: int, v_init: float) -> list[int]:
    v, net = v_init * V, 0
    counts = []
    for x in currents:
        v += x
        n = min(max(math.floor(v / V), 0), phi)
        if v <= -V / 4 and net > 0:
            n = -1
        v -= n * V
        net += n
        counts.append(n)
    return counts


@settings(max_examples=200, deadline=None)
@given(
    currents=st.lists(sixteenths, min_size=1, max_size=12),
    log_v=st.integers(-2, 2),
    phi=st.integers(1, 4),
    v_init=st.sampled_from([0.0, 0.5]),
)
def test_the_dual_threshold_neuron_takes_back_as_the_literal_loop(
    currents: list[float], log_v: int, phi: int, v_init: float
) -> None:
    V = 2.0**log_v
    layer = DualThreshold(
        threshold=torch.tensor([V]), phi=phi, bias=torch.zeros(1), v_init=torch.tensor(v_init)
    )
    x = torch.tensor(currents).view(-1, 1)
    state = layer.start(x[:1])
    counts = layer.fire(x, state, len(currents))
    assert counts.flatten().tolist() == literal_dual(currents, V=V, phi=phi, v_init=v_init)
    assert float(counts.cumsum(0).min()) >= 0, "a rate never goes below zero"
    charge = v_init * V + float(x.sum()) - float(counts.sum()) * V
    assert float(state.membrane) * V == pytest.approx(charge)


def test_the_dual_threshold_neuron_corrects_an_early_spike() -> None:
    """Strong first, then nothing and inhibition: the mean input is 0, the plain neuron says ½."""
    x = torch.tensor([1.0, -1.0, 0.0, 0.0]).view(-1, 1)
    options = {"threshold": torch.ones(1), "phi": 1, "bias": torch.zeros(1)}
    plain = AdaFire(**options, v_init=torch.tensor(0.5))
    dual = DualThreshold(**options, v_init=torch.tensor(0.5))
    assert plain.fire(x, plain.start(x[:1]), 4).flatten().tolist() == [1, 0, 0, 0]
    assert dual.fire(x, dual.start(x[:1]), 4).flatten().tolist() == [1, -1, 0, 0]


class OneSpikeAtAll(AdaFire):
    """A neuron that fires one spike and no more."""

    def start(self, current: Tensor) -> NeuronState:
        state = super().start(current)
        state.emitted = torch.zeros_like(current)
        return state

    def _step(self, state: NeuronState, fired: Tensor) -> None:
        state.membrane.clamp_(max=1.0).masked_fill_(state.emitted > 0, 0.0)
        super()._step(state, fired)


def test_a_neuron_of_one_s_own_is_one_class_under_one_name(
    small_net: nn.Module,
    small_inputs: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = profile(small_net, small_inputs)
    options = {"timesteps": 4, "phi": 3, "neuron": "one-spike"}
    with pytest.raises(ConfigError, match="one of adafire, dual-threshold, got 'one-spike'"):
        ConversionConfig.uniform(found.layers, **options)
    monkeypatch.setitem(NEURONS, "one-spike", OneSpikeAtAll)
    model = convert(found, ConversionConfig.uniform(found.layers, **options))
    simulation = model.simulate(small_inputs)
    neurons = sum(layer.neurons for layer in found.layers.values())
    assert 0 < float(simulation.counts.spikes.sum((0, 1)).max()) <= neurons
    save(model, tmp_path / "a.json")
    again = load(tmp_path / "a.json", small_net)
    assert torch.equal(again.simulate(small_inputs).logits, simulation.logits)
