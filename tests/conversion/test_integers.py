"""Fixed point: a literal machine of Python integers, closed forms, and the engine it comes from."""

from __future__ import annotations

import unittest.mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conversion import (
    Choice,
    ConfigError,
    ConversionConfig,
    ConversionError,
    ExitPolicy,
    ExitRule,
    IntegerModel,
    in_integers,
    load,
    save,
)
from conversion.export import ExportError, program_of
from conversion.integers import FixedPoint, fixed_point, run_fixed_point
from conversion.integers._fixed_point import largest_sum
from evaluators import Evaluator, Task
from tests.conversion.test_export import Odd, Residual, Six, T, images, spiking


def integer_machine(fixed: FixedPoint, x: np.ndarray) -> list[np.ndarray]:
    """Outputs of each step of one sample, with Python's own integers: nothing can be rounded."""
    layers, v, emitted, outputs = fixed.program.layers, {}, {}, []
    end = 2 ** (fixed.state_bits - 1)
    for step in range(1, fixed.program.timesteps + 1):
        values: dict[str, np.ndarray] = {}
        for name, layer in layers.items():
            given = [values[source] for source in layer.inputs]
            if layer.kind == "input":
                y = x
            elif layer.kind == "linear":
                weight, bias = numbers(layer.weight), numbers(layer.bias)
                y = np.array([sum(w * a for w, a in zip(row, given[0], strict=True)) + b
                              for row, b in zip(weight, bias, strict=True)], object)  # fmt: skip
            elif layer.kind == "fire":
                neuron = layer.neuron
                size = numbers(neuron.threshold)
                v.setdefault(name, numbers(neuron.v_init))
                emitted.setdefault(name, np.zeros(len(size), object))
                fired = []
                for i in range(len(size)):
                    potential = v[name][i] + round(float(given[0][i]))
                    potential = max(-end, min(end - 1, potential))
                    n = max(0, min(neuron.phi, potential // size[i]))
                    if (
                        neuron.signed
                        and step > 1
                        and 4 * potential <= -size[i]
                        and emitted[name][i] > 0
                    ):
                        n = -1
                    v[name][i] = potential - n * size[i]
                    emitted[name][i] += n
                    fired.append(n)
                y = np.array(fired, object)
            else:
                y = given[0]
            values[name] = y
        outputs.append(values["output"])
    return outputs


def numbers(values: Tensor) -> np.ndarray:
    """Whole numbers as Python's; weights of what works outside stay fractions."""
    flat = [int(n) if float(n).is_integer() else float(n) for n in values.reshape(-1).tolist()]
    found = np.empty(len(flat), object)
    found[:] = flat
    return found.reshape(tuple(values.shape))


@pytest.mark.parametrize("neuron", ["adafire", "dual-threshold"])
@pytest.mark.parametrize("bits", [3, 8])
def test_every_step_is_that_of_python_integers(neuron: str, bits: int) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(2))
    model = spiking(net, x, neuron=neuron, phi=2)
    fixed = fixed_point(program_of(model), weight_bits=bits)
    run = run_fixed_point(fixed, x[:5])
    for sample in range(5):
        outputs = integer_machine(fixed, x[sample].double().numpy())
        means = np.cumsum([[float(v) for v in out] for out in outputs], 0)
        means *= fixed.output_scale / np.arange(1, len(outputs) + 1)[:, None]
        np.testing.assert_allclose(run.means[:, sample].numpy(), means, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_everything_is_whole_and_fits(bits: int) -> None:
    fixed = fixed_point(program_of(spiking(Residual(branch=True))), weight_bits=bits)
    most = 2 ** (bits - 1) - 1
    for layer in fixed.program.layers.values():
        if layer.kind in ("conv", "linear", "scale") and layer.name != "stem":
            assert layer.weight is not None
            rows = layer.weight.reshape(len(layer.weight), -1)
            for row in rows:
                shift = 2.0 ** max(0, np.ceil(np.log2(max(float(row.abs().max()), 1) / most)))
                assert torch.equal(row, row.round())
                assert float((row / shift).abs().max()) <= most
                assert torch.equal(row / shift, (row / shift).round()), "a shift by whole bits"
        if layer.neuron is not None:
            for values in (layer.neuron.threshold, layer.neuron.v_init):
                assert torch.equal(values, values.round())
            assert layer.neuron.threshold.max() <= (2**15 - 1) // 128


class Twice(nn.Module):
    """One current that two layers of neurons read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.more = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 1)
        self.a, self.b, self.side = nn.ReLU(), nn.ReLU(), nn.Conv2d(3, 3, 1)
        self.last, self.head = nn.ReLU(), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.more(self.relu(self.conv(x)))
        return self.head(self.last(self.side(self.a(y)) + y).flatten(1))


def test_pixels_are_not_rounded() -> None:
    """A pool on analog inputs works outside, of still images and of frames."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.AvgPool2d(2), nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    )
    for feed, x in (("static", images() / 10), ("frames", images()[:, None].repeat(1, T, 1, 1, 1))):
        model = spiking(net, x, feed=feed, calibration_timesteps=T)
        run = run_fixed_point(fixed_point(program_of(model), weight_bits=12), x[:16])
        exact = model.simulate(x[:16]).logits
        error = float((run.means.float() - exact).abs().mean())
        assert error < 0.1 * float(exact[-1].std(0).mean()), feed


def test_a_last_convolution_is_whole_too() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 4), nn.Flatten())
    fixed = fixed_point(program_of(spiking(net)), weight_bits=3)
    weight = fixed.program.layers["2"].weight
    assert weight is not None
    assert torch.equal(weight, weight.round())
    assert float(weight.abs().max()) == 3 * 16


