from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conversion import ConfigError, Operations, energy_model
from conversion.energy import costs
from conversion.graph import build_network


class After(nn.Module):
    """A ReLU on the input, then what is to be counted."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(layers_in(layers), layers_in(layers), 1)
        self.relu = nn.ReLU()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.relu(self.stem(x)))


def layers_in(layers: tuple[nn.Module, ...]) -> int:
    return next((m.in_channels for m in layers if hasattr(m, "in_channels")), 2)


def fan_out(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    found = costs(build_network(model, torch.randn(2, *shape)))
    (result,) = found.fan_out.values()
    return result


def jacobian_count(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Brute force: how many outputs each input touches, by non-zero derivatives."""
    jacobian = torch.autograd.functional.jacobian(
        lambda x: layer(x[None])[0], torch.rand(shape, dtype=torch.float64)
    )
    return (jacobian.reshape(-1, *shape) != 0).sum(0).double()


def test_convolution_with_borders_by_hand() -> None:
    """3×3, padding 1, on 3×3 cells: a corner reaches 4 positions, an edge 6, the centre 9."""
    found = fan_out(After(nn.Conv2d(2, 5, 3, padding=1)), (2, 3, 3))
    by_hand = 5.0 * torch.tensor([[4, 6, 4], [6, 9, 6], [4, 6, 4]], dtype=torch.float64)
    assert torch.equal(found, by_hand.expand(2, 3, 3))


def test_convolution_with_stride_by_hand() -> None:
    """1-d: kernel 3, stride 2, no padding, 6 cells: windows 0-2 and 2-4; cell 5 reaches none."""

    class OneD(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 4, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.relu(x))

    assert fan_out(OneD(), (1, 6)).flatten().tolist() == [4, 4, 8, 4, 4, 0]


def test_groups_by_hand() -> None:
    """Depthwise: a spike reaches only its own channel's filters, 6/2 of them at one position."""
    found = fan_out(After(nn.Conv2d(2, 6, 1, groups=2)), (2, 2, 2))
    assert found.unique().tolist() == [3]


def test_global_pool_and_linear_by_hand() -> None:
    """Every cell is part of its channel's mean, which feeds 7 outputs."""
    model = After(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 7))
    assert fan_out(model, (2, 4, 4)).unique().tolist() == [7]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 7, 8)),
        (nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2), (4, 6, 5)),
        (nn.Conv2d(2, 4, (1, 5), padding=(0, 2)), (2, 4, 6)),
        (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 4, 5)),
        (nn.AvgPool2d(3, stride=2, padding=1), (2, 7, 7)),
        (nn.AvgPool2d(2, ceil_mode=True), (2, 5, 5)),
        (nn.AdaptiveAvgPool2d((3, 2)), (2, 7, 5)),
        (nn.AvgPool2d(2, 2, 1, ceil_mode=True), (2, 3, 3)),
        (nn.Upsample(scale_factor=2), (2, 3, 3)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 4, 5)),
    ],
)
def test_fan_out_is_the_count_of_touched_outputs(layer: nn.Module, shape: tuple[int, ...]) -> None:
    expected = jacobian_count(layer.double(), shape)
    assert torch.equal(fan_out(After(layer.float()), shape), expected)


def test_residual_add_costs_one_accumulate_per_spike() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 2, 1)
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            return F.relu(self.conv(x) + x)

    found = costs(build_network(Residual(), torch.randn(2, 1, 3, 3)))
    first, second = found.fan_out.values()
    assert first.unique().tolist() == [2 + 1]  # two synapses of the convolution, one identity
    assert second.unique().tolist() == [1]  # to the output


def test_macs_by_hand(small_net: nn.Module, small_inputs: Tensor) -> None:
    found = costs(build_network(small_net, small_inputs))
    # A kernel of 3 with padding 1 meets 3 cells at every position of an axis, 2 at its two ends.
    conv1 = 4 * 2 * (3 * 10 - 2) ** 2
    conv2 = 4 * 2 * (3 * 5 - 2) ** 2
    conv3 = 6 * 2 * 2 * 4 * 9
    assert found.stem_macs == conv1
    assert found.step_macs == 0
    assert found.ann_macs == conv1 + conv2 + conv3 + 6 * 3
    usual = 4 * 10 * 10 * 2 * 9 + 4 * 5 * 5 * 2 * 9 + conv3 + 6 * 3
    assert found.ann_macs + found.padding_macs == usual


def test_a_max_pool_between_spikes_is_a_source(small_net: nn.Module, small_inputs: Tensor) -> None:
    found = costs(build_network(small_net, small_inputs))
    assert list(found.fan_out) == ["relu", "pool", "relu_1", "relu_2"]
    assert found.fan_out["relu"].unique().tolist() == [1]  # each spike enters one window
    centre = found.fan_out["pool"][0, 2, 2]
    assert centre == 2 * 9 + 1  # its group's two filters at nine positions, and the identity


def test_a_node_that_stays_analog_pays_every_step() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 5)
            self.second = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.sigmoid(F.relu(self.first(x))))

    network = build_network(Gated(), torch.randn(2, 4))
    found = costs(network)
    assert network.analog_nodes == ["sigmoid"]
    assert found.step_macs == 5 + 5 * 3
    assert list(found.analog_macs.values()) == [5, 5 * 3]


def test_energy_models_are_checked() -> None:
    with pytest.raises(ConfigError, match="energy model 'watt' is unknown; known: horowitz45"):
        energy_model("watt")
    with pytest.raises(ConfigError, match="prices must be finite and > 0, got ac_pj=0"):
        Operations(name="x", mac_pj=1, ac_pj=0, ann_mac_pj=1)
    with pytest.raises(ConfigError, match="burst must be"):
        Operations(name="x", mac_pj=1, ac_pj=1, ann_mac_pj=1, burst="half")  # type: ignore[arg-type]
