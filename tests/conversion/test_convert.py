from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conversion import (
    ConfigError,
    ConversionConfig,
    ConversionError,
    ExitRule,
    LayerConfig,
    Learned,
    Profile,
    SpikingModel,
    confidence,
    convert,
    make_calibration,
    profile,
)
from conversion.simulation._passes import AnalogPass, SpikingPass


def uniform(found: Profile, **options: object) -> ConversionConfig:
    return ConversionConfig.uniform(found.layers, **options)  # type: ignore[arg-type]


@pytest.fixture
def small_profile(small_net: nn.Module, small_inputs: Tensor) -> Profile:
    return profile(small_net, small_inputs)


def error_against_ann(model: SpikingModel, net: nn.Module, x: Tensor) -> list[float]:
    with torch.no_grad():
        expected = net(x)
    logits = model.simulate(x).logits
    return [float((step - expected).norm() / expected.norm()) for step in logits]


def literal_simulation(
    net: nn.Module, model: SpikingModel, x: Tensor, steps: int
) -> tuple[Tensor, list[float]]:
    """SmallNet's spiking version written out by hand, one step at a time, SynOps counted by
    convolving the spikes with weights of one."""

    def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = conv.bias if conv.bias is not None else torch.zeros(len(scale))
        shifted = (bias - norm.running_mean) * scale + norm.bias
        return conv.weight * scale.view(-1, 1, 1, 1), shifted

    w1, b1 = folded(net.conv1, net.bn1)
    w2, b2 = folded(net.conv2, net.bn2)
    V = {n: model.thetas[n] * model.config.layers[n].rho for n in model.thetas}
    v = dict.fromkeys(V)
    total, outputs, synops = torch.zeros(len(x), 3), [], []
    charge = {"in": 0.0, "out": 0.0}

    def fire(name: str, current: Tensor) -> Tensor:
        threshold = V[name].view(1, -1, 1, 1)
        if v[name] is None:
            v[name] = torch.ones_like(current) * threshold * model.config.v_init
        v[name] = v[name] + current + model.biases[name].view(1, -1, 1, 1)
        n = torch.floor(v[name] / threshold).clamp(0, model.config.layers[name].phi)
        v[name] = v[name] - n * threshold
        return n

    for step in range(1, steps + 1):
        n1 = fire("relu", F.conv2d(x, w1, b1, padding=1))
        charge["in"] = charge["in"] + n1
        pooled_total = F.max_pool2d(charge["in"], 2)
        p1 = pooled_total - charge["out"]
        charge["out"] = pooled_total
        s1 = p1 * V["relu"].view(1, -1, 1, 1)
        n2 = fire("relu_1", F.conv2d(s1, w2, b2, padding=1, groups=2) + s1)
        s2 = n2 * V["relu_1"].view(1, -1, 1, 1)
        n3 = fire("relu_2", F.conv2d(s2, net.conv3.weight, net.conv3.bias, stride=2))
        s3 = n3 * V["relu_2"].view(1, -1, 1, 1)
        total = total + F.linear(s3.mean([2, 3]), net.fc.weight, net.fc.bias)
        outputs.append(total / step)
        count = n1.sum() + p1.sum()  # into the pool, and along the identity
        count += F.conv2d(p1, torch.ones_like(w2), padding=1, groups=2).sum()
        count += F.conv2d(n2, torch.ones_like(net.conv3.weight), stride=2).sum()
        count += 3 * n3.sum()
        synops.append(float(count))
    return torch.stack(outputs), synops


@torch.no_grad()
def test_matches_a_literal_step_by_step_simulation(
    small_net: nn.Module, small_profile: Profile, small_inputs: Tensor
) -> None:
    layers = {
        name: LayerConfig(phi=phi, rho=rho)
        for name, phi, rho in zip(small_profile.layers, (2, 3, 1), (1.5, 1.0, 1.0), strict=True)
    }
    model = convert(small_profile, ConversionConfig(timesteps=5, layers=layers))
    found = model.simulate(small_inputs[:8])
    logits, synops = literal_simulation(small_net, model, small_inputs[:8], 5)
    torch.testing.assert_close(found.logits, logits, rtol=1e-4, atol=1e-5)
    assert found.counts.synops.sum((0, 2)).tolist() == pytest.approx(synops)


