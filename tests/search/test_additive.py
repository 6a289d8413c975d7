from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch

from conversion import ConversionConfig, convert
from evaluators import Evaluator, Task
from search import AdditiveSampler, layer_tables
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
    two = layer_tables(profile, space, timesteps=2, steps=2)
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
        both = convert(profile, replace(config, timesteps=2)).simulate(profile.inputs)
        energy = float(both.synops[i].sum(0).mean()) / profile.costs.ann_macs
        assert two.energy[cell] == pytest.approx(energy, rel=0.05)


def test_more_spikes_cost_more_and_err_less(evaluator: Evaluator, space: LayerSpace) -> None:
    tables = layer_tables(evaluator.profile, space, timesteps=1)
    assert (np.diff(tables.energy, axis=1) >= -1e-9).all()
    assert (np.diff(tables.energy, axis=2) <= 1e-9).all()


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


def test_pins_and_a_fixed_t_are_kept(evaluator: Evaluator) -> None:
    space = LayerSpace(
        layers=evaluator.layers,
        timesteps=(2, 4),
        pins={f"phi/{evaluator.layers[0]}": 2, f"rho/{evaluator.layers[1]}": 1.5, "iat/alpha": 1.0},
    )
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=AdditiveSampler(evaluator.profile, space, seed=0),
    )
    seen = set()
    for _ in range(15):
        trial = study.ask()
        measurement = evaluator.measure(space.suggest(trial))
        assert {name: trial.params[name] for name in space.pins} == dict(space.pins)
        seen.add(tuple(sorted(trial.params.items())))
        trial.set_user_attr("measurement", measurement.to_dict())
        study.tell(trial, (measurement.accuracy.value, measurement.energy_pj.value))
    assert len(seen) == 15


def test_what_is_running_is_neither_repeated_nor_crowded(evaluator: Evaluator) -> None:
    """Eight workers ask before anybody has told: eight passes, none where another already is."""
    space = LayerSpace(layers=evaluator.layers, timesteps=(4,), pins={"iat/alpha": 1.0})
    sampler = AdditiveSampler(evaluator.profile, space, seed=3)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for params in space.baselines():
        measurement = evaluator.measure(space.choice(params))
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=space.distributions(),
                values=(measurement.accuracy.value, measurement.energy_pj.value),
                user_attrs={"measurement": measurement.to_dict()},
            )
        )
    for _ in range(8):
        space.suggest(study.ask())
    running = [t.params for t in study.get_trials(states=(optuna.trial.TrialState.RUNNING,))]
    assert len({tuple(sorted(p.items())) for p in running}) == 8
    spikes = [evaluator.measure(space.choice(p)).spikes.value for p in running]
    assert max(spikes) > 1.5 * min(spikes)
