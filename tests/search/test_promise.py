from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from conversion import ConfigError
from evaluators import PairedDrop, normal_quantile
from evaluators._estimate import estimate_mean
from search import DropModel, Promise, samples_for


def test_paired_drop_by_hand() -> None:
    """Ten samples: the ANN alone is right on two, the spiking network alone on one."""
    ann = torch.tensor([1, 1, 1, 1, 1, 1, 1, 0, 0, 0])
    spiking = torch.tensor([1, 1, 1, 1, 1, 0, 0, 1, 0, 0])
    drop = PairedDrop.of(ann, spiking)
    assert (drop.n, drop.mean, drop.square) == (10, pytest.approx(0.1), pytest.approx(0.3))
    # Agresti & Min: 2.5 and 1.5 of 12.
    mean, variance = (2.5 - 1.5) / 12, (2.5 + 1.5) / 12 - (1 / 12) ** 2
    half = 1.959964 * math.sqrt(variance / 12)
    assert drop.interval() == (pytest.approx(mean - half), pytest.approx(mean + half))
    upper = mean + norm.ppf(0.9) * math.sqrt(variance / 12)
    assert drop.bound(0.9) == pytest.approx(upper)
    assert PairedDrop.from_dict(drop.to_dict()) == drop
    with pytest.raises(ConfigError, match="a confidence must be between 0 and 1, got 1"):
        normal_quantile(1)


@pytest.mark.parametrize(("lost", "won", "n"), [(0.02, 0.01, 450), (0.05, 0.03, 1000)])
def test_paired_bounds_hold_as_often_as_they_say(lost: float, won: float, n: int) -> None:
    random = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        b, c, _ = random.multinomial(n, [lost, won, 1 - lost - won])
        drop = PairedDrop(n=n, mean=(b - c) / n, square=(b + c) / n)
        held.append(lost - won <= drop.bound(0.9))
    assert 0.86 < np.mean(held) < 0.95


def study_of(random: np.random.Generator, n: int) -> tuple[list[SimpleNamespace], np.ndarray]:
    """Measurements of 60 networks on the same n samples, and what they truly lose.

    Each sample has a difficulty; a network errs on those above what it can, and diverges the more
    the more it errs.
    """
    ability = random.uniform(0.5, 4.0, 60)
    difficulty = random.standard_normal(n)
    noise = random.standard_normal((60, n)) * 0.7
    wrong = difficulty + noise > ability[:, None]
    truth = norm.sf(ability / math.sqrt(1 + 0.49))
    kl = 2.0 * norm.sf((ability[:, None] - difficulty) / 0.7) + 1e-3
    ones = torch.ones(n)
    found = [
        SimpleNamespace(
            drop=PairedDrop.of(ones, torch.tensor(1.0 - w)), kl=estimate_mean(torch.tensor(k))
        )
        for w, k in zip(wrong.astype(float), kl, strict=True)
    ]
    return found, truth


def test_promises_are_kept_by_what_is_chosen_for_them() -> None:
    """On as many other samples: by their mean the worst breaks it; by their bound, rarely."""
    random = np.random.default_rng(1)
    by_mean, by_bound, every = [], [], []
    limit = 0.03
    for _ in range(150):
        found, truth = study_of(random, 450)
        model = DropModel(found)
        bounds = np.array([model.promise(m).bound(0.9) for m in found])
        means = np.array([m.drop.mean for m in found])
        others = random.binomial(450, truth) / 450
        for values, kept in ((means, by_mean), (bounds, by_bound)):
            promised = np.flatnonzero(values <= limit)
            chosen = promised[truth[promised].argmax()]  # the cheapest is the worst
            kept.append(others[chosen] <= limit)
        every.append(np.mean(others[bounds <= limit] <= limit))
    assert np.mean(by_mean) < 0.7
    assert 0.85 < np.mean(by_bound) < 0.97
    assert np.mean(every) > 0.95


def test_samples_for_a_promise() -> None:
    promise = Promise(mean=0.004, spread=0.005)
    needed = samples_for(promise, 450, 0.005, 0.9)
    assert needed is not None
    larger = Promise(mean=0.004, spread=0.005 * math.sqrt(450 / needed))
    assert larger.bound(0.9) == pytest.approx(0.005, rel=1e-3)
    assert samples_for(promise, 450, 0.004, 0.9) is None


def test_a_measurement_without_a_drop_is_promised_nothing() -> None:
    known, _ = study_of(np.random.default_rng(0), 100)
    old = SimpleNamespace(drop=None, kl=known[0].kl)
    model = DropModel([*known, old])
    assert model.promise(old) is None