def test_converges_to_the_ann(
    small_net: nn.Module, small_profile: Profile, small_inputs: Tensor
) -> None:
    errors = {}
    for steps in (4, 16, 64, 256):
        config = uniform(small_profile, timesteps=steps, phi=4, calibration="none")
        model = convert(small_profile, config)
        errors[steps] = error_against_ann(model, small_net, small_inputs)[-1]
    assert errors[4] > errors[16] > errors[64] > errors[256]
    assert errors[256] < 0.01


def test_relu6_converges_to_its_ceiling() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU6(), nn.Linear(16, 3)).eval()
    x = torch.randn(64, 4) * 20
    found = profile(net, x)
    assert float(found.layers["1"].largest.max()) == 6.0
    model = convert(found, uniform(found, timesteps=256, phi=8, calibration="none"))
    assert error_against_ann(model, net, x)[-1] < 0.01


def test_light_calibration_matches_every_layer_s_mean(small_profile: Profile) -> None:
    """Where the output is not clipped, one correction leaves a much smaller mean error."""

    def mean_error(calibration: str) -> float:
        config = uniform(small_profile, timesteps=4, phi=2, rho=2.0, calibration=calibration)
        model = convert(small_profile, config)
        found = model.simulate(small_profile.inputs)
        total = 0.0
        for i, name in enumerate(found.counts.sources):
            if name in model.thetas:
                layer = small_profile.layers[name]
                target = float(layer.mean.sum()) * layer.neurons / len(layer.mean)
                # Spikes of all channels, each worth its own threshold on average.
                V = float((model.thetas[name] * 2).mean())
                total += abs(float(found.counts.spikes[i].mean()) * V - target) / abs(target)
        return total

    assert mean_error("light") < mean_error("none")


def test_calibration_is_one_streaming_pass_with_earlier_layers_corrected(
    small_net: nn.Module, small_profile: Profile
) -> None:
    """Literal version: one full simulation per layer, correcting that layer's bias."""
    config = uniform(small_profile, timesteps=3, phi=2, rho=1.5)
    streamed = convert(small_profile, config)
    literal = convert(
        small_profile, uniform(small_profile, timesteps=3, phi=2, rho=1.5, calibration="none")
    )
    for name, site in small_profile.network.sites.items():
        outputs: list[Tensor] = []

        def keep(node: str, counts: Tensor, steps: int, site=site, out=outputs) -> None:
            if node == site.node:
                out.append(counts.clone())

        with torch.inference_mode():
            run = SpikingPass(small_profile.network, literal.neurons, on_spikes=keep)
            run.advance(run.start(small_profile.inputs), 3)
            neuron = literal.neurons[name]
            spiking = outputs[0].mean((0, 2, 3)) * neuron.threshold
            neuron.bias = neuron.bias + small_profile.layers[name].mean.float() - spiking
        torch.testing.assert_close(streamed.biases[name], neuron.bias, rtol=1e-4, atol=1e-6)


