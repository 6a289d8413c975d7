from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conversion import ConversionConfig, convert, profile
from conversion._thresholds import GRID, Histogram, clip_floor, mmse_fractions


def literal_errors(a: np.ndarray, phi: int, timesteps: int, shift: float) -> list[float]:
    """Σ(a − q(a))² over the raw activations of one channel, for each candidate threshold."""
    errors = []
    for fraction in GRID:
        theta = fraction * a.max()
        steps = np.clip(np.floor(timesteps * a / theta + shift), 0, timesteps * phi)
        errors.append(float(((a - theta / timesteps * steps) ** 2).sum()))
    return errors


def gather(activations: Tensor, batch: int) -> Histogram:
    histogram = Histogram(activations.shape[1])
    for part in activations.split(batch):
        histogram.add(part)
    return histogram


@pytest.fixture
def activations() -> Tensor:
    random = torch.Generator().manual_seed(4)
    scale = torch.tensor([0.01, 1.0, 30.0]).view(1, 3, 1, 1)
    return (torch.randn((40, 3, 12, 12), generator=random) * scale).relu()


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize(("phi", "timesteps"), [(1, 1), (1, 8), (2, 4), (4, 1), (8, 8)])
def test_thresholds_are_as_good_as_the_literal_grid(
    activations: Tensor, phi: int, timesteps: int, shift: float
) -> None:
    histogram = gather(activations, 7)
    counts, sums = histogram.relative_to_largest()
    found = mmse_fractions(counts, sums, phi=phi, timesteps=timesteps, shift=shift)
    for channel in range(3):
        errors = literal_errors(
            activations[:, channel].numpy().astype(np.float64).ravel(), phi, timesteps, shift
        )
        chosen = errors[GRID.index(float(found[channel]))]
        assert chosen <= min(errors) * 1.01, "worse than 1 % over the grid's optimum"


def test_the_grid_is_the_source_s() -> None:
    assert GRID[0] == 1.0
    assert GRID[-1] == 0.06
    assert len(GRID) == 95


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_one_pass_gives_exact_counts_sums_and_maxima(activations: Tensor, batch: int) -> None:
    histogram = gather(activations, batch)
    counts, sums = histogram.relative_to_largest()
    flat = activations.double().movedim(1, 0).flatten(1)
    assert torch.equal(histogram.largest, flat.amax(1))
    torch.testing.assert_close(histogram.mean(), flat.mean(1))
    assert counts.sum(1).tolist() == (flat > 0).sum(1).tolist()
    torch.testing.assert_close((sums.sum(1) * histogram.largest), flat.sum(1))


def test_a_late_large_activation_widens_the_range() -> None:
    histogram = Histogram(1)
    histogram.add(torch.tensor([[0.5], [1.0]]))
    histogram.add(torch.tensor([[100.0]]))
    counts, sums = histogram.relative_to_largest()
    assert counts.sum() == 3
    assert counts[0, -1] == 1
    assert float(sums.sum()) == pytest.approx(1.015)


def test_a_silent_channel_has_no_threshold_of_its_own() -> None:
    counts, sums = gather(torch.zeros(4, 2), 4).relative_to_largest()
    assert counts.sum() == 0
    assert sums.sum() == 0


def test_clip_floor_by_hand() -> None:
    a = torch.tensor([0.0, 0.24, 0.25, 0.9, 5.0])
    theta = torch.tensor(1.0)
    assert clip_floor(a, theta, phi=1, timesteps=4).tolist() == [0, 0, 0.25, 0.75, 1.0]
    assert clip_floor(a, theta, phi=2, timesteps=4).tolist() == [0, 0, 0.25, 0.75, 2.0]
    assert clip_floor(a, theta, phi=1, timesteps=4, shift=0.5).tolist() == [0, 0.25, 0.25, 1, 1]


@pytest.mark.parametrize("rule", ["max", "percentile"])
@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_the_largest_and_the_percentile_against_sorting(rule: str, granularity: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU())
    x = torch.randn(64, 2, 16, 16)
    found = profile(net, x)
    rows = net(x).detach().movedim(1, 0).reshape(3, -1)
    rows = rows.reshape(1, -1) if granularity == "layer" else rows
    expected = torch.quantile(rows, 1.0 if rule == "max" else 0.999, dim=1).expand(3)
    theta = found.threshold(
        "1",
        phi=3,
        timesteps=4,
        shift=0.5,
        rule=rule,
        granularity=granularity,  # type: ignore[arg-type]
    )
    bin_width = rows.amax(1) / 512
    assert bool(((3 * theta - expected).abs() <= 2 * bin_width).all())