def test_many_bits_are_the_model_itself() -> None:
    """Of sixteen bits with potentials of thirty-two hardly a spike differs."""
    for net in (Residual(), Residual(branch=True), Residual(largest=True)):
        model, x = spiking(net), images()[:16]
        fixed = fixed_point(program_of(model), weight_bits=16, state_bits=32)
        run = run_fixed_point(fixed, x)
        expected = model.simulate(x)
        torch.testing.assert_close(run.means.float(), expected.logits, atol=2e-2, rtol=2e-2)
        counts = torch.stack([run.spikes[n].flatten(2).sum(2) for n in expected.counts.sources])
        differing = (counts - expected.counts.spikes).abs().sum() / expected.counts.spikes.sum()
        assert differing < 2e-3
        assert run.overflows < 1e-3
        assert fixed.clipped < 0.01


def test_wider_potentials_lose_nothing() -> None:
    """Weights of eight bits are as good beside potentials of thirty-two as of sixteen."""
    model, x = spiking(), images()
    exact = model.simulate(x).logits[-1]
    errors = [
        float((run_fixed_point(fixed_point(program_of(model), weight_bits=8, state_bits=width), x)
               .means[-1].float() - exact).square().mean())
        for width in (16, 24, 32)
    ]  # fmt: skip
    assert max(errors) < 3 * min(errors) + 1e-6


