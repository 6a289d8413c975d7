"""Energy models against independent estimators, hand counts and their own definitions."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conversion import (
    ENERGY_MODELS,
    Chip,
    ConfigError,
    ConversionConfig,
    EnergyModel,
    FileError,
    Memory,
    Profile,
    convert,
    energy_model,
    profile,
)
from conversion.energy import MeanCounts, Prices
from conversion.energy._counts import KINDS

STEPS = 5


def spikes_in(shape: tuple[int, ...] = (2, 8, 8), samples: int = 12) -> Tensor:
    rates = torch.rand(samples, 1, *shape, generator=torch.Generator().manual_seed(3))
    found = torch.rand(samples, STEPS, *shape, generator=torch.Generator().manual_seed(4)) < rates
    found[..., :2], found[..., -2:], found[..., :2, :], found[..., -2:, :] = (False,) * 4
    return found.float()


@pytest.fixture(scope="module")
def chain() -> Profile:
    """Of stride 1, and no spike near a border: then the paper's counts are exact."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(7 * 36, 6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    return profile(net, spikes_in(), feed="events")


def flat_sram(model: EnergyModel) -> Memory:
    """Every access at one price, so that what a peer keeps in one memory does not matter."""
    assert isinstance(model, Memory)
    return replace(model, sram_pj_per_bit=0.0)


