from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest
import torch

from conversion import ConversionConfig, convert
from evaluators import Evaluator, Task
from search import AdditiveSampler, LayerTables, layer_tables
from search._additive import _area, _at_price, _cheapest
from spaces import LayerSpace


@pytest.fixture
def evaluator(small_task: Task) -> Evaluator:
    return Evaluator(small_task)


@pytest.fixture
def space(evaluator: Evaluator) -> LayerSpace:
    return LayerSpace(layers=evaluator.layers, phi_max=3, rho_max=2.0, rho_step=0.5)


def test_tables_are_what_one_step_of_the_first_layer_does(
    evaluator: Evaluator, space: LayerSpace
) -> None:
    """The first layer's input is the ANN's own: its predicted energy and error are exact."""
    profile = evaluator.profile
    tables = layer_tables(profile, space, timesteps=2)
    activations: list[torch.Tensor] = []
    module = profile.network.module
    handle = module.get_submodule("relu").register_forward_hook(
        lambda _, __, out: activations.append(out.clone())
    )
    with torch.no_grad():
        module(profile.inputs)
    handle.remove()
    ann = activations[0]
    for phi, rho in itertools.product((1, 2, 3), (1.0, 1.5, 2.0)):
        config = ConversionConfig.uniform(
            space.layers,
            timesteps=1,
            phi=phi,
            rho=rho,
            calibration="none",
            calibration_timesteps=2,
        )
        model = convert(profile, config)
        simulation = model.simulate(profile.inputs)
        i = simulation.sources.index("relu")
        energy = float(simulation.synops[i].mean()) / profile.costs.ann_macs
        V = model.thetas["relu"].view(-1, 1, 1) * rho
        rounded = torch.floor(ann / V + 0.5).clamp(max=phi) * V
        error = float(((ann - rounded) ** 2).sum() / (ann**2).sum())
        cell = (0, phi - 1, round((rho - 1) / 0.5))
        assert tables.error[cell] == pytest.approx(error, rel=0.03)
        # The table takes each channel's mean fan-out; borders make the small difference.
        assert tables.energy[cell] == pytest.approx(energy, rel=0.05)


def test_more_spikes_cost_more_and_err_less(evaluator: Evaluator, space: LayerSpace) -> None:
    tables = layer_tables(evaluator.profile, space, timesteps=1)
    assert (np.diff(tables.energy, axis=1) >= -1e-9).all()
    assert (np.diff(tables.energy, axis=2) <= 1e-9).all()


def test_the_sweep_finds_the_optimum_at_its_price() -> None:
    random = np.random.default_rng(0)
    tables = LayerTables(random.random((3, 2, 3)), random.random((3, 2, 3)))
    weights = random.random(3)
    cells = list(itertools.product(range(2), range(3)))

    def loss(choice, price: float) -> float:
        return sum(
            weights[i] * tables.error[i, *c] + price * tables.energy[i, *c]
            for i, c in enumerate(choice)
        )

    for price in (0.01, 0.3, 1.0, 10.0):
        found = _at_price(tables, weights, price)
        best = min(loss(choice, price) for choice in itertools.product(cells, repeat=3))
        assert loss(found, price) == pytest.approx(best)


def test_a_budget_s_choice_is_on_the_lower_hull() -> None:
    random = np.random.default_rng(1)
    tables = LayerTables(random.random((3, 2, 3)), random.random((3, 2, 3)))
    weights = np.ones(3)
    cells = list(itertools.product(range(2), range(3)))
    every = [
        (
            sum(tables.energy[i, *c] for i, c in enumerate(choice)),
            sum(tables.error[i, *c] for i, c in enumerate(choice)),
        )
        for choice in itertools.product(cells, repeat=3)
    ]
    for budget in (0.8, 1.2, 1.6):
        found = _cheapest(tables, weights, budget)
        energy = sum(tables.energy[i, *c] for i, c in enumerate(found))
        error = sum(tables.error[i, *c] for i, c in enumerate(found))
        assert not any(e < energy - 1e-12 and r < error - 1e-12 for e, r in every)


def test_it_serves_in_a_user_s_own_study(evaluator: Evaluator, space: LayerSpace) -> None:
    def run() -> list[dict]:
        study = optuna.create_study(
            directions=["maximize", "minimize"],
            sampler=AdditiveSampler(evaluator.profile, space, seed=5),
        )

        def objective(trial: optuna.Trial) -> tuple[float, float]:
            measurement = evaluator.measure(space.suggest(trial))
            trial.set_user_attr("measurement", measurement.to_dict())
            return measurement.accuracy.value, measurement.energy_pj.value

        study.optimize(objective, n_trials=12)
        return [t.params for t in study.trials]

    first, second = run(), run()
    assert first == second, "one seed, one sequence"
    assert len({tuple(sorted(p.items())) for p in first}) == 12, "nothing is measured twice"


def test_what_learns_starts_from_the_front(evaluator: Evaluator) -> None:
    """Points of the front, φ and ρ kept, once there is a front; the others never learn."""
    space = LayerSpace(
        layers=evaluator.layers, calibrations=("light", "learned"), iterations=2, timesteps=(1, 2)
    )
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=AdditiveSampler(evaluator.profile, space, seed=0),
    )
    layers = [name for name in space.distributions() if name.startswith(("phi/", "rho/"))]
    earlier: set[tuple] = set()
    learned = 0
    for number in range(90):
        trial = study.ask()
        measurement = evaluator.measure(space.suggest(trial))
        trial.set_user_attr("measurement", measurement.to_dict())
        study.tell(trial, (measurement.accuracy.value, measurement.energy_pj.value))
        cells = tuple(trial.params[name] for name in layers)
        if trial.params["calibration"] == "learned":
            learned += 1
            assert number >= 40
            assert cells in earlier
        else:
            assert trial.params["learning/energy_weight"] == 0
        earlier.add(cells)
    assert learned >= 3


def test_dominated_area_by_hand() -> None:
    points = [(0.1, 0.4), (0.2, 0.1), (0.3, 0.2), (0.9, 0.01)]
    expected = np.log(0.8 / 0.1) * np.log(0.5 / 0.4) + np.log(0.8 / 0.2) * np.log(0.4 / 0.1)
    assert _area(points, (0.8, 0.5)) == pytest.approx(expected)
