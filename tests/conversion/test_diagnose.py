from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conversion import ConversionConfig, LayerDiagnosis, Profile, convert, diagnose, profile


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn((48, 2, 6, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found(images: Tensor) -> Profile:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 3),
    )  # fmt: skip
    return profile(net, images)


def layers(found: Profile, images: Tensor, **options: object) -> list[LayerDiagnosis]:
    config = ConversionConfig.uniform(found.layers, **{"calibration": "none", **options})
    return diagnose(convert(found, config), images)


def test_an_even_input_is_fired_as_clipfloor_says(found: Profile, images: Tensor) -> None:
    """The first layer sees the image itself: nothing inherited, nothing uneven."""
    first, second = layers(found, images, timesteps=5, phi=2)
    assert first.layer == "1"
    assert first.inherited == 0
    assert first.unevenness < 1e-3
    assert second.unevenness > 1e-3
    assert second.inherited > 1e-3


@pytest.mark.parametrize(("phi", "rho"), [(2, 1.0), (4, 1.7)])
def test_a_ceiling_is_rounded_and_not_uneven(images: Tensor, phi: int, rho: float) -> None:
    """At 6 a neuron fires whole spikes too: for an even input that is quantisation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(images.shape[1], 3, 3), nn.ReLU6()).eval()
    bright = 8 * images
    found = profile(net, bright)
    options = {"timesteps": 4, "phi": phi, "rho": rho, "calibration": "none"}
    model = convert(found, ConversionConfig.uniform(found.layers, **options))
    (layer,) = diagnose(model, bright)
    assert layer.unevenness < 1e-3
    assert layer.quantisation > 1e-2


def test_each_error_has_its_cause(found: Profile, images: Tensor) -> None:
    few, many = (layers(found, images, timesteps=t, phi=8, thresholds="max")[0] for t in (2, 32))
    assert many.quantisation < few.quantisation / 8
    assert few.clipping == many.clipping == 0
    narrow = layers(found, images, timesteps=32, phi=1, calibration_timesteps=1)[0]
    assert narrow.clipping > 0.02


def test_the_parts_against_the_definition(found: Profile, images: Tensor) -> None:
    """Literal: one layer, one neuron at a time, from the raw currents."""
    steps, phi = 3, 1
    weights = found.network.constants
    net_first, net_second = (
        lambda x, name=name: F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        for name in ("0", "2")
    )
    config = ConversionConfig.uniform(found.layers, timesteps=steps, phi=phi, calibration="none")
    model = convert(found, config)
    x = net_first(images)
    V1, V2 = (model.thetas[name].view(1, -1, 1, 1) for name in ("1", "3"))

    def fire(currents: list[Tensor], V: Tensor) -> list[Tensor]:
        v, out = V / 2, []
        for current in currents:
            v = v + current
            n = (v / V).floor().clamp(0, phi)
            v = v - n * V
            out.append(n * V)
        return out

    currents = [net_second(spikes) for spikes in fire([x] * steps, V1)]
    s = torch.stack(fire(currents, V2)).mean(0)
    mean = torch.stack(currents).mean(0)
    a, r = net_second(x.relu()).relu(), mean.relu()
    c = torch.minimum(r, phi * V2)
    q = (mean * steps / V2 + 0.5).floor().clamp(0, steps * phi) * V2 / steps
    rms = lambda e: float((e**2).mean().sqrt() / (a**2).mean().sqrt())  # noqa: E731
    second = diagnose(model, images)[1]
    assert second.unevenness == pytest.approx(rms(s - q), rel=1e-2)
    assert second.quantisation == pytest.approx(rms(q - c), rel=1e-2)
    assert second.clipping == pytest.approx(rms(c - r), rel=1e-2)
    assert second.inherited == pytest.approx(rms(r - a), rel=1e-2)
    assert second.total == pytest.approx(rms(s - a), rel=1e-2)
