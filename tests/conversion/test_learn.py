from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conversion import (
    ConfigError,
    ConversionConfig,
    Profile,
    clip_floor,
    convert,
    learn_thresholds,
    profile,
)


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


def config_of(found: Profile, **options: object) -> ConversionConfig:
    return ConversionConfig.uniform(
        found.layers, **{"timesteps": 2, "phi": 1, "calibration": "none", **options}
    )


def divergence(net: nn.Sequential, thetas: dict[str, Tensor], x: Tensor) -> float:
    """Literal: the quantised network written out, rounding as a neuron that starts at half."""
    with torch.no_grad():
        y = x
        for name, layer in net.named_children():
            y = layer(y)
            if name in thetas:
                y = clip_floor(y, thetas[name].view(1, -1, 1, 1), phi=1, timesteps=2, shift=0.5)
        p = net(x).softmax(-1)
        return float(F.kl_div(y.log_softmax(-1), p, reduction="batchmean"))


def test_learned_thresholds_diverge_less_on_other_data(
    net: nn.Sequential, found: Profile, images: Tensor
) -> None:
    config = config_of(found, thresholds="max")
    rule = {"phi": 1, "timesteps": 2, "shift": 0.5, "rule": "max"}
    start = {name: found.threshold(name, **rule) for name in found.layers}
    told: list[float] = []
    before = {name: value.clone() for name, value in net.state_dict().items()}
    learned = learn_thresholds(
        found, config, images[:48].split(16), epochs=10, on_batch=lambda _, loss: told.append(loss)
    )
    assert len(told) == 30
    first = divergence(net, start, images[:16])
    assert told[0] == pytest.approx(first, rel=1e-3), "it is told what the literal says"
    assert divergence(net, learned, images[48:]) < 0.8 * divergence(net, start, images[48:])
    for name, theta in learned.items():
        factors = theta / start[name]
        assert torch.allclose(factors, factors[:1].expand_as(factors)), "one factor per layer"
        assert not theta.requires_grad
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), "weights are not touched"


def test_a_model_fires_at_the_thresholds_it_is_given(found: Profile, images: Tensor) -> None:
    config = config_of(found, rho=1.5)
    batches = [(x, torch.zeros(len(x))) for x in images.split(48)]
    learned = learn_thresholds(found, config, batches, epochs=1)
    model = convert(found, config, thetas=learned)
    for name, theta in learned.items():
        assert torch.equal(model.thetas[name], theta)
        assert torch.equal(model.neurons[name].threshold, theta * 1.5)
    with pytest.raises(ConfigError, match="thetas must name the layers 1, 3"):
        convert(found, config, thetas={"1": learned["1"]})
