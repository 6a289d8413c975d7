"""Targets: each rule by a network that breaks it, and the vendors' own packages as judges."""

from __future__ import annotations

import importlib
import runpy
import sys
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from conversion import ConfigError
from conversion.export import Program, program_of, save_sinabs
from conversion.targets import TARGETS, Target, check, memory_bytes, target
from conversion.targets._check import layer_memory
from tests.conversion.test_export import Residual, Six, spiking


def rules(program: Program, chip: Target) -> set[tuple[str, str]]:
    return {(found.layer, found.rule) for found in check(program, chip)}


def chain(*layers: nn.Module, x: Tensor | None = None, **options) -> Program:
    """As if its inputs were events: values are a violation of their own."""
    return replace(program_of(spiking(nn.Sequential(*layers), x, **options)), events=True)


def test_values_are_no_spikes() -> None:
    program = chain(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3))
    analog = replace(program, events=False)
    assert rules(analog, replace(TARGETS["xylo"], inputs=None)) == {("input input_1", "input")}
    assert rules(program, replace(TARGETS["xylo"], inputs=None)) == set()
    assert check(analog, TARGETS["digital"]) == []


def test_a_network_that_fits_everywhere() -> None:
    x = torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
    program = chain(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4), x=x, phi=4)
    for chip in TARGETS.values():
        if chip.name != "speck":  # which takes maps
            assert check(program, chip) == [], chip.name


def test_spikes_beyond_a_chip() -> None:
    digital, xylo = TARGETS["digital"], TARGETS["xylo"]
    many = chain(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3), phi=16)
    assert rules(many, digital) == {("2", "φ")}
    (found,) = check(many, digital)
    assert (found.found, found.limit, found.chosen) == ("16", "15", True)
    assert found.change == "search with --phi-max 15"
    assert ("2", "φ") not in rules(many, xylo)
    more = chain(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3), phi=32)
    assert ("2", "φ") in rules(more, xylo)
    signed = chain(
        nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3), neuron="dual-threshold"
    )
    assert rules(signed, digital) == {("2", "negative spikes")}
    assert check(signed, TARGETS["loihi2"]) == []
    assert rules(program_of(spiking(Six())), digital) == {("act", "ceiling")}


def test_operations_that_a_chip_has_not() -> None:
    largest = program_of(spiking(Residual(largest=True)))
    assert ("pool", "max pooling") in rules(largest, TARGETS["speck"])
    residual = rules(program_of(spiking(Residual())), TARGETS["xylo"])
    assert {("stem", "convolution"), ("add", "shortcut"), ("network", "inputs")} <= residual