def test_error_falls_with_bits() -> None:
    model, x = spiking(), images()
    exact = model.simulate(x).logits[-1]
    errors = []
    for bits in (2, 3, 5, 8):
        run = run_fixed_point(fixed_point(program_of(model), weight_bits=bits), x)
        errors.append(float((run.means[-1].float() - exact).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 20
    layer = fixed_point(program_of(model), weight_bits=5, granularity="layer")
    for one in layer.program.fires:
        assert one.neuron is not None
        assert len(one.neuron.threshold.unique()) == 1


def test_potentials_stop_at_the_ends_of_their_range() -> None:
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    x = 100 * torch.rand(96, 6, generator=torch.Generator().manual_seed(2))
    model = spiking(net, x / 100, phi=1)
    run = run_fixed_point(fixed_point(program_of(model), weight_bits=8, state_bits=8), x[:8])
    assert run.overflows > 0.1
    assert run.largest > 128


def test_what_does_not_work_says_so() -> None:
    program = program_of(spiking())
    with pytest.raises(ConfigError, match=r"weight_bits must be in 2\.\.16, got 1"):
        fixed_point(program, weight_bits=1)
    with pytest.raises(ConfigError, match=r"state_bits must be in 8\.\.32, got 64"):
        fixed_point(program, weight_bits=8, state_bits=64)

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.relu = nn.Conv2d(2, 3, 3), nn.AvgPool2d(2), nn.ReLU()
            self.more, self.last, self.head = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.last(self.pool(self.more(self.relu(self.conv(x)))))
            return self.head(y.mean((2, 3)))

    with pytest.raises(ExportError, match="fixed point needs weights between the average pool"):
        fixed_point(program_of(spiking(Between())), weight_bits=8)
    with pytest.raises(
        ConfigError, match=r"bits must be a whole number within 2\.\.16 or None, got 1"
    ):
        ConversionConfig.uniform(["a"], timesteps=1, bits=1)


def test_a_config_of_bits_is_searched_saved_and_loaded(small_task: Task, tmp_path) -> None:
    evaluator = Evaluator(small_task)
    config = ConversionConfig.uniform(evaluator.layers, timesteps=4, phi=3, bits=6)
    picked = Choice(conversion=config, exit=ExitPolicy(alpha=0.02))
    found = evaluator.measure(picked)
    assert found.counts is not None
    assert found.counts.weight_bits == 6
    assert evaluator.measure(picked).to_dict() == found.to_dict()
    model = evaluator.convert(picked)
    assert isinstance(model, IntegerModel)
    x, _ = next(small_task.search.batches(20))
    inferred = model.infer(x)
    assert 1 <= float(inferred.timesteps.double().mean()) < 4
    save(model, tmp_path / "m.json")
    again = load(tmp_path / "m.json", small_task.model)
    assert isinstance(again, IntegerModel)
    assert torch.equal(again.simulate(x).logits, model.simulate(x).logits)
    assert torch.equal(again.infer(x).logits, inferred.logits)
    plain = evaluator.convert(Choice(conversion=model.with_bits(None).config, exit=picked.exit))
    assert in_integers(plain) is plain
    assert "bits" not in plain.config.to_dict()
    assert ConversionConfig.from_dict(model.config.to_dict()) == model.config


@pytest.mark.parametrize("feed", ["static", "frames"])
def test_steps_in_integers_are_those_of_all_steps_at_once(feed: str) -> None:
    """Samples leave at their exit, and the others go on as if nothing had happened."""
    x = images()[:24]
    if feed == "frames":
        x = torch.stack([x * (t + 1) / 3 for t in range(5)], 1)
    model = spiking(Residual(largest=True), x, feed=feed, bits=8)
    model = in_integers(model)
    assert isinstance(model, IntegerModel)
    run = model.simulate(x)
    means = run.logits
    certain = torch.stack([model.outputs.confidence(run.at(t), "entropy") for t in range(5)])
    model.exit = ExitRule(score="entropy", thresholds=(float(certain[:3].median()),) * 5)
    exits = model.exit.exits(certain)
    assert len(exits.unique()) > 1, "some leave early, some do not"
    found, state = model.step(x if feed == "static" else x[:, 0])
    seen = {}
    while True:
        for place, answer, leaves in zip(found.samples, found.logits, found.leaves, strict=True):
            assert torch.equal(answer, means[found.step - 1, place])
            if leaves:
                seen[int(place)] = found.step
        if not len(state.samples):
            break
        frame = None if feed == "static" else x[state.samples, state.step]
        found, state = model.step(frame, state)
    assert [seen[i] for i in range(24)] == (exits + 1).tolist()
    inferred = model.infer(x)
    assert torch.equal(inferred.timesteps, exits + 1)
    assert torch.equal(inferred.logits, means[exits, torch.arange(24)])
    if feed == "frames":
        with pytest.raises(ConversionError, match="the inputs have 3 steps, and T is 5"):
            model.simulate(x[:, :3])
        _, state = model.step(x[:, 0])
        with pytest.raises(ConversionError, match="the inputs have 1 steps, and T is 2"):
            model.step(None, state)


def test_fewer_bits_cost_less_where_memory_counts(small_task: Task) -> None:
    energies = {}
    for bits in (None, 8, 4):
        evaluator = Evaluator(small_task, energy="lemaire-blocks")
        config = ConversionConfig.uniform(evaluator.layers, timesteps=2, phi=3, bits=bits)
        found = evaluator.measure(Choice(conversion=config, exit=ExitPolicy(alpha=1.0)))
        energies[bits] = found.energy_pj.value / max(found.spikes.value, 1)
        # Convolutions 2·4·9 and 4·4·9, a linear layer 400 → 3: counted from the module itself.
        layers = [m for m in small_task.model.modules() if hasattr(m, "weight")]
        weights = sum(m.weight.numel() for m in layers if m.weight.dim() > 1)
        biases = sum(len(m.weight) for m in layers if m.weight.dim() > 1)
        neurons = sum(evaluator.profile.costs.fan_out[n].numel() for n in evaluator.layers)
        width = (32, 32) if bits is None else (bits, 16)
        expected = (weights * width[0] + (biases + neurons + 3) * width[1]) / 8
        assert found.memory_bytes == pytest.approx(expected, abs=1)
    assert energies[4] < energies[8] < energies[None]


def test_networks_without_integers_fail_with_a_reason() -> None:
    with pytest.raises(ConversionError, match="8 bits need an integer network: 'sigmoid'"):
        spiking(Odd(), bits=8)


def test_a_current_that_two_layers_read_has_no_unit() -> None:
    with pytest.raises(ExportError, match="'more' feeds neither a layer of neurons of its own"):
        fixed_point(program_of(spiking(Twice())), weight_bits=8)


@pytest.mark.parametrize("net", [Residual(), Six()])
def test_more_steps_of_the_same_integers(net: nn.Module) -> None:
    model = spiking(net, bits=6, timesteps=2)
    longer = model.running(5)
    again = spiking(net, bits=6, timesteps=5)
    x = images()[:8]
    assert torch.equal(longer.simulate(x).logits, again.simulate(x).logits)


def test_single_precision_is_taken_only_where_it_is_exact() -> None:
    fixed = fixed_point(program_of(spiking()), weight_bits=8)
    assert largest_sum(fixed) < 2**24
    wide = fixed_point(program_of(spiking()), weight_bits=16, state_bits=32)
    assert largest_sum(wide) > 2**24
    run = run_fixed_point(fixed, images()[:16])
    with unittest.mock.patch(
        "conversion.integers._fixed_point.largest_sum", return_value=float("inf")
    ):
        double = run_fixed_point(fixed, images()[:16])
    assert all(torch.equal(run.spikes[n].double(), double.spikes[n]) for n in run.spikes)
    assert torch.equal(run.means, double.means)
