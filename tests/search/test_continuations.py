from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from search._exits import LOSSES
from search.sampler._acquisition import Limits
from search.sampler._continuations import _NOISE, _PRIOR, _SPREAD, Continuations, _effects
from spaces import names

LAW = np.array([[-0.1, -0.4, 0.05, -0.2, 0.1, -0.6, 0.1], [-0.8, 0.3, -0.2, -0.1, 0.2, 0.3, -0.5]])
"""Of log energy and log divergence, by effect; unlike the prior."""


def trial(number: int, parent: int | None, price: float, iterations: int, lineage=(), **place):
    params = {
        names.CALIBRATION: "learned-weights",
        names.ENERGY_WEIGHT: price,
        names.ITERATIONS: iterations,
        names.RATE: 1.0,
    }
    return SimpleNamespace(
        number=number, learned=parent is not None, params=params, goes_on_from=parent,
        lineage=lineage, **place,
    )  # fmt: skip


def family(random: np.random.Generator, children: int) -> dict[int, SimpleNamespace]:
    """A root and what was learned on from it, one after another, moved by the law and noise."""
    passes = {0: trial(0, None, 0.1, 100, log_energy=-2.0, log_divergence=-2.0)}
    for number in range(1, children + 1):
        parent = passes[int(random.integers(number))]
        price = float(np.exp(random.uniform(-2, 2)))
        segment = {"iterations": parent.params[names.ITERATIONS]}
        lineage = (*parent.lineage, segment) if parent.learned else ()
        child = trial(number, parent.number, price, int(random.choice([100, 200, 400])), lineage)
        move = LAW @ _effects(parent, child) + 0.02 * random.standard_normal(2)
        child.log_energy, child.log_divergence = (
            np.array([parent.log_energy, parent.log_divergence]) + move
        )
        passes[number] = child
    return passes


def moves(passes: dict[int, SimpleNamespace], sought: np.ndarray, draws: int) -> np.ndarray:
    """Of ``draws`` draws from the posterior, ``(draws, n, 2)``."""
    chooser = Continuations(None, None, None, np.random.default_rng(1))
    return np.array([chooser._moves(passes, sought) for _ in range(draws)])


def test_what_a_segment_changes_is_learned_from_the_segments_before() -> None:
    """Mean and spread of the draws are those of ridge regression about the prior."""
    passes = family(np.random.default_rng(0), 60)
    found = moves(passes, np.eye(7), 3000)
    rows = np.array([_effects(passes[c.goes_on_from], c) for c in list(passes.values())[1:]])
    seen = np.array(
        [
            (c.log_energy - p.log_energy, c.log_divergence - p.log_divergence)
            for c in list(passes.values())[1:]
            for p in [passes[c.goes_on_from]]
        ]
    )
    # As least squares: the prior is seven more observations of one effect each.
    weighted = np.vstack([rows / _NOISE, np.eye(7) / _SPREAD])
    for quantity in range(2):
        answers = np.concatenate([seen[:, quantity] / _NOISE, _PRIOR[quantity] / _SPREAD])
        expected = np.linalg.lstsq(weighted, answers, rcond=None)[0]
        assert found[:, :, quantity].mean(0) == pytest.approx(expected, abs=0.02)
    spread = np.sqrt(np.diag(np.linalg.inv(weighted.T @ weighted)))
    assert found[:, :, 0].std(0) == pytest.approx(spread, rel=0.1)
    learnable = [
        1,
        3,
    ]  # price and iterations vary; there are few first segments, one kind, one rate
    assert found.mean(0)[learnable] == pytest.approx(LAW.T[learnable], abs=0.08)


def test_without_any_segment_the_prior_is_believed() -> None:
    passes = family(np.random.default_rng(0), 0)
    found = moves(passes, np.eye(7), 3000)
    assert found.mean(0) == pytest.approx(_PRIOR.T, abs=0.02)
    assert found.std(0) == pytest.approx(np.full((7, 2), _SPREAD), rel=0.1)


def test_what_is_being_learned_gains_nothing_a_second_time() -> None:
    loss = LOSSES[0]
    there = [
        SimpleNamespace(
            accuracy=SimpleNamespace(value=0.9), energy_ratio=energy, kl=SimpleNamespace(value=kl)
        )
        for energy, kl in ((0.1, 0.1), (0.06, 0.3))
    ]
    kept = [SimpleNamespace(measurement=measured) for measured in there]
    chooser = Continuations(None, None, Limits(0.0), np.random.default_rng(0))
    better = [np.log([[0.08, 0.08]]), np.log([[0.05, 0.12]])]
    alone = chooser._gains(better, [], kept, loss)
    beside = chooser._gains(better, [better[0]], kept, loss)
    assert alone.min() > 0.01
    assert beside[0] < 0.25 * alone[0], "it is only luck that could make it better"
    assert beside[1] > 0.5 * alone[1]
