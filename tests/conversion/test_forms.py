"""Networks of many forms: each converges to its ANN, and runs the same steps either way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conversion import ConversionConfig, convert, profile
from tests.conftest import settle


class Form(nn.Module):
    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 16, 3),
    )  # fmt: skip


def norm_before_relu_and_concat() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        a = F.relu(net.a(x))
        b = net.b(F.relu(net.norm(a)))
        return net.out(torch.cat([a, b], 1).mean([2, 3]))

    return Form(
        forward, a=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), b=nn.Conv2d(4, 4, 3, padding=1),
        out=nn.Linear(8, 3),
    )  # fmt: skip


def max_pool_of_a_concat() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        a = F.relu(net.a(x))
        both = torch.cat([F.relu(net.b(a)), F.relu(net.c(a))], 1)
        return net.out(F.max_pool2d(both, kernel_size=2, stride=2).flatten(1))

    return Form(
        forward, a=nn.Conv2d(3, 3, 3), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(3, 4, 1),
        out=nn.Linear(8 * 9, 3),
    )  # fmt: skip


def max_pool_before_relu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


def reused_module() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(3, 3, 3), relu, nn.Conv2d(3, 3, 1), relu, nn.MaxPool2d(3, 1, 1),
        nn.Conv2d(3, 2, 1), relu, nn.Flatten(), nn.Linear(72, 3),
    )  # fmt: skip


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3, 2), nn.BatchNorm2d(3),
        nn.ReLU(), nn.AvgPool2d(3, 2, 1), nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(4, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(56, 3),
    )  # fmt: skip


def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(2),
        nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def attention_like() -> nn.Module:
    """A product of two activations and a sigmoid: both stay analog."""

    def forward(net: Form, x: Tensor) -> Tensor:
        a = F.relu(net.a(x))
        gate = torch.sigmoid(net.b(a.mean([2, 3], keepdim=True)))
        return net.out((a * gate).flatten(1))

    return Form(forward, a=nn.Conv2d(3, 2, 3), b=nn.Conv2d(2, 2, 1), out=nn.Linear(72, 3))


def static_and_temporal() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out((F.relu(net.a(x)) + net.b(x)).flatten(1))

    return Form(forward, a=nn.Conv2d(3, 2, 3), b=nn.Conv2d(3, 2, 3), out=nn.Linear(72, 3))


def constants() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out((2 * F.relu(net.a(x)) - 0.5).flatten(1) / 3)

    return Form(forward, a=nn.Conv2d(3, 2, 3), out=nn.Linear(72, 3))


FORMS = (
    depthwise, norm_before_relu_and_concat, max_pool_of_a_concat, max_pool_before_relu,
    reused_module, transposed, one_dimensional, three_dimensional, attention_like,
    static_and_temporal, constants,
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_converges_and_runs_alike_step_by_step(form: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(24, 3, 8, 8)
    net = settle(form(), x)
    found = profile(net, x)
    with torch.no_grad():
        expected = net(x)
    errors = []
    for steps in (2, 64):
        config = ConversionConfig.uniform(found.layers, timesteps=steps, phi=8)
        model = convert(found, config)
        logits = model.simulate(x).logits
        errors.append(float((logits[-1] - expected).norm() / expected.norm()))
        torch.testing.assert_close(model.infer(x).logits, logits[-1], rtol=1e-3, atol=1e-4)
    assert errors[1] < 0.01
    assert errors[1] < errors[0]
