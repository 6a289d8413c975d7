from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conversion import (
    AdaFire,
    ConfigError,
    ConversionConfig,
    ConversionError,
    DeployError,
    Profile,
    Segment,
    SpikingModel,
    convert,
    diagnose,
    load,
    make_calibration,
    model_of_state,
    profile,
    save,
    state_bytes,
)
from conversion.simulation import SpikingPass

STEPS = 2


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn((96, 2, 6, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 4),
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(net: nn.Module, images: Tensor) -> Profile:
    return profile(net, images[:48])


def config_of(found: Profile, calibration: str, **options: object) -> ConversionConfig:
    names = ("iterations", "energy_weight", "label_weight")
    learning = {n: options.pop(n) for n in names if n in options}
    kind = make_calibration(calibration, **learning)
    defaults = {"timesteps": STEPS, "phi": 1, "rho": 1.5, "calibration": kind}
    return ConversionConfig.uniform(found.layers, **{**defaults, **options})


def divergence(net: nn.Module, model: SpikingModel, x: Tensor) -> float:
    with torch.no_grad():
        p = net(x).softmax(-1)
    out = model.simulate(x).logits[-1]
    return float(F.kl_div(out.log_softmax(-1), p, reduction="batchmean"))


def smooth_spikes(
    x: Tensor, size: Tensor, bias: Tensor, v_init: Tensor, *, phi: int, ceiling: float | None
) -> Tensor:
    """Spikes of each step that need not be whole, of ``(T, N, C)`` currents, written out."""
    total = v_init - 0.5
    before = torch.zeros(())
    fired = []
    for step, current in enumerate(x, 1):
        total = total + (current + bias) / size
        most = torch.tensor(float(step * phi))
        if ceiling is not None:
            most = torch.minimum(most, step * ceiling / size)
        sum_so_far = torch.minimum(total.clamp_min(0), most)
        fired.append(sum_so_far - before)
        before = sum_so_far
    return torch.stack(fired)


@given(
    phi=st.integers(1, 3),
    steps=st.integers(1, 5),
    ceiling=st.sampled_from([None, 0.7, 1.4]),
    static=st.booleans(),
    per_neuron=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None)
def test_slopes_are_those_of_smooth_spikes(
    phi: int, steps: int, ceiling: float | None, static: bool, per_neuron: bool, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    N, C = 3, 4
    x = torch.randn((1 if static else steps, N, C), generator=random, dtype=torch.float64)
    size = torch.rand(C, generator=random, dtype=torch.float64) + 0.3
    bias = torch.randn(C, generator=random, dtype=torch.float64) * 0.2
    v_init = torch.rand(C if per_neuron else (), generator=random, dtype=torch.float64)
    given = [value.requires_grad_() for value in (x, size, bias, v_init)]
    grad = torch.randn((steps, N, C), generator=random, dtype=torch.float64)
    spikes = smooth_spikes(x.expand(steps, N, C), size, bias, v_init, phi=phi, ceiling=ceiling)
    expected = torch.autograd.grad(spikes, given, grad)
    neuron = AdaFire(
        threshold=size.detach(), phi=phi, bias=bias.detach(), v_init=v_init.detach(),
        ceiling=ceiling,
    )  # fmt: skip
    found = neuron.slopes(grad.flatten(0, 1), x.detach().flatten(0, 1), N, steps)
    assert torch.allclose(found.current.view_as(x), expected[0])
    assert torch.allclose(found.threshold, expected[1])
    assert torch.allclose(found.bias, expected[2])
    by_v_init = found.v_init if per_neuron else found.v_init.sum()
    assert torch.allclose(by_v_init, expected[3])


def literal_spikes(x: Tensor, threshold: Tensor, bias: Tensor) -> Tensor:
    """Two steps of φ = 1, written out, on ``(2, N, C, ...)``; slopes by a detached difference."""
    shape = (-1, *[1] * (x.dim() - 3))
    size, bias = threshold.view(shape), bias.view(shape)
    v = torch.full_like(x[0], 0.5)
    total: Tensor | float = 0.0
    before: Tensor | float = 0.0
    out = []
    for t in (1, 2):
        v = v + ((x[t - 1] + bias) / size).detach()
        n = (v >= 1).float()
        v = v - n
        total = total + (x[t - 1] + bias) / size
        smooth = total.clamp(0, t)
        step = smooth - before
        before = smooth
        out.append((n + step - step.detach()) * size)
    return torch.stack(out)


def test_the_first_step_of_learning_by_hand(
    net: nn.Sequential, found: Profile, images: Tensor
) -> None:
    """Adam's first step has the length of the rate and the sign of the gradient."""
    light = convert(found, config_of(found, "light"))
    parameters = {}
    for name in found.layers:
        parameters[name] = torch.zeros(6, requires_grad=True), torch.zeros(6, requires_grad=True)
    x = images[:32]
    y = x.expand(2, *x.shape)
    for name, layer in net.named_children():
        if isinstance(layer, nn.ReLU):
            V = light.thetas[name] * 1.5
            growth, shift = parameters[name]
            y = literal_spikes(y, V * growth.exp(), light.biases[name] + V * shift)
        else:
            y = layer(y.flatten(0, 1)).unflatten(0, (2, -1))
    p = net(x).softmax(-1)
    first, last = (
        F.kl_div(out.log_softmax(-1), p, reduction="batchmean") for out in (y[0], y.mean(0))
    )
    loss = (first + last) / 2
    loss.backward()
    told: list[float] = []
    learned = convert(
        found,
        config_of(found, "learned", iterations=1),
        data=[x],
        on_iteration=lambda _, value: told.append(value),
    )
    assert told == [pytest.approx(float(loss.detach()), rel=1e-4)]
    assert float(last.detach()) == pytest.approx(divergence(net, light, x), rel=1e-4)
    for name, (growth, shift) in parameters.items():
        factor = learned.thetas[name] / light.thetas[name]
        assert torch.allclose(factor.log(), -0.01 * growth.grad.sign(), atol=1e-4)
        moved = (learned.biases[name] - light.biases[name]) / (light.thetas[name] * 1.5)
        assert torch.allclose(moved, -0.01 * shift.grad.sign(), atol=1e-4)


def test_the_first_step_of_tuning_by_hand(
    net: nn.Sequential, found: Profile, images: Tensor
) -> None:
    """Each layer by itself, on the spikes that it gets: a gradient from its own error alone."""
    light = convert(found, config_of(found, "light"))
    x = images[:32]
    y, a = x.expand(2, *x.shape), x
    gradients = {}
    for name, layer in net.named_children():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            synapses = layer
            y = layer(y.flatten(0, 1)).unflatten(0, (2, -1))
        elif isinstance(layer, nn.ReLU):
            V = light.thetas[name] * 1.5
            y = literal_spikes(y, V, light.biases[name])
        else:
            y = layer(y.flatten(0, 1)).unflatten(0, (2, -1))
        a = layer(a).detach()
        if isinstance(layer, (nn.ReLU, nn.Linear)):
            error = (y.mean(0) - a).square().sum() / a.square().sum()
            (gradients[synapses],) = torch.autograd.grad(error, synapses.weight)
            y = y.detach()
    tuned = convert(found, config_of(found, "tuned", iterations=1), data=[(x, None)])
    modules = dict(net.named_modules())
    assert set(tuned.weights) == {"0.weight", "2.weight", "5.weight"}
    for name, weight in tuned.weights.items():
        module = modules[name.removesuffix(".weight")]
        g = gradients[module]
        rate = 0.003 * module.weight.std(correction=0)
        clear = g.abs() > 1e-6
        moved = (weight - module.weight)[clear]
        assert torch.allclose(moved, (-rate * g.sign())[clear], rtol=0.02)


@pytest.mark.parametrize("pooled", [False, True])
def test_energy_is_weighed_as_it_is_measured(images: Tensor, pooled: bool) -> None:
    """The loss grows by the weight times the real operations per MAC; and then they get fewer."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2) if pooled else nn.Identity(),
        nn.Conv2d(6, 6, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip
    with torch.no_grad():
        net(images)
    found = profile(net, images)
    options = {"phi": 2, "neuron": "dual-threshold"}
    light = convert(found, config_of(found, "light", **options)).simulate(images)
    losses, energies = [], []
    for weight in (0.0, 0.5):
        config = config_of(found, "learned", energy_weight=weight, iterations=40, **options)
        told: list[float] = []
        model = convert(
            found, config, data=[images], on_iteration=lambda _, loss, to=told: to.append(loss)
        )
        losses.append(told[0])
        energies.append(float(model.simulate(images).counts.synops.sum()))
    operations = float(light.counts.synops.sum()) / len(images) / found.costs.ann_macs
    assert losses[1] - losses[0] == pytest.approx(0.5 * operations, rel=1e-4)
    assert energies[1] < 0.9 * energies[0]


@pytest.mark.parametrize("calibration", ["learned", "tuned"])
def test_learning_helps_on_other_data_and_leaves_the_network_alone(
    net: nn.Sequential, found: Profile, images: Tensor, calibration: str
) -> None:
    other = torch.randn((400, 2, 6, 6), generator=torch.Generator().manual_seed(5))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    start = "light" if calibration == "learned" else "advanced"
    plain = convert(found, config_of(found, start))
    with torch.inference_mode():
        model = convert(found, config_of(found, calibration))
    assert divergence(net, model, other) < 0.9 * divergence(net, plain, other)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), "the caller's weights are not touched"
    again = convert(found, config_of(found, calibration))
    assert torch.equal(model.simulate(other).logits, again.simulate(other).logits)
    assert not any(v.requires_grad for v in (*model.thetas.values(), *model.biases.values()))


def test_diagnosis_of_tuned_weights_compares_with_the_ann(
    net: nn.Sequential, found: Profile, images: Tensor
) -> None:
    model = convert(found, config_of(found, "tuned", timesteps=1, phi=8))
    with torch.no_grad():
        a = net[:2](images)
        weights = model.synapses.constants
        mean = F.conv2d(images, weights["0.weight"], weights["0.bias"])
    size = (model.thetas["1"] * 1.5).view(-1, 1, 1)
    x = mean + model.biases["1"].view(-1, 1, 1)
    s = torch.floor(x / size + model.v_inits["1"]).clamp(0, 8) * size
    total = float((s - a).square().mean().sqrt() / a.square().mean().sqrt())
    assert diagnose(model, images)[0].total == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("calibration", ["learned", "tuned"])
def test_what_was_learned_is_saved(
    net: nn.Sequential, found: Profile, images: Tensor, calibration: str, tmp_path: Path
) -> None:
    model = convert(found, config_of(found, calibration, iterations=5))
    save(model, tmp_path / "a.json")
    again = load(tmp_path / "a.json", net)
    assert torch.equal(again.simulate(images).logits, model.simulate(images).logits)
    assert torch.equal(again.infer(images).logits, model.infer(images).logits)


def test_tuned_weights_that_are_missing_are_missed(
    net: nn.Sequential, found: Profile, tmp_path: Path
) -> None:
    model = convert(found, config_of(found, "tuned", iterations=1))
    model.weights.clear()
    save(model, tmp_path / "a.json")
    with pytest.raises(DeployError, match="the tensor file has no weight/"):
        load(tmp_path / "a.json", net)


@pytest.mark.parametrize("calibration", ["learned", "tuned"])
def test_the_user_s_loader_is_gone_through_again(
    found: Profile, images: Tensor, calibration: str
) -> None:
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, torch.zeros(96)), batch_size=48
    )
    told: list[int] = []
    convert(
        found,
        config_of(found, calibration, iterations=5),
        data=loader,
        on_iteration=lambda done, _: told.append(done),
    )
    assert told == [1, 2, 3, 4, 5]


def once(x: Tensor) -> Iterator[Tensor]:
    yield x


def test_errors(found: Profile, images: Tensor) -> None:
    config = config_of(found, "learned", iterations=2)
    with pytest.raises(ConfigError, match="the data to learn from is empty, or can be iterated"):
        convert(found, config, data=once(images))
    with pytest.raises(ConfigError, match="data needs a calibration that learns, got 'light'"):
        convert(found, config_of(found, "light"), data=images)
    with pytest.raises(ConversionError, match="contains NaN or infinity, in batch 1"):
        convert(found, config, data=[torch.full_like(images, torch.nan)])
    with pytest.raises(ConversionError, match="the loss of iteration 1 is not finite"):
        convert(found, config_of(found, "learned", iterations=2, energy_weight=1e40), data=images)
    with pytest.raises(ConfigError, match="iterations must be a whole number >= 1, got 0"):
        config_of(found, "tuned", iterations=0)
    with pytest.raises(ConfigError, match="energy_weight must be finite and >= 0, got -1"):
        config_of(found, "learned", energy_weight=-1)
    with pytest.raises(ConversionError, match="must have the structure that the network"):
        convert(found, config, data=[{"x": images}])
    with pytest.raises(ConversionError, match=r"got \(96, 2, 5, 5\)"):
        convert(found, config, data=images[..., :5, :5])
    network = found.network
    with pytest.raises(ConfigError, match=r"no parameter 'x' of \(1,\)"):
        network.with_weights({"x": torch.zeros(1)})


def test_learning_goes_on_from_a_state(found: Profile, images: Tensor) -> None:
    """A lineage learned from nothing is what its segments give one after the other."""
    first = config_of(found, "learned", iterations=6, energy_weight=0.1)
    second = replace(
        config_of(
            found, "learned-weights", iterations=4, energy_weight=0.5, neuron="dual-threshold"
        ),
        calibration_timesteps=1,
    )
    lineage = (first.segment(),)
    second = replace(second, calibration=replace(second.calibration, before=lineage))
    assert second.goes_on_from() == replace(first, calibration_timesteps=STEPS)
    assert first.goes_on_from() is None
    told: list[int] = []
    start = convert(found, second.goes_on_from())
    stepwise = convert(found, second, start=start, on_iteration=lambda n, _: told.append(n))
    whole = convert(found, second)
    assert told == [1, 2, 3, 4]
    assert torch.equal(stepwise.simulate(images).logits, whole.simulate(images).logits)
    assert not torch.equal(whole.simulate(images).logits, start.simulate(images).logits)
    assert whole.weights, "learned in the second segment"
    assert ConversionConfig.from_dict(json.loads(second.to_json())) == second
    with pytest.raises(ConfigError, match="start is not the model of the config that this one"):
        convert(found, second, start=whole)
    with pytest.raises(ConfigError, match="start needs a calibration that continues earlier"):
        convert(found, first, start=whole)


def test_weights_that_an_earlier_segment_learned_are_kept(
    net: nn.Sequential, found: Profile, images: Tensor, tmp_path: Path
) -> None:
    first = config_of(found, "learned-weights", iterations=4)
    last = config_of(found, "learned", iterations=2)
    last = replace(last, calibration=replace(last.calibration, before=(first.segment(),)))
    model = convert(found, last)
    tuned = convert(found, first).weights
    assert all(torch.equal(value, tuned[name]) for name, value in model.weights.items())
    save(model, tmp_path / "a.json")
    again = load(tmp_path / "a.json", net)
    assert torch.equal(again.simulate(images).logits, model.simulate(images).logits)


def test_a_state_round_trips_and_knows_its_hash(found: Profile, images: Tensor) -> None:
    config = config_of(found, "learned-weights", iterations=2)
    model = convert(found, config)
    data = state_bytes(model)
    again = model_of_state(found, config, data)
    assert torch.equal(again.simulate(images).logits, model.simulate(images).logits)
    flipped = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    for damaged, message in (
        (flipped, "a learned state was altered: its SHA-256 differs"),
        (data[: len(data) // 2], "a learned state is not safetensors"),
        (b"", "a learned state is not safetensors"),
    ):
        with pytest.raises(DeployError, match=message):
            model_of_state(found, config, damaged)


def test_labels_are_weighed(found: Profile, images: Tensor, net: nn.Sequential) -> None:
    """The loss grows by the weight times the cross-entropy, the mean over the steps."""
    labels = torch.arange(32) % 4
    batch = [(images[:32], labels)]
    losses = []
    for weight in (0.0, 0.7):
        told: list[float] = []
        config = config_of(found, "learned", iterations=1, label_weight=weight)
        convert(found, config, data=batch, on_iteration=lambda _, loss, to=told: to.append(loss))
        losses.append(told[0])
    logits = convert(found, config_of(found, "light")).simulate(images[:32]).logits
    expected = torch.stack([F.cross_entropy(step, labels) for step in logits]).mean()
    assert losses[1] - losses[0] == pytest.approx(0.7 * float(expected), rel=1e-4)
    with pytest.raises(ConfigError, match=r"label_weight needs batches \(inputs, labels\)"):
        convert(found, config, data=images)


def test_phi_stays_a_hard_limit(found: Profile, images: Tensor) -> None:
    model = convert(found, config_of(found, "learned-weights", iterations=20, phi=2))
    most: list[float] = []
    run = SpikingPass(
        model.synapses, model.neurons, on_spikes=lambda _, counts, __: most.append(counts.max())
    )
    run.advance(run.start(100 * images), STEPS)
    assert max(most) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": "light"}, "a segment needs a calibration that learns, got 'light'"),
        ({"timesteps": 0}, "timesteps must be a whole number >= 1, got 0"),
        ({"iterations": 0}, "iterations must be a whole number >= 1, got 0"),
        ({"label_weight": -1}, "label_weight must be finite and >= 0, got -1"),
    ],
)
def test_segments_are_checked(changes: dict, message: str) -> None:
    values = {"calibration": "learned", "timesteps": 2, "neuron": "adafire", "iterations": 3,
              "energy_weight": 0.1}  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        Segment(**{**values, **changes})
    with pytest.raises(ConfigError, match="before must be segments of learning"):
        make_calibration("learned", before=[{"iterations": 3}])
    with pytest.raises(ConfigError, match="a segment needs a learned calibration"):
        ConversionConfig.uniform(("a",), timesteps=1).segment()