def test_advanced_calibration_then_gives_each_neuron_what_it_still_lacks(
    small_net: nn.Module, small_profile: Profile, small_inputs: Tensor
) -> None:
    """Literal version: one full simulation per layer, shifting that layer's potentials."""
    options = {"timesteps": 3, "phi": 2, "rho": 1.5}
    streamed = convert(small_profile, uniform(small_profile, **options, calibration="advanced"))
    light = convert(small_profile, uniform(small_profile, **options, calibration="light"))
    literal = convert(small_profile, uniform(small_profile, **options, calibration="none"))
    outputs: dict[str, Tensor] = {}

    def keep(node: str, counts: Tensor, steps: int) -> None:
        outputs[node] = counts.clone()

    activations: dict[str, Tensor] = {}
    AnalogPass(small_profile.network, activations.__setitem__).run(small_inputs)
    for name, site in small_profile.network.sites.items():
        neuron = literal.neurons[name]
        for part in ("bias", "potential"):
            with torch.inference_mode():
                run = SpikingPass(small_profile.network, literal.neurons, on_spikes=keep)
                run.advance(run.start(small_profile.inputs), 3)
            rate = outputs[site.node].mean(0) * neuron.threshold.view(-1, 1, 1)
            lacked = activations[name].mean(0) - rate
            if part == "bias":
                neuron.bias = neuron.bias + lacked.mean((1, 2))
            else:
                neuron.v_init = neuron.v_init + 3 * lacked / neuron.threshold.view(-1, 1, 1)
        torch.testing.assert_close(streamed.biases[name], neuron.bias, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(streamed.v_inits[name], neuron.v_init, rtol=1e-3, atol=1e-4)
    first = next(iter(light.biases))
    assert torch.equal(streamed.biases[first], light.biases[first])


@pytest.mark.parametrize("neuron", ["adafire", "dual-threshold"])
def test_negative_spikes_cost_what_positive_ones_do(
    small_profile: Profile, small_inputs: Tensor, neuron: str
) -> None:
    model = convert(small_profile, uniform(small_profile, timesteps=6, phi=2, neuron=neuron))
    seen: dict[str, Tensor] = {}

    def keep(node: str, counts: Tensor, steps: int) -> None:
        seen[node] = counts.clone()

    with torch.inference_mode():
        run = SpikingPass(model.network, model.neurons, on_spikes=keep)
        run.advance(run.start(small_inputs), 6)
    found = model.simulate(small_inputs)
    lowest = []
    for row, name in enumerate(found.counts.sources):
        if name in model.network.sites:
            counts = seen[model.network.sites[name].node]
            assert float(found.counts.spikes[row].sum()) == float(counts.abs().sum())
            lowest.append(float(counts.min()))
    assert min(lowest) == (-1 if neuron == "dual-threshold" else 0)


@pytest.mark.parametrize("score", ["entropy", "top1", "margin"])
def test_step_by_step_with_compaction_gives_what_the_recording_says(
    small_profile: Profile, small_inputs: Tensor, score: str
) -> None:
    model = convert(small_profile, uniform(small_profile, timesteps=6, phi=2))
    logits = model.simulate(small_inputs).logits
    limit = float(confidence(logits, score)[1].median())  # type: ignore[arg-type]
    rule = ExitRule(score=score, thresholds=(limit,) * 6)  # type: ignore[arg-type]
    exits = rule.exits(confidence(logits, rule.score, samples=2))
    assert len(exits.unique()) > 1, "the test needs samples that leave at different steps"
    model.exit = rule
    answer = model.infer(small_inputs)
    assert torch.equal(answer.timesteps, exits + 1)
    at_exit = logits[exits, torch.arange(len(exits))]
    torch.testing.assert_close(answer.logits, at_exit, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(small_inputs), answer.logits)


def test_without_a_rule_every_sample_runs_all_steps(
    small_profile: Profile, small_inputs: Tensor
) -> None:
    model = convert(small_profile, uniform(small_profile, timesteps=3))
    assert model.infer(small_inputs).timesteps.tolist() == [3] * len(small_inputs)


def test_moving_a_spiking_model_is_refused_rather_than_half_done(small_profile: Profile) -> None:
    model = convert(small_profile, uniform(small_profile, timesteps=1))
    with pytest.raises(ConfigError, match="keeps its device and type"):
        model.double()


def test_the_model_and_global_state_are_untouched(
    small_net: nn.Module, small_inputs: Tensor
) -> None:
    before = copy.deepcopy(small_net.state_dict())
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    small_net.train()
    found = profile(small_net, small_inputs)
    convert(found, uniform(found, timesteps=2)).simulate(small_inputs)
    assert small_net.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads
    assert all(torch.equal(v, before[k]) for k, v in small_net.state_dict().items())


def test_the_same_inputs_give_the_same_bits(small_profile: Profile, small_inputs: Tensor) -> None:
    config = uniform(small_profile, timesteps=4, phi=3)
    first, second = (convert(small_profile, config).simulate(small_inputs) for _ in range(2))
    assert torch.equal(first.logits, second.logits)


def test_a_burst_counts_once(small_profile: Profile, small_inputs: Tensor) -> None:
    many = convert(small_profile, uniform(small_profile, timesteps=2, phi=8))
    found = many.simulate(small_inputs).counts
    assert float(found.bursts.sum()) < float(found.spikes.sum())
    assert float(found.burst_synops.sum()) < float(found.synops.sum())
    assert found.bits[found.sources.index("relu")] == 4  # 1 to 8 spikes
    single = convert(small_profile, uniform(small_profile, timesteps=2, phi=1))
    ones = single.simulate(small_inputs).counts
    assert torch.equal(ones.bursts, ones.spikes)
    assert torch.equal(ones.burst_synops, ones.synops)


def test_profiles_do_not_depend_on_batches(small_net: nn.Module, small_inputs: Tensor) -> None:
    whole = profile(small_net, small_inputs)
    batches = profile(small_net, [(b, None) for b in small_inputs.split(5)], batch_size=7)
    assert whole.data_fingerprint == batches.data_fingerprint
    for name in whole.layers:
        torch.testing.assert_close(whole.layers[name].mean, batches.layers[name].mean)
        torch.testing.assert_close(whole.layers[name].largest, batches.layers[name].largest)


def test_errors(small_net: nn.Module, small_profile: Profile, small_inputs: Tensor) -> None:
    with pytest.raises(ConfigError, match="calibration data is empty"):
        profile(small_net, [])
    with pytest.raises(ConfigError, match="unknown layer 'nose' in the config; the network has"):
        convert(
            small_profile, ConversionConfig.uniform([*small_profile.layers, "nose"], timesteps=1)
        )
    with pytest.raises(ConfigError, match="no entry for layer 'relu_2'"):
        convert(small_profile, ConversionConfig.uniform(["relu", "relu_1"], timesteps=1))
    model = convert(small_profile, uniform(small_profile, timesteps=1))
    for inputs, message in (
        (small_inputs[:0], "the inputs hold no sample: the batch is empty"),
        ({"x": small_inputs}, "inputs must have the structure that the network"),
        (small_inputs.to(torch.uint8), "inputs must be torch.float32, as .* got torch.uint8"),
        (small_inputs[:, :1], r"must have the shape \(N, 2, 10, 10\) .* got \(24, 1, 10, 10\)"),
        (torch.tensor(3.0), "has the samples in its first dimension, got the shapes"),
        ("images", "inputs must be a tensor, a tuple of them, or a dict .* got str"),
        ({}, "the inputs hold no tensor"),
    ):
        for run in (model.simulate, model.infer):
            with pytest.raises(ConversionError, match=message):
                run(inputs)
    assert model(small_inputs.double()).dtype == torch.float32
    for data, message in (
        ([small_inputs, small_inputs[:, :, :8]], "the batches of the calibration data differ"),
        ([()], "a batch of the data is an empty tuple"),
        (3, "data must be inputs or an iterable of batches, got int"),
    ):
        with pytest.raises((ConfigError, ConversionError), match=message):
            profile(small_net, data)
    with torch.no_grad():
        small_net.fc.bias[0] = float("nan")
    with pytest.raises(ConversionError, match=r"the parameter .fc.bias. of the model contains NaN"):
        profile(small_net, small_inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerConfig(phi=0), "phi must be a whole number in 1..1,048,576, got 0"),
        (lambda: LayerConfig(phi=1.5), "phi must be a whole number"),  # type: ignore[arg-type]
        (lambda: LayerConfig(rho=0.5), "rho must be a finite number >= 1, got 0.5"),
        (lambda: LayerConfig(rho=float("nan")), "rho must be a finite number"),
        (lambda: ConversionConfig(timesteps=0, layers={}), "timesteps must be a whole number"),
        (lambda: ConversionConfig(timesteps=1, layers={}, v_init=2), "v_init must be within"),
        (lambda: ConversionConfig(timesteps=1, layers={}, v_init="a"), "v_init must be within"),
        (lambda: ConversionConfig(timesteps=True, layers={}), "timesteps must be a whole number"),
        (lambda: LayerConfig(phi=True), "phi must be a whole number"),
        (lambda: LayerConfig(phi=10**30), "phi must be a whole number in 1..1,048,576"),
        (lambda: LayerConfig(rho=10**30), "rho must be a finite number"),
        (lambda: LayerConfig(rho="2"), "rho must be a finite number"),
        (lambda: LayerConfig(neuron=3), "neuron must be one of adafire, dual-threshold, got 3"),
        (lambda: Learned(iterations=True), "iterations must be a whole number"),
        (lambda: Learned(energy_weight="a"), "energy_weight must be finite"),
        (lambda: make_calibration("light", iterations=3), "'light' has no option 'iterations'"),
        (lambda: make_calibration({"nome": "light"}), "calibration must be one of .* got None"),
        (
            lambda: ConversionConfig(timesteps=1, layers={}, calibration="heavy"),  # type: ignore[arg-type]
            "calibration must be",
        ),
        (lambda: ConversionConfig.from_dict({"layers": {}}), "malformed conversion config"),
        (
            lambda: ConversionConfig.from_dict({"timesteps": 1, "layers": {"a": {"psi": 1}}}),
            "malformed conversion config",
        ),
    ],
)
def test_configs_are_checked_at_construction(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_configs_round_trip(small_profile: Profile) -> None:
    config = uniform(small_profile, timesteps=4, phi=3, rho=1.25, calibration_timesteps=2)
    assert ConversionConfig.from_dict(config.to_dict()) == config


def test_what_is_too_large_or_not_finite_is_said(small_profile: Profile) -> None:
    huge = uniform(small_profile, timesteps=10**9)
    with pytest.raises(ConversionError, match="24 samples × 1000000000 steps ran out of memory"):
        convert(small_profile, huge)
    name = next(iter(small_profile.layers))
    layer = small_profile.layers[name]
    endless = replace(layer, largest=layer.largest * torch.inf)
    broken = replace(small_profile, layers={**small_profile.layers, name: endless}, _thresholds={})
    with pytest.raises(ConversionError, match=f"layer '{name}' diverges: its spiking output"):
        convert(broken, uniform(small_profile, timesteps=2, thresholds="max"))


def test_an_exit_rule_fits_the_timesteps(small_profile: Profile) -> None:
    model = convert(small_profile, uniform(small_profile, timesteps=4))
    with pytest.raises(ConfigError, match="an exit rule needs 4 thresholds, got 1"):
        model.exit = ExitRule(score="top1", thresholds=(0.5,))


def test_inputs_of_another_shape_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = profile(net.eval(), [torch.randn(8, 1, 6, 6)])
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=2, phi=2))
    for run in (model.simulate, model.infer):
        with pytest.raises(
            ConversionError, match=r"the shape \(N, 1, 6, 6\) .* got \(3, 1, 8, 8\)"
        ):
            run(torch.randn(3, 1, 8, 8))


