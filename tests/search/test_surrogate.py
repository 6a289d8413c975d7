from __future__ import annotations

import itertools

import numpy as np
import pytest

from search._front import expected_gain
from search.sampler._surrogate import _NOISE, Residual, Surrogate, sweep_prices


def landscape(
    weights: np.ndarray, trials: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors of random choices, kinds, and the log divergence that the model's form gives."""
    errors = np.exp(random.uniform(-5, -1, (trials, len(weights))))
    kinds = np.eye(2)[random.integers(2, size=trials)]
    sums = 0.7 * np.log((errors**1.8 * weights).mean(1))
    return errors, kinds, 0.7 + sums + kinds @ [0.2, -0.2]


def test_it_learns_what_each_layer_weighs() -> None:
    random = np.random.default_rng(0)
    weights = np.exp(np.linspace(1.5, -1.5, 10))
    errors, kinds, losses = landscape(weights, 80, random)
    model = Surrogate(layers=10, kinds=2)
    losses = losses + random.normal(0, 0.1, 80)
    for _ in range(3):
        model.fit(kinds, errors, losses, np.zeros(80))
    errors, kinds, losses = landscape(weights, 200, random)
    mean, deviation = model.predict(kinds, errors)
    assert np.std(mean - losses) < 0.25
    assert np.std(mean - losses) < 1.2 * deviation.mean() + 0.1
    alike = np.full((10, 1), 0.1)
    drawn = np.mean([np.log(model.drawn_terms(alike, random)[:, 0]) for _ in range(200)], 0)
    assert np.corrcoef(drawn, np.log(weights))[0, 1] > 0.9


def test_before_anything_is_known_less_error_is_less_divergence() -> None:
    model = Surrogate(layers=3, kinds=0)
    none = np.zeros((2, 0))
    mean, deviation = model.predict(none, np.array([[0.1, 0.1, 0.1], [0.01, 0.01, 0.01]]))
    assert mean[1] < mean[0]
    assert (deviation > 1).all()


def test_the_residual_is_what_it_was_and_fades() -> None:
    places = np.array([[0.0, 0.0], [4.0, 4.0]])
    residual = Residual(places, np.array([0.5, -0.5]))
    mean, deviation = residual.predict(np.array([[0.0, 0.0], [0.0, 1.0], [30.0, 0.0]]))
    assert mean[0] == pytest.approx(0.5, rel=0.1)
    assert 0 < mean[1] < mean[0]
    assert abs(mean[2]) < 1e-3
    assert deviation[0] < deviation[1] < deviation[2]


def test_expected_gain_by_simulation() -> None:
    random = np.random.default_rng(1)
    front = np.array([[0.0, 2.0], [1.0, 1.2], [2.0, 0.4], [1.5, 3.0]])
    worst, floor = (3.0, 2.5), -0.5
    energy, mean = np.array([-0.5, 0.7, 1.4, 2.9, 3.5]), np.array([1.0, 1.5, 0.0, 0.3, -9.0])
    deviation = np.array([0.8, 0.3, 1.0, 0.5, 1.0])

    def area(points: np.ndarray) -> float:
        total, reached = 0.0, worst[1]
        for e, y in sorted(map(tuple, points)):
            if e < worst[0] and max(y, floor) < reached:
                total += (worst[0] - e) * (reached - max(y, floor))
                reached = max(y, floor)
        return total

    found = expected_gain(front, energy, mean, deviation, worst=worst, floor=floor)
    for i in range(len(energy)):
        draws = random.normal(mean[i], deviation[i], 4000)
        gains = [area(np.vstack([front, [energy[i], y]])) - area(front) for y in draws]
        assert found[i] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / 60 + 1e-9)


def test_a_front_without_points_gains_the_whole_box() -> None:
    empty = np.zeros((0, 2))
    found = expected_gain(
        empty, np.array([1.0]), np.array([0.5]), np.array([0.0]), worst=(3.0, 2.0), floor=-5
    )
    assert found[0] == pytest.approx(2.0 * 1.5)


def test_the_sweep_finds_the_optimum_at_its_price() -> None:
    random = np.random.default_rng(0)
    errors, energy = random.random((3, 6)), random.random((3, 6))
    prices = np.array([0.01, 0.3, 1.0, 10.0])
    for price, found in zip(prices, sweep_prices(errors, energy, prices), strict=True):
        loss = errors + price * energy
        best = min(
            sum(loss[i, cell] for i, cell in enumerate(choice))
            for choice in itertools.product(range(6), repeat=3)
        )
        assert sum(loss[i, cell] for i, cell in enumerate(found)) == pytest.approx(best)


def test_the_fit_is_where_the_posterior_is_largest() -> None:
    """By a literal log posterior, which weighs trials as the last step did, and its slope."""
    random = np.random.default_rng(2)
    errors, kinds, losses = landscape(np.exp(random.normal(0, 0.5, 4)), 12, random)
    model = Surrogate(layers=4, kinds=2)
    for _ in range(40):
        model.fit(kinds, errors, losses, np.zeros(12))
    best = model.mean.copy()
    missing = losses - model.predict(kinds, errors)[0]
    weight = 1 / (1 + missing**2) / _NOISE**2

    def log_posterior(parameters: np.ndarray) -> float:
        model.mean = parameters
        off = parameters - model._prior
        residual = losses - model.predict(kinds, errors)[0]
        return float(-(weight * residual**2).sum() / 2 - off @ model._precision @ off / 2)

    top = log_posterior(best)
    for i in range(len(best)):
        for step in (-0.02, 0.02):
            moved = best.copy()
            moved[i] += step
            assert log_posterior(moved) < top


def test_more_error_is_never_better() -> None:
    random = np.random.default_rng(3)
    errors = np.exp(random.uniform(-5, -1, (40, 3)))
    model = Surrogate(layers=3, kinds=0)
    for _ in range(5):
        model.fit(np.zeros((40, 0)), errors, -2 * np.log(errors.mean(1)), np.zeros(40))
    mean, _ = model.predict(np.zeros((2, 0)), np.array([[0.01] * 3, [0.2] * 3]))
    assert mean[0] < mean[1]
