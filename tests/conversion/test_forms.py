"""Networks of many forms: each converges to its ANN, and runs the same steps either way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from conversion import (
    ConversionConfig,
    ConversionError,
    ExitRule,
    Tuned,
    confidence,
    convert,
    diagnose,
    load,
    make_calibration,
    profile,
    save,
)
from tests.conftest import Form, settle
from tests.conversion.forms import (
    FORMS,
    chosen_by_a_comparison,
    functional_layers,
    modules_that_move,
    padded_and_permuted,
    pooled_and_put_back,
    softmax_attention,
    token_transformer,
)


@pytest.mark.parametrize("form", FORMS)
def test_converges_and_runs_alike_step_by_step(form: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(24, 3, 8, 8)
    net = settle(form(), x)
    found = profile(net, x)
    with torch.no_grad():
        expected = net(x)
    expected = expected["out"] if isinstance(expected, dict) else expected
    errors = []
    for steps in (2, 64):
        config = ConversionConfig.uniform(found.layers, timesteps=steps, phi=8)
        model = convert(found, config)
        logits = model.simulate(x).logits
        errors.append(float((logits[-1] - expected).norm() / expected.norm()))
        torch.testing.assert_close(model.infer(x).logits, logits[-1], rtol=1e-3, atol=1e-4)
    # Where a comparison decides, values near its limit fall on either side.
    assert errors[1] < (0.05 if form is chosen_by_a_comparison else 0.01)
    assert errors[1] < errors[0]


def test_unpooling_by_indices_converges() -> None:
    """Slowly: where two values of a window are nearly equal, the other one may be put back."""
    torch.manual_seed(0)
    x = torch.randn(24, 3, 8, 8)
    net = settle(pooled_and_put_back(), x)
    found = profile(net, x)
    with torch.no_grad():
        expected = net(x)
    errors = []
    for steps in (4, 32, 256):
        model = convert(found, ConversionConfig.uniform(found.layers, timesteps=steps, phi=8))
        logits = model.simulate(x).logits[-1]
        errors.append(float((logits - expected).norm() / expected.norm()))
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]


@pytest.mark.parametrize("calibration", ["tuned", "learned"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_learns(form: Callable[[], nn.Module], calibration: str) -> None:
    """And then runs alike all at once, step by step and with early exits."""
    torch.manual_seed(0)
    x = torch.randn(24, 3, 8, 8)
    net = settle(form(), x)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = profile(net, x)
    losses: list[float] = []
    options = {
        "neuron": "dual-threshold",
        "calibration": make_calibration(calibration, iterations=12),
    }
    config = ConversionConfig.uniform(found.layers, timesteps=3, phi=2, **options)
    model = convert(found, config, data=x, on_iteration=lambda _, loss: losses.append(loss))
    assert len(losses) == 12
    untouched = convert(found, replace(config, calibration="light"))
    for name, theta in model.thetas.items():
        assert torch.equal(theta, untouched.thetas[name]) == (calibration == "tuned")
    if calibration == "tuned":
        assert model.weights.keys() == found.network.synapse_weights().keys()
    logits = model.simulate(x).logits
    scores = confidence(logits, "margin")
    limit = float(scores[0].median())
    model.exit = rule = ExitRule(score="margin", thresholds=(limit, limit, limit))
    exits = rule.exits(confidence(logits, rule.score, samples=2))
    torch.testing.assert_close(
        model.infer(x).logits, logits[exits, torch.arange(24)], rtol=1e-3, atol=1e-4
    )
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), "the caller's model is not touched"


def test_moving_modules_cost_no_macs() -> None:
    x = torch.randn(4, 3, 8, 8)
    found = profile(settle(modules_that_move(), x), x)
    assert found.costs.analog_macs == {}


def test_channels_of_linear_layers_are_their_features() -> None:
    x = torch.randn(8, 3, 8, 8)
    found = profile(token_transformer().eval(), x)
    assert [len(layer.mean) for layer in found.layers.values()] == [8, 8, 16]
    assert [site.channels for site in found.network.sites.values()] == [2, 2, 2]


def test_functional_layers_cost_what_modules_cost() -> None:
    x = torch.randn(4, 3, 8, 8)
    functional = functional_layers().eval()
    modules = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()  # fmt: skip
    first, second = profile(functional, x), profile(modules, x)
    assert not first.network.analog_nodes
    for a, b in zip(first.costs.fan_out.values(), second.costs.fan_out.values(), strict=True):
        assert torch.equal(a, b)
    costs = ("stem_macs", "step_macs", "ann_macs")
    assert [getattr(first.costs, c) for c in costs] == [getattr(second.costs, c) for c in costs]


def test_moving_and_scaling_values_keeps_spikes() -> None:
    found = profile(padded_and_permuted().eval(), torch.randn(4, 3, 8, 8))
    assert not found.network.analog_nodes
    assert found.costs.step_macs == 0
    fan_out = found.costs.fan_out["relu"]
    assert fan_out[:, 0].unique().tolist() == [0], "the first row is cut off"
    assert fan_out[:, 1:].unique().tolist() == [3]


def test_products_of_activations_cost_their_macs() -> None:
    """kᵀv and q(kᵀv): 17 tokens, 8 features; the linear layer behind works on a current."""
    found = profile(token_transformer().eval(), torch.randn(4, 3, 8, 8))
    products = 2 * 17 * 8 * 8
    linear = 17 * (4 * 8 * 8 + 2 * 8 * 16) + 8 * 3
    assert found.costs.ann_macs == 16 * 8 * 12 + linear + products
    assert found.costs.stem_macs == 16 * 8 * 12 + 3 * 17 * 8 * 8
    # every step: both products, the mixing and the widening layer and the last one, on currents,
    # and one operation per value of the norm and of the division
    macs = products + 17 * 8 * 8 + 17 * 8 * 16 + 8 * 3
    assert found.costs.step_macs == macs + 17 * 8


def test_attention_costs_its_macs() -> None:
    found = profile(softmax_attention().eval(), torch.randn(4, 3, 8, 8))
    attention = 16 * 8 * 24 + 2 * 16 * 16 * 8 + 16 * 8 * 8
    assert found.costs.ann_macs == 16 * 8 * 12 + attention + 16 * 8 * 16 + 16 * 3


def test_leaving_the_batch_keeps_constants_whole() -> None:
    """A constant whose first dimension happens to be the size of the batch is no sample."""

    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out(F.relu(net.a(x)) * net.scale.exp())

    net = Form(forward, a=nn.Linear(6, 4), out=nn.Linear(4, 3))
    net.scale = nn.Parameter(torch.randn(4))
    x = torch.randn(4, 6)
    found = profile(net.eval(), x)
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=8, phi=2))
    steps = model.simulate(x).logits
    scores = confidence(steps, "top1")[0].sort().values
    places = [i for i in range(3) if scores[i] < scores[i + 1]]
    limit = float(scores[places[0]])  # some leave at the first step, some stay
    model.exit = ExitRule(score="top1", thresholds=(limit, *[1.0] * 7))
    answer = model.infer(x)
    assert sorted(answer.timesteps.tolist()) == [1] * (3 - places[0]) + [8] * (places[0] + 1)
    expected = steps[answer.timesteps - 1, torch.arange(4)]
    torch.testing.assert_close(answer.logits, expected)


def test_half_precision_counts_do_not_overflow() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 99, 3)).half()
    x = torch.randn(2, 3, 32, 32).half()
    found = profile(net.eval(), x)
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=1, phi=8))
    assert 1e6 < float(model.simulate(x).counts.synops.sum()) < 1e9


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "convnext_tiny"])
def test_networks_without_a_spike_convert_and_say_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"image_size": 32} if name == "vit_b_16" else {}
    net = torchvision.models.get_model(name, num_classes=4, **options).eval()
    x = torch.randn(2, 3, 32, 32)
    found = profile(net, x)
    assert "nothing in it will spike" in caplog.text
    assert found.network.analog_nodes
    model = convert(found, ConversionConfig(timesteps=2, layers={}))
    with torch.no_grad():
        torch.testing.assert_close(model.simulate(x).logits[-1], net(x), rtol=1e-4, atol=1e-5)
    assert found.costs.stem_macs == found.costs.ann_macs > 1e6
    assert model.simulate(x).counts.synops.shape == (0, 2, 2)
    convert(found, ConversionConfig(timesteps=2, layers={}, calibration="learned"))
    with pytest.raises(ConversionError, match="the network has no spiking layer"):
        diagnose(model, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(64, 3),
    ).eval().to(dtype)  # fmt: skip
    x = torch.randn(8, 3, 8, 8, dtype=dtype)
    found = profile(net, x)
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=128, phi=4))
    with torch.no_grad():
        expected = net(x).double()
    for logits in (model.simulate(x).logits[-1], model.infer(x).logits):
        assert float((logits.double() - expected).norm() / expected.norm()) < 0.02
    save(model, tmp_path / "a.json")
    again = load(tmp_path / "a.json", net)
    assert torch.equal(again.simulate(x).logits, model.simulate(x).logits)
    learned = ConversionConfig.uniform(found.layers, timesteps=2, calibration=Tuned(iterations=2))
    convert(found, learned)


def test_networks_on_words(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Embedding(9, 6), nn.Linear(6, 8), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)
    ).eval()
    x = torch.randint(0, 9, (16, 5))
    found = profile(net, x)
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=32, phi=4))
    with torch.no_grad():
        torch.testing.assert_close(model.simulate(x).logits[-1], net(x), rtol=0.05, atol=0.02)
    save(model, tmp_path / "a.json")
    assert torch.equal(load(tmp_path / "a.json", net)(x), model(x))