def test_lemaire_is_what_spikingjelly_estimates(chain: Profile) -> None:
    """A peer's estimate of the same network, spike for spike, component by component."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    counter = pytest.importorskip("spikingjelly.activation_based.op_counter.analytical_energy")
    config = ConversionConfig.uniform(
        chain.layers, timesteps=STEPS, phi=1, granularity="layer", calibration="none",
        calibration_timesteps=STEPS,
    )  # fmt: skip
    model = convert(chain, config)
    x = spikes_in()[:1]
    ours = model.simulate(x).counts

    pieces, scale = [], 1.0
    for module in _modules(chain):
        if isinstance(module, nn.ReLU):
            name = chain_layers(pieces, chain)
            theta = float(model.thetas[name][0])
            node = neuron.IFNode(v_threshold=theta, v_reset=None, step_mode="m")
            node.v = torch.full((1, *_shape(chain, name)), theta / 2)
            pieces.append(node)
            scale = theta
        elif isinstance(module, nn.Flatten):
            pieces.append(layer.Flatten(step_mode="m"))
        else:
            kind = layer.Conv2d if isinstance(module, nn.Conv2d) else layer.Linear
            copy = kind(*_sizes(module), step_mode="m")
            copy.weight.data = module.weight.detach() * scale
            copy.bias.data = module.bias.detach().clone()
            pieces.append(copy)
    peer = nn.Sequential(*pieces)
    price = 13.2 / 4  # pJ per byte, whatever the memory's size
    sram = tuple((kib * 1024.0, price) for kib in (0.0, 8.0, 32.0, 1024.0))
    settings = counter.LemaireEnergyConfig(
        strict=False,  # it warns that flattening costs nothing
        cost_config=counter.LemaireEnergyCostConfig(memory_breakpoints=sram),
    )
    with torch.no_grad():
        report = counter.estimate_lemaire_energy(peer, x.transpose(0, 1), config=settings)

    found = flat_sram(energy_model("lemaire")).prices(chain.costs, ours.bits)
    means = MeanCounts.of(ours.map(lambda c: c.sum(1)), torch.tensor([float(STEPS)]))
    parts = {name: part.mean_pj(means) for name, part in found.parts.items()}
    assert float(ours.spikes.sum()) > 400
    there = report.breakdown_pj
    readout = STEPS * 3  # the peer has no potentials for an output without a neuron,
    given = float(ours.spikes[0].sum())  # and lets nothing write the input's spikes
    assert parts["operations"] == pytest.approx(there["ops_pj"], rel=1e-2)
    assert parts["addresses"] == pytest.approx(there["addressing_pj"], rel=1e-2)
    assert parts["buffers"] - 13.2 * given == pytest.approx(there["inout_pj"], rel=1e-2)
    assert parts["weights"] + parts["biases"] == pytest.approx(there["params_pj"], rel=1e-2)
    assert parts["potentials"] - 2 * 13.2 * readout == pytest.approx(
        there["potential_pj"], rel=1e-2
    )


def _modules(chain: Profile) -> list[nn.Module]:
    torch.manual_seed(1)
    return list(
        nn.Sequential(
            nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 7, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(7 * 36, 6), nn.ReLU(), nn.Linear(6, 3),
        )
    )  # fmt: skip


def _sizes(module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, nn.Conv2d):
        return module.in_channels, module.out_channels, module.kernel_size[0]
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def chain_layers(pieces: list[nn.Module], chain: Profile) -> str:
    """The name of the next spiking layer."""
    done = sum(hasattr(piece, "v_threshold") for piece in pieces)
    return list(chain.layers)[done]


def _shape(chain: Profile, name: str) -> tuple[int, ...]:
    return tuple(chain.costs.fan_out[name].shape)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.first = nn.ReLU()
        self.inner = nn.Conv2d(2, 2, 3, padding=1)
        self.second = nn.ReLU()
        self.head = nn.Linear(2 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.stem(x))
        return self.head(self.second(self.inner(y) + y).flatten(1))


def test_lemaire_by_hand_on_a_residual_network() -> None:
    """Spikes of ``first`` reach the convolution, and through the sum the neurons of ``second``."""
    torch.manual_seed(0)
    x = torch.rand(64, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    found = profile(Residual(), x)
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=4, phi=3))
    counts = model.simulate(x).counts
    assert counts.sources == ("first", "second")
    # A cell reaches 2 channels × (4 corners of 4, 4 edges of 6, a centre of 9) taps = 49 of 81.
    assert found.costs.targets["first"] == {"inner": 98 / 107, "second": 9 / 107}
    means = MeanCounts.of(counts.map(lambda c: c.sum(1)), torch.full((64,), 4))
    model_ = energy_model("lemaire")
    assert isinstance(model_, Memory)
    parts = model_.prices(found.costs, counts.bits).parts

    def access(elements: int) -> float:
        return 13.2 + 1.09e-5 * 32 * elements

    first, second = (float(n) for n in means.mean["spikes"])
    taps = float((_literal_taps(counts_of(model, x)) * 2).sum()) / 64
    at_inner, at_second, at_head = taps, first, second * 4
    synops, steps = at_inner + at_second + at_head, 4
    assert sum(means.mean["synops"]) == pytest.approx(synops)
    # The split by target is that of one spike of every neuron, here within 6 % of the real one.
    hand = {
        "operations": 0.1 * (synops + steps * (18 + 18 + 4) + first + second)
        + 3.2 * 18 + 0.1 * 18,  # the stem: 18 MACs, 18 outputs
        "potentials": 2 * (at_inner + at_second + steps * 36) * access(18)
        + 2 * (at_head + steps * 4) * access(4),
        "weights": at_inner * access(36) + at_head * access(72) + 18 * access(2),
        "biases": steps * (36 * access(2) + 4 * access(4)) + 18 * access(2),
        "buffers": access(0) * (first * 3 + second * 2) + 18 * access(9) + 18 * access(18),
        "addresses": 0.1 * synops + first * 2 * 3.2 + 0.1 * (9 + 18 + 2),
    }  # fmt: skip
    assert set(parts) == set(hand)
    for name, expected in hand.items():
        within = 0.06 if name == "weights" else 1e-6
        assert parts[name].mean_pj(means) == pytest.approx(expected, rel=within), name
    total = model_.prices(found.costs, counts.bits).mean_pj(means)
    assert total == pytest.approx(sum(hand.values()), rel=0.01)


def counts_of(model, x: Tensor) -> Tensor:
    """Spikes of the first layer summed over the steps, ``(N, C, H, W)``."""
    from conversion.simulation import SpikingPass

    kept: list[Tensor] = []

    def keep(node: str, counts: Tensor, steps: int) -> None:
        if node == "first":
            kept.append(counts.unflatten(0, (steps, -1)).sum(0))

    with torch.inference_mode():
        run = SpikingPass(model.network, model.neurons, on_spikes=keep)
        run.advance(run.start(x), 4)
    return kept[0]


def _literal_taps(spikes: Tensor) -> Tensor:
    """Each spike times the cells within one step of its own."""
    taps = torch.tensor([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
    return spikes * taps


def test_lemaire_of_the_ann_by_hand() -> None:
    """Eqs. 3 to 12 of the paper, as the authors' qualia-plugin-snn writes them."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5))
    found = profile(net, torch.rand(32, 2, 6, 6)).costs
    model = energy_model("lemaire")
    assert isinstance(model, Memory)

    def access(elements: int) -> float:
        return 13.2 + 1.09e-5 * 32 * elements

    conv, full = 4 * 16 * 2 * 9, 64 * 5
    parts = model.ann_parts_pj(found)
    assert parts["operations"] == pytest.approx(3.2 * (conv + full) + 0.1 * (64 + 5))
    assert parts["weights"] == pytest.approx(conv * access(72) + full * access(320))
    assert parts["biases"] == pytest.approx(64 * access(4) + 5 * access(5))
    read = conv * access(72) + 64 * access(64)
    assert parts["buffers"] == pytest.approx(read + 64 * access(64) + 5 * access(5))
    assert parts["addresses"] == pytest.approx(0.1 * (72 + 64 + 4 * 9) + 0.1 * full)
    eight = model.ann_parts_pj(found, int8=True)
    assert eight["operations"] == pytest.approx(0.23 * (conv + full) + 0.03 * (64 + 5))
    narrow = model.ann_parts_pj(found, bits={list(found.operators)[1]: 4})
    assert narrow["operations"] < parts["operations"]
    assert narrow["weights"] == parts["weights"]


