from __future__ import annotations

import math

import pytest
import torch

from conversion import symmetric_kl
from evaluators import TopK, estimate_mean, estimate_score


def test_wilson_interval_of_the_literature() -> None:
    """Brown, Cai & DasGupta 2001 and Newcombe 1998: 81 of 263, 95 %: 0.2553 to 0.3662."""
    found = estimate_score(torch.tensor([1.0] * 81 + [0.0] * 182))
    assert found.value == pytest.approx(81 / 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_stays_within_0_and_1() -> None:
    """Newcombe 1998: 0 of 20 gives 0 to 0.1611."""
    none = estimate_score(torch.zeros(20))
    assert (none.low, none.high) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert estimate_score(torch.ones(20)).high == 1.0


def test_mean_interval_covers_as_often_as_it_says() -> None:
    random = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(1000):
        found = estimate_mean(torch.randn(200, generator=random) + 3)
        hits += found.low <= 3 <= found.high
    assert 0.93 < hits / 1000 < 0.97


def test_scores_between_0_and_1_get_the_normal_interval() -> None:
    scores = torch.tensor([0.2, 0.4, 0.9])
    assert estimate_score(scores) == estimate_mean(scores)
    assert math.isinf(estimate_mean(torch.tensor([1.0])).high)


def test_symmetric_kl_against_the_definition() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.25, 0.25])
    forward = sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True))
    backward = sum(float(b * (b / a).log()) for a, b in zip(p, q, strict=True))
    found = symmetric_kl(p.log()[None], q.log()[None])
    assert found.tolist() == pytest.approx([(forward + backward) / 2], rel=1e-5)
    assert symmetric_kl(q.log()[None], p.log()[None]).tolist() == pytest.approx(found.tolist())
    assert symmetric_kl(p.log()[None], p.log()[None] + 5).tolist() == pytest.approx([0], abs=1e-9)


def test_divergence_of_a_single_logit_is_that_of_two_probabilities() -> None:
    """Closed form: (p − q)(ln p/q − ln (1−p)/(1−q)) / 2, with p and q of the sigmoid."""
    z, w = torch.tensor([[0.5], [-2.0], [3.0]]), torch.tensor([[0.8], [-1.0], [3.0]])
    p, q = z.double().sigmoid(), w.double().sigmoid()
    expected = ((p - q) * ((p / q).log() - ((1 - p) / (1 - q)).log()) / 2).squeeze(1)
    torch.testing.assert_close(symmetric_kl(z, w), expected)
    torch.testing.assert_close(symmetric_kl(z.squeeze(1), w.squeeze(1)), expected)
    assert TopK().statistics(z, torch.tensor([1, 0, 0])).tolist() == [1, 1, 0]


def test_positions_are_averaged() -> None:
    """``(N, classes, H, W)``, as in segmentation."""
    z, w = torch.randn(2, 3, 4, 5, 6).unbind(0)
    pixels = [symmetric_kl(z[..., y, x], w[..., y, x]) for y in range(5) for x in range(6)]
    torch.testing.assert_close(symmetric_kl(z, w), torch.stack(pixels).mean(0))
    targets = z.argmax(1)
    targets[0, :2] = -1
    assert TopK().statistics(z, targets).tolist() == pytest.approx([0.6, 1, 1])