def test_a_quantised_config_is_the_ann_with_clip_floor_activations() -> None:
    """ClipFloor of φ·T levels put into the ANN by hand; the levels are those of the T steps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(64, 6)
    found = profile(net, x)
    steps, phi, rho = 4, 2, 1.5
    config = uniform(found, timesteps=steps, phi=phi, rho=rho, calibration="none")
    simulated = convert(found, config.quantised()).simulate(x)
    assert simulated.logits.shape[0] == 1
    y = x
    layers = iter(found.layers)
    for module in net:
        if isinstance(module, nn.ReLU):
            layer, levels = next(layers), phi * steps
            level = found.threshold(layer, phi=levels, timesteps=1, shift=0.5) * rho
            y = torch.clamp(torch.floor(y / level + 0.5), 0, levels) * level
            theta = found.threshold(layer, phi=phi, timesteps=steps, shift=0.5) * rho
            # Both minimise the same error, over grids of their own.
            assert torch.isclose(level, theta / steps, rtol=0.1).float().mean() > 0.8
        else:
            y = module(y)
    torch.testing.assert_close(simulated.logits[0], y, atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="calibrated at another T cannot be quantised"):
        replace(config, calibration_timesteps=1).quantised()


def test_outputs_that_depend_on_the_number_of_samples() -> None:
    """They are those of the batch that was given, even when some have left."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> dict:
            return {"logits": F.relu(self.a(x)), "n": x.shape[0], "z": torch.zeros(x.shape[0], 2)}

    torch.manual_seed(0)
    x = torch.randn(16, 8)
    found = profile(Net(), x)
    model = convert(found, uniform(found, timesteps=6, phi=1))
    scores = confidence(model.simulate(x).logits, "margin", samples=2)[0]
    limit = float(scores.median())
    model.exit = ExitRule(score="margin", thresholds=(limit, *[2.0] * 8))  # longer than T: fine
    answer = model.infer(x)
    assert set(answer.timesteps.tolist()) == {1, 6}
    for outputs in (answer.outputs, model.simulate(x).outputs):
        assert outputs["n"] == 16
        assert outputs["z"].shape == (16, 2)
    assert torch.equal(
        model.exit.exits(confidence(model.simulate(x).logits, model.exit.score, samples=2)) + 1,
        answer.timesteps,
    )
