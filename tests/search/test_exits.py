from __future__ import annotations

import math

import numpy as np
import pytest

from evaluators import Evaluator, Task
from search._exits import LOSSES, best_exit, dominated_area, interesting_front, key_of
from spaces import LayerSpace


def test_dominated_area_by_hand() -> None:
    points = np.log([(0.1, 0.4), (0.2, 0.1), (0.3, 0.2), (0.9, 0.01)])
    expected = np.log(0.8 / 0.1) * np.log(0.5 / 0.4) + np.log(0.8 / 0.2) * np.log(0.4 / 0.1)
    worst = (math.log(0.8), math.log(0.5))
    assert dominated_area(points, worst) == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_best_exit_of_all_passes(small_task: Task, loss) -> None:
    evaluator = Evaluator(small_task)
    space = LayerSpace(layers=evaluator.layers)
    done = [(p, evaluator.measure(space.choice(p))) for p in space.baselines()[:6]]
    curves = [np.array(m.exit_curve) for _, m in done]
    found = best_exit(done, curves, {key_of(p) for p, _ in done}, space, loss)
    assert found is not None

    def gain(params) -> float:
        m = evaluator.measure(space.choice(params))
        front = interesting_front(done, loss)
        before = np.log([[f.energy_ratio, max(loss.of_measurement(f), 1e-3)] for _, f in front])
        worst = (before[-1, 0] + math.log(1.5), before[0, 1] + math.log(2))
        point = np.log([[m.energy_ratio, max(loss.of_measurement(m), 1e-3)]])
        after = dominated_area(np.vstack([before, point]), worst)
        return after - dominated_area(before, worst)

    least = max(m.accuracy.value for _, m in done) - 0.06
    others = [
        {**params, "timesteps": int(row[0]), "iat/alpha": float(row[1]), "iat/beta": 0.0}
        for params, m in done
        for row in m.exit_curve
        if row[2] >= least
    ]
    assert gain(found) == pytest.approx(max(gain(params) for params in [*others[::7], found]))
    assert gain(found) > 0
    assert best_exit([], [], set(), space, loss) is None