def test_a_graded_event_multiplies(chain: Profile) -> None:
    model = convert(
        chain,
        ConversionConfig.uniform(chain.layers, timesteps=STEPS, phi=7, calibration_timesteps=STEPS),
    )
    counts = model.simulate(spikes_in()).counts
    assert counts.bits == (8, 3, 3, 3)  # inputs count up to 255
    prices = energy_model("lemaire-graded").prices(chain.costs, counts.bits)
    operations = prices.parts["operations"]
    assert operations.burst_synops[1] == pytest.approx(0.1 + 3.1 * 3 / 32)
    assert not prices.synops.any()
    assert not prices.spikes.any()


def test_chips_charge_events_and_updates(chain: Profile) -> None:
    loihi = energy_model("loihi")
    assert isinstance(loihi, Chip)
    counts = convert(
        chain, ConversionConfig.uniform(chain.layers, timesteps=STEPS, phi=2,
                                        calibration_timesteps=STEPS)
    ).simulate(spikes_in()).counts  # fmt: skip
    neurons = 5 * 36 + 7 * 36 + 6 + 3
    by_hand = 27.1 * counts.synops.sum(0).cumsum(0)
    by_hand += 81.0 * neurons * torch.arange(1, STEPS + 1).view(-1, 1)
    found = loihi.prices(chain.costs, counts.bits).run_pj(counts)
    torch.testing.assert_close(found, by_hand)
    assert loihi.ann_pj(chain.costs) == pytest.approx(4.6 * chain.costs.ann_macs)


@pytest.mark.parametrize("name", list(ENERGY_MODELS))
def test_every_model_is_linear_and_complete(chain: Profile, name: str) -> None:
    model = ENERGY_MODELS[name]
    assert model.source
    assert model.leaves_out
    assert model.node_nm
    assert EnergyModel.from_dict(model.to_dict()) == model
    config = ConversionConfig.uniform(
        chain.layers, timesteps=STEPS, phi=3, calibration_timesteps=STEPS
    )
    counts = convert(chain, config).simulate(spikes_in()).counts
    prices = model.prices(chain.costs, counts.bits)
    runs = prices.run_pj(counts)
    assert bool((runs.diff(dim=0) > 0).all())
    means = MeanCounts.of(counts.map(lambda c: c.sum(1)), torch.full((12,), STEPS))
    assert prices.mean_pj(means) == pytest.approx(float(runs[-1].mean()), rel=1e-12)
    assert sum(prices.by_place(means).values()) == pytest.approx(prices.mean_pj(means))
    # All counts together vary no more than each on its own.
    spread = float(runs[-1].std()) / 12**0.5
    assert spread <= prices.error_pj(means) * (1 + 1e-9)
    assert model.ann_pj(chain.costs, int8=True) <= model.ann_pj(chain.costs)
    bits = dict.fromkeys(chain.costs.operators, 3)
    assert model.ann_pj(chain.costs, bits=bits) < model.ann_pj(chain.costs)


