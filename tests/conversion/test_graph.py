from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conversion import ConversionError
from conversion.graph import Role, Timing, trace
from tests.conftest import Form, settle


def test_names_and_shapes_of_spiking_layers(small_net: nn.Module, small_inputs: Tensor) -> None:
    network = trace(small_net, small_inputs)
    assert list(network.sites) == ["relu", "relu_1", "relu_2"]
    assert [site.shape for site in network.sites.values()] == [(4, 10, 10), (4, 5, 5), (6, 2, 2)]
    assert network.analog_nodes == []


def test_the_caller_s_model_is_untouched(small_net: nn.Module, small_inputs: Tensor) -> None:
    small_net.train()
    before = copy.deepcopy(small_net.state_dict())
    trace(small_net, small_inputs)
    assert small_net.training
    assert small_net.relu.inplace
    assert all(torch.equal(value, before[key]) for key, value in small_net.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (5, 3, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), (5, 4, 9, 9)),
        (nn.Conv3d(2, 4, 2, bias=False), nn.BatchNorm3d(4), (5, 2, 4, 4, 4)),
        (nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), (5, 3, 5, 5)),
        (nn.Linear(7, 4), nn.BatchNorm1d(4), (5, 7)),
    ],
)
def test_batch_norm_is_folded(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    model = settle(nn.Sequential(layer, norm, nn.ReLU()), x)
    network = trace(model, x)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.module.modules())
    with torch.no_grad():
        torch.testing.assert_close(network.module(x), model(x), rtol=1e-4, atol=1e-5)


def test_batch_norm_before_relu_stays() -> None:
    x = torch.randn(8, 3, 6, 6)
    model = settle(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3)), x)
    network = trace(model, x)
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.module.modules())


def test_a_convolution_with_two_users_keeps_its_norm() -> None:
    x = torch.randn(8, 3, 6, 6)
    model = Form(
        lambda m, v: F.relu(m.norm(m.conv(v))) + m.conv(v),
        conv=nn.Conv2d(3, 3, 1),
        norm=nn.BatchNorm2d(3),
    )
    settle(model, x)
    network = trace(model, x)
    with torch.no_grad():
        torch.testing.assert_close(network.module(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "ceiling"),
    [
        (lambda m, v: F.relu6(v), 6.0),
        (lambda m, v: F.hardtanh(v, 0.0, 2.5), 2.5),
        (lambda m, v: v.relu_(), None),
        (lambda m, v: F.relu(v, inplace=True), None),
    ],
)
def test_functional_activations_spike(function, ceiling: float | None) -> None:
    network = trace(
        Form(lambda m, v: function(m, m.conv(v)), conv=nn.Conv2d(1, 2, 3)),
        torch.randn(2, 1, 5, 5),
    )
    (site,) = network.sites.values()
    assert site.ceiling == ceiling


def test_a_static_stem_is_told_from_what_changes(
    small_net: nn.Module, small_inputs: Tensor
) -> None:
    network = trace(small_net, small_inputs)
    assert network.timing["conv1"] is Timing.STATIC
    assert network.timing["conv2"] is Timing.TEMPORAL
    assert network.roles["pool"] is Role.GATE


def test_the_fingerprint_is_of_weights_and_operations(
    small_net: nn.Module, small_inputs: Tensor
) -> None:
    before = trace(small_net, small_inputs).fingerprint
    assert trace(copy.deepcopy(small_net), small_inputs).fingerprint == before
    with torch.no_grad():
        small_net.fc.bias[0] += 1e-6
    assert trace(small_net, small_inputs).fingerprint != before
    relu, relu6 = (nn.Sequential(nn.Flatten(), act) for act in (nn.ReLU(), nn.ReLU6()))
    x = torch.rand(2, 3)
    assert trace(relu, x).fingerprint != trace(relu6, x).fingerprint
    two, three = (Form(lambda _, v, k=k: F.relu(v * k)) for k in (2, 3))
    assert trace(two, x).fingerprint != trace(three, x).fingerprint


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, v: m.conv(v) if v.sum() > 0 else v, "torch.fx cannot trace"),
        (lambda m, v: torch.roll(F.relu(m.conv(v)), 1, 0), "moves values from sample to sample"),
        (lambda m, v: {"a": F.relu(m.conv(v))}, "must return one tensor"),
        (lambda m, v: F.relu(m.conv(v)).reshape(-1), "reshapes across the batch"),
        (lambda m, v: F.relu(m.conv(v[:, :1])), "does not run on a sample"),
        (lambda m, v: F.relu(m.conv(v)).chunk(2)[0] + 1, "splits the batch"),
        (lambda m, v: m.norm(F.relu(m.conv(v))), "by the statistics of each batch"),
        (lambda m, v: F.relu(m.conv(v)) + torch.rand(1).item(), "differs from the model"),
    ],
)
def test_errors_name_what_is_wrong(function, message: str) -> None:
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    model = Form(function, conv=nn.Conv2d(2, 2, 3), norm=norm)
    with pytest.raises(ConversionError, match=message):
        trace(model, torch.randn(2, 2, 5, 5))


def test_a_module_that_cannot_be_traced_is_named() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(Branching()))
    with pytest.raises(ConversionError, match=r"module '1\.0'"):
        trace(model, torch.randn(2, 1, 3, 3))


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return F.relu(x)

    with pytest.raises(ConversionError, match="must take one tensor; its forward takes: x, y"):
        trace(Two(), torch.randn(2, 3))


def test_old_weight_norm_that_cannot_be_copied_is_said() -> None:
    net = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 3)), nn.ReLU())
    net(torch.ones(1, 3)).sum().backward()
    with pytest.raises(ConversionError, match="the model cannot be copied"):
        trace(net, torch.ones(2, 3))