def test_windows_and_maps() -> None:
    speck = TARGETS["speck"]
    wide = chain(
        nn.Conv2d(2, 4, 5, stride=3, padding=8, dilation=2), nn.ReLU(), nn.AvgPool2d(3),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    found = rules(wide, speck)
    assert {("0", "stride"), ("0", "padding"), ("0", "dilation"), ("2", "pooling window")} == found
    small = replace(speck, channels=3, kernel=4, input_size=(5, 5), output_size=(2, 2))
    assert {("0", "channels"), ("0", "kernel"), ("0", "input size"), ("0", "output size")} <= rules(
        wide, small
    )


class Fan(nn.Module):
    """One layer that three others read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(2, 4, 1), nn.ReLU()
        self.a, self.b, self.c = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.last, self.head = nn.ReLU(), nn.Linear(144, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.stem(x))
        return self.head(self.last(self.a(y) + self.b(y) + self.c(y)).flatten(1))


def test_wires_and_totals() -> None:
    program = program_of(spiking(Fan()))
    (found,) = [v for v in check(program, TARGETS["speck"]) if "sends to" in v.rule]
    assert (found.layer, found.found, found.limit) == ("relu", "3", "2")
    neurons, weights = 4 * 36 * 2, 2 * 4 + 3 * 16 + 144 * 3
    tight = replace(TARGETS["loihi2"], neurons=neurons - 1, synapses=weights - 1)
    assert rules(program, tight) == {("network", "neurons"), ("network", "weights")}
    exact = replace(TARGETS["loihi2"], neurons=neurons, synapses=weights)
    assert check(program, exact) == []
    by_hand = (weights * 8 + (4 * 4 + 3 + neurons + 3) * 32) / 8
    assert memory_bytes(program, weight_bits=8, state_bits=32) == by_hand
    assert rules(program, replace(TARGETS["spinnaker2"], bytes=int(by_hand) - 1)) == {
        ("network", "bytes")
    }
    assert check(program, replace(TARGETS["spinnaker2"], bytes=int(by_hand))) == []


def test_layers_find_cores_only_together() -> None:
    """Two layers that each fit, into the same single core."""
    program = chain(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(144, 3),
    )  # fmt: skip
    from conversion.targets import Core

    core = Core(count=1, weights=16384, neurons=65536, biases=1024)
    one = replace(TARGETS["speck"], cores=(core,))
    (found,) = check(program, one)
    assert (found.rule, found.limit) == ("cores", "1 of them find a core of their own")
    assert check(program, replace(one, cores=(replace(core, count=3),))) == []
    tiny = replace(one, cores=(replace(core, count=9, weights=100),))
    alone = check(program, tiny)
    assert [v.rule for v in alone] == ["core memory"] * 3
    assert "128 words of weights" in alone[0].found


@pytest.mark.parametrize(
    ("c", "f", "k", "side", "stride"),
    [
        (2, 5, 3, 20, 1),
        (7, 33, 5, 32, 2),
        (64, 128, 3, 16, 1),
        (3, 200, 16, 64, 4),
        (4, 4, 1, 8, 1),
    ],
)
def test_speck_memory_is_what_sinabs_calculates(c: int, f: int, k: int, side: int, stride) -> None:
    """The vendor's package judges layer by layer, without hardware."""
    judge = pytest.importorskip("sinabs.validate_memory_speck").ValidateMapping
    x = torch.rand(8, c, side, side)
    net = nn.Sequential(
        nn.Conv2d(c, f, k, stride=stride, padding=k // 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(f, 2),
    )  # fmt: skip
    program = program_of(spiking(net, x))
    layer = program.layers["0"]
    foreign = judge(c, f, (k, k), (stride, stride), (k // 2, k // 2), [side, side])
    ours = layer_memory(program, layer, TARGETS["speck"])
    height = layer.shape[1]
    if (side + 2 * (k // 2) - k) % stride == 0:  # sinabs rounds a map's size up by its fraction
        assert ours[0] == foreign.calculate_kernel_memory()
        assert ours[1] == foreign.calculate_neuron_memory()
    assert height == (side + 2 * (k // 2) - k) // stride + 1
    *_, kernel_error, neuron_error = foreign.calculate_total_memory()
    alone = [v for v in check(program, TARGETS["speck"]) if v.rule == "core memory"]
    fits = not (kernel_error or neuron_error)
    assert ("0" not in {v.layer for v in alone}) == fits


_SAMNA = (
    "samna",
    "samna.dynapcnn",
    "samna.dynapcnn.configuration",
    "samna.speck2e",
    "samna.speck2e.configuration",
    "samna.speck2f",
    "samna.speck2f.configuration",
    "samna.specksim",
    "samna.specksim.nodes",
    "samnagui",
)


def test_speck_cores_are_those_of_sinabs(monkeypatch) -> None:
    """Its table of cores; samna, which talks to the hardware, is not on the package index."""
    pytest.importorskip("sinabs")
    for name in _SAMNA:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    module = importlib.import_module("sinabs.backend.dynapcnn.chips.dynapcnn")
    foreign = sorted(
        (c.kernel_memory, c.neuron_memory, c.bias_memory)
        for c in module.DynapcnnConfigBuilder.get_constraints()
    )
    ours = sorted(
        (c.weights, c.neurons, c.biases) for c in TARGETS["speck"].cores for _ in range(c.count)
    )
    assert ours == foreign


def test_sinabs_maps_its_file_onto_the_cores_of_speck(tmp_path, monkeypatch) -> None:
    """Its own mapper takes the exported network, and the mapped layers fire the same spikes."""
    layers = pytest.importorskip("sinabs.layers")
    for name in _SAMNA:
        monkeypatch.setitem(sys.modules, name, MagicMock())
    dynapcnn = importlib.import_module("sinabs.backend.dynapcnn")
    torch.manual_seed(0)
    program = chain(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3),
        timesteps=4, x=(x := torch.rand(24, 2, 6, 6)),
    )  # fmt: skip
    assert check(program, replace(TARGETS["speck"], phi=None)) == []
    _, builder = save_sinabs(program, tmp_path / "m.sinabs.npz")
    network = runpy.run_path(str(builder))["network"](batch_size=1)
    # A chip reads spikes out, so the output becomes a layer of neurons.
    network.modules_of["output"] = layers.IAFSqueeze(batch_size=1, spike_threshold=0.05)
    mapped = dynapcnn.DynapcnnNetwork(network, (2, 6, 6), batch_size=1, discretize=False)
    steps = x[:1].repeat_interleave(4, 0)
    for part in (network, mapped):  # a chip has no initial potentials
        for layer in part.modules():
            if isinstance(layer, layers.IAFSqueeze):
                layer.reset_states()
    expected = network(steps)
    assert expected.sum() > 0
    assert torch.equal(mapped(steps).flatten(1), expected)


def test_targets_are_read_from_files(tmp_path) -> None:
    path = tmp_path / "chip.toml"
    head = 'name = "chip"\ntitle = "a chip"\nsource = "its manual"\n'
    path.write_text(head + "phi = 3\nstrides = [1, 2]\n")
    assert target(path) == Target(
        name="chip", title="a chip", source="its manual", phi=3, strides=(1, 2)
    )
    cases = {
        "x = [": "is not TOML",
        'name = "chip"': "a target needs the field 'title'",
        head + "colour = 1": "a target has no field 'colour'; it has name",
        head + "phi = 0": "phi must be a whole number >= 1, got 0",
        head + "phi = true": "phi must be a whole number >= 1, got True",
        head + 'graded = "yes"': "graded must be true or false",
        head + 'memory = "odd"': "memory must be one of plain",
        head + "strides = 3": "strides must be a list of whole numbers",
        head + "input_size = [3]": "input_size must be a list",
        head + "cores = [{ count = 1 }]": "a core needs the field",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            target(path)
    with pytest.raises(ConfigError, match="target 'brain' is unknown; known: digital, loihi2"):
        target("brain")
    for chip in TARGETS.values():
        assert chip.source