def test_the_break_even_rate_breaks_even(chain: Profile) -> None:
    """At that rate in every source the run costs what the reference does."""
    for name in ("horowitz45", "lemaire", "loihi"):
        model = energy_model(name)
        prices = model.prices(chain.costs, [1] * 4)
        reference = model.ann_pj(chain.costs)
        rate = prices.break_even_rate(chain.costs, STEPS, reference)
        fan_outs = list(chain.costs.fan_out.values())
        spikes = np.array([rate * f.numel() * STEPS for f in fan_outs])
        synops = np.array([rate * float(f.sum()) * STEPS for f in fan_outs])
        columns = dict(zip(KINDS, (spikes, 0 * spikes, synops, 0 * synops), strict=True))
        means = MeanCounts(
            sources=tuple(chain.costs.fan_out), bits=(1,) * 4, steps=STEPS, steps_error=0.0,
            mean={kind: tuple(found) for kind, found in columns.items()},
            error=dict.fromkeys(KINDS, (0.0,) * 4),
        )  # fmt: skip
        assert prices.mean_pj(means) == pytest.approx(reference)
    assert Prices.of(0).break_even_rate(replace(chain.costs, fan_out={}), 1, 1.0) == float("inf")


def test_the_ann_costs_the_same_with_and_without_bits() -> None:
    """Operations that stay analog are charged for what they do, not for what they give."""
    net = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)
    )
    found = profile(net, torch.randn(64, 6)).costs
    assert found.analog_macs
    for model in ENERGY_MODELS.values():
        assert model.ann_pj(found, bits={}) == pytest.approx(model.ann_pj(found))


def test_integers_never_cost_more_than_floating_point(chain: Profile) -> None:
    for name in ("horowitz45", "lemaire", "lemaire-graded", "lemaire-blocks"):
        model = energy_model(name)
        plain = model.prices(chain.costs, [8, 3, 3, 3])
        costs = [plain.per_spike(chain.costs)]
        costs += [
            model.in_integers(bits).prices(chain.costs, [8, 3, 3, 3]).per_spike(chain.costs)
            for bits in (16, 8, 4)
        ]
        for dearer, cheaper in itertools.pairwise(costs):
            assert (cheaper <= dearer + 1e-12).all(), name
    eight = energy_model("horowitz45-int8").in_integers(8)
    assert eight.to_dict()["ac_pj"] == 0.05  # potentials have 16 bits


def test_models_of_earlier_studies_are_those_of_today() -> None:
    old = {"name": "horowitz45-int8", "mac_pj": 0.23, "ac_pj": 0.03, "ann_mac_pj": 0.23,
           "burst": "count", "source": "Horowitz"}  # fmt: skip
    found = EnergyModel.from_dict(old)
    assert replace(found, source="", leaves_out="", node_nm=None) == replace(
        energy_model("horowitz45-int8"), source="", leaves_out="", node_nm=None
    )


MINE = """
name = "mine"
kind = "chip"
synop_pj = 2.0
source = "measured"
"""


def test_models_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    assert energy_model(path) == Chip(name="mine", synop_pj=2.0, source="measured")
    cases = {
        "synop_pj = [": "is not TOML",
        'name = "a"': "has an energy model without a kind",
        'name = "a"\nkind = "magic"': "of kind 'magic' are unknown",
        'name = "a"\nkind = "chip"': "needs the field 'synop_pj'",
        MINE + "colour = 3": "has no field",
        MINE.replace("2.0", "nan"): r"must be finite and > 0, got synop_pj=nan",
        MINE.replace("2.0", "true"): "synop_pj=True",
        MINE + "update_pj = -1": ">= 0, got update_pj=-1",
        MINE.replace('"mine"', '""'): "needs a name",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            energy_model(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        energy_model(path)
    with pytest.raises(FileError, match="cannot read"):
        energy_model(tmp_path / "none.toml")