def test_one_threshold_per_layer_minimises_the_layer_s_error() -> None:
    """Literal: every candidate of the grid on every activation of all channels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU())
    x = torch.randn(32, 2, 8, 8)
    theta = profile(net, x).threshold("1", phi=2, timesteps=2, shift=0.5, granularity="layer")
    a = net(x).detach()
    candidates = [a.max() * fraction for fraction in GRID]
    errors = [
        float(((a - clip_floor(a, t, phi=2, timesteps=2, shift=0.5)) ** 2).sum())
        for t in candidates
    ]
    found = float(((a - clip_floor(a, theta[0], phi=2, timesteps=2, shift=0.5)) ** 2).sum())
    assert len(set(theta.tolist())) == 1
    assert found <= min(errors) * 1.01


def test_headroom_against_the_definition() -> None:
    """Literal, over batches; and the closed form for an exponential tail of n samples."""
    torch.manual_seed(0)
    a = -torch.rand(60, 500, 4, 3).log()
    histogram = Histogram(500)
    for batch in a.split(7):
        histogram.add(batch)
    first, second = a.amax((2, 3)).sort(0, descending=True).values[:2].double()
    assert histogram.headroom() == pytest.approx(float((1 - second / first).mean()), rel=1e-9)
    # Of n exponential values the largest lies above the second by their mean, 1 (Rényi 1953).
    values = -torch.rand(60, 20000).double().log()
    top = values.topk(2, dim=0).values
    assert float((top[0] - top[1]).mean()) == pytest.approx(1, rel=0.03)
    histogram = Histogram(20000)
    histogram.add(values)
    assert histogram.headroom() == pytest.approx(float((1 - top[1] / top[0]).mean()), rel=1e-6)
    assert Histogram(3).headroom() == 0


def error(values: tuple[Tensor, Tensor], theta: float, options: dict) -> float:
    """Σ over what was seen, and the mean over what may come."""
    size = torch.tensor(theta, dtype=torch.float64)
    seen, other = (x - clip_floor(x, size, **options) for x in values)
    return float(seen.square().sum() + other.square().mean())


def test_one_more_activation_counts_along() -> None:
    """Brute force over candidates: one activation in a finely divided exponential tail."""
    torch.manual_seed(0)
    a = torch.randn(90, 5).relu().double()
    histogram = Histogram(5)
    histogram.add(a)
    counts, sums = histogram.relative_to_largest()
    for phi, timesteps in ((1, 16), (2, 8), (1, 2)):
        options = {"phi": phi, "timesteps": timesteps, "shift": 0.5}
        found = mmse_fractions(counts, sums, headroom=0.2, **options)
        quantiles = (torch.arange(20000).double() + 0.5) / 20000
        for channel, largest in enumerate(histogram.largest.tolist()):
            tail = largest * (1 - 0.2 * (1 - quantiles).log())

            values = (a[:, channel], tail)
            best = min(error(values, i / 100 * largest, options) for i in range(6, 400))
            assert error(values, float(found[channel]) * largest, options) <= best * 1.08


def test_headroom_lets_the_error_of_other_inputs_fall(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    seen, unseen = torch.randn(64, 10), torch.randn(500, 10)
    found = profile(net, seen)
    layers = {name: replace(layer, headroom=0.0) for name, layer in found.layers.items()}
    with torch.no_grad():
        expected = net(unseen)
    errors = []
    for each in (found, replace(found, layers=layers, _thresholds={})):
        model = convert(each, ConversionConfig.uniform(each.layers, timesteps=64, phi=4))
        errors.append(
            float((model.simulate(unseen).logits[-1] - expected).norm() / expected.norm())
        )
    assert errors[0] < 0.3 * errors[1]
    assert "calibration values per channel" not in caplog.text
    profile(net, seen[:16])
    assert (
        "the layer 1 has only 16 calibration values per channel (and 1 more layers" in caplog.text
    )
