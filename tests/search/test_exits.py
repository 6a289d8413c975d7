from __future__ import annotations

import math

import numpy as np
import pytest

from evaluators import Evaluator, Task
from search import _exits, dominated_area, measured_exits
from search._exits import (
    LOSSES,
    foreseen_exits,
    gainful_exits,
    interesting_front,
    logarithms,
    points_of,
    staircase,
)
from spaces import LayerSpace


def test_dominated_area_by_hand() -> None:
    points = np.log([(0.1, 0.4), (0.2, 0.1), (0.3, 0.2), (0.9, 0.01)])
    expected = np.log(0.8 / 0.1) * np.log(0.5 / 0.4) + np.log(0.8 / 0.2) * np.log(0.4 / 0.1)
    worst = (math.log(0.8), math.log(0.5))
    assert dominated_area(points, worst) == pytest.approx(expected)


def test_the_interesting_front_by_hand() -> None:
    points = np.array(
        [
            (0.90, 0.10, 0.5),
            (0.95, 0.20, 0.3),
            (0.95, 0.30, 0.2),  # of no more accuracy, of less divergence
            (0.94, 0.25, 0.6),
            (0.80, 0.05, 0.9),  # far less accurate than the best
            (0.95, 0.31, 0.1),  # more than 1.5 times the energy of the most accurate one
        ]
    )
    by_divergence, by_accuracy = (interesting_front(points, loss).tolist() for loss in LOSSES)
    assert by_divergence == [0, 1, 2]
    assert by_accuracy == [0, 1]
    assert interesting_front(points[:0], LOSSES[0]).tolist() == []


@pytest.mark.parametrize("which", [0, 1])
def test_the_exit_that_gains_most_comes_first(
    small_task: Task, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against every exit, measured, and areas of the whole front."""
    evaluator = Evaluator(small_task)
    space = LayerSpace(layers=evaluator.layers)
    loss = LOSSES[which]
    done = [evaluator.measure(space.choice(p)) for p in space.baselines()[:6]]
    params = space.baselines()[5]
    curve = np.array(evaluator.measure(space.choice(params)).exit_curve)
    known = points_of(done)
    monkeypatch.setattr(_exits, "LOSSES", (loss,))
    first = gainful_exits(known, curve, space)[0]

    def gain(exits: dict[str, float]) -> float:
        m = evaluator.measure(space.choice({**params, "iat/beta": 0.0, **exits}))
        front = known[interesting_front(known, loss)]
        before = np.log(np.column_stack([front[:, 1], np.maximum(loss.of(front), loss.least)]))
        worst = (before[-1, 0] + math.log(1.5), before[0, 1] + math.log(2))
        added = points_of([m])
        point = np.log([[added[0, 1], max(float(loss.of(added)[0]), loss.least)]])
        return dominated_area(np.vstack([before, point]), worst) - dominated_area(before, worst)

    least = known[:, 0].max() - 0.06
    every = [
        {"timesteps": int(row[0]), "iat/alpha": float(row[1])} for row in curve if row[2] >= least
    ]
    assert gain(first) == pytest.approx(max(gain(exits) for exits in every)) != 0


def test_exits_enlarge_the_front_one_after_the_other(small_task: Task) -> None:
    evaluator = Evaluator(small_task)
    space = LayerSpace(layers=evaluator.layers)
    params = {**space.uniform(phi=2, rho=2.0, alpha=1.0), "timesteps": 8}
    measurement = evaluator.measure(space.choice(params))
    none = np.zeros((0, 3))

    def measure(params):
        return evaluator.measure(space.choice(params))

    found = measured_exits(params, measurement, measure, space, known=none)
    keys = [(exits["timesteps"], exits["iat/alpha"]) for exits, _ in found]
    assert len(set(keys)) == len(keys) > 0
    rows = {(row[0], row[1]): row for row in measurement.exit_curve}
    for exits, m in found:
        row = rows[exits["timesteps"], exits["iat/alpha"]]
        assert points_of([m])[0] == pytest.approx(row[2:])
    assert len({m.energy_ratio for _, m in found}) == 2
    points = points_of([measurement, *(m for _, m in found)])
    areas = np.array(
        [
            [dominated_area(logarithms(points[:n], loss), (1.0, 0.0)) for loss in LOSSES]
            for n in range(1, len(points) + 1)
        ]
    )
    assert (np.diff(areas, axis=0).max(1) > 0).all(), "each one, by divergence or by accuracy"


def test_exits_are_foreseen_from_the_nearest_pass_by_hand() -> None:
    stairs = [np.log([(0.1, 0.4), (0.2, 0.1)]), np.log([(0.5, 0.01)])]
    seen = np.log([(0.1, 0.5), (0.4, 0.02)])
    sought = np.log([(0.12, 0.25), (0.4, 0.01)])
    alike = np.zeros((2, 2))
    rows, owner = foreseen_exits(stairs, seen, sought, alike, LOSSES[0])
    assert owner.tolist() == [0, 0, 1]
    assert np.exp(rows) == pytest.approx(np.array([(0.12, 0.2), (0.24, 0.05), (0.5, 0.005)]))
    rows, _ = foreseen_exits(stairs, seen, sought, alike, LOSSES[1])
    assert np.exp(rows[0]) == pytest.approx((0.12, 0.4 * 0.5**0.5))
    unlike = np.array([[40.0, 0.0], [0.0, 0.0]])
    assert foreseen_exits(stairs, seen, sought, unlike, LOSSES[0])[1].tolist() == [0, 1]


def test_a_staircase_is_what_a_pass_can_do(small_task: Task) -> None:
    evaluator = Evaluator(small_task)
    space = LayerSpace(layers=evaluator.layers)
    params = {**space.uniform(phi=2, rho=2.0, alpha=1.0), "timesteps": 8}
    curve = np.array(evaluator.measure(space.choice(params)).exit_curve)
    stairs = np.exp(staircase(curve, space, LOSSES[0]))
    assert 1 < len(stairs) <= 12
    assert (np.diff(stairs[:, 0]) > 0).all()
    assert (np.diff(stairs[:, 1]) < 0).all()
    for energy, divergence in stairs:
        cheaper = curve[curve[:, 3] <= energy * 1.0001]
        assert divergence == pytest.approx(max(cheaper[:, 4].min(), 5e-3))


def test_no_exit_where_pins_forbid_it_or_it_is_too_dear(small_task: Task) -> None:
    evaluator = Evaluator(small_task)
    free = LayerSpace(layers=evaluator.layers)
    params = {**free.uniform(phi=2, rho=2.0, alpha=0.6), "timesteps": 8}
    measurement = evaluator.measure(free.choice(params))
    known, curve = points_of([measurement]), np.array(measurement.exit_curve)
    assert gainful_exits(known, curve, free)
    never = LayerSpace(layers=evaluator.layers, pins={"iat/alpha": 1.0})
    assert all(exits["iat/alpha"] == 1.0 for exits in gainful_exits(known, curve, never))
    assert not gainful_exits(known, curve, free, dearest=math.log(curve[:, 3].min() / 2))

    def measure(params):
        return evaluator.measure(free.choice(params))

    above = known[0, 0] + 0.01
    found = measured_exits(params, measurement, measure, free, known=known, least_accuracy=above)
    assert all(m.accuracy.value >= above for _, m in found)
    assert not measured_exits(params, measurement, measure, free, known=known, least_accuracy=2.0)
