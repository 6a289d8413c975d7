from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch

from conversion import ConversionConfig, convert
from conversion.simulation import AnalogPass
from evaluators import Evaluator, Task
from search import (
    AdditiveSampler,
    Budget,
    TrialRecord,
    choice_of,
    layer_tables,
    measurement_of,
)
from search._exits import LOSSES, foreseen_exits
from search.sampler import _roots
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
    AnalogPass(profile.network, lambda _, a: activations.append(a.clone())).run(profile.inputs)
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
        i = simulation.counts.sources.index("relu")
        energy = float(simulation.counts.synops[i].mean()) / profile.costs.ann_macs
        V = model.thetas["relu"].view(-1, 1, 1) * rho
        rounded = torch.floor(ann / V + 0.5).clamp(max=phi) * V
        error = float(((ann - rounded) ** 2).sum() / (ann**2).sum())
        cell = (0, phi - 1, round((rho - 1) / 0.5))
        assert tables.error[cell] == pytest.approx(error, rel=0.03)
        # The table takes each channel's mean fan-out; borders make the small difference.
        assert tables.energy[cell] == pytest.approx(energy, rel=0.05)
        both = convert(profile, replace(config, timesteps=2)).simulate(profile.inputs)
        energy = float(both.counts.synops[i].sum(0).mean()) / profile.costs.ann_macs
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


def test_learning_goes_on_from_what_is_there(evaluator: Evaluator) -> None:
    """Every learned trial keeps φ and ρ of its parent, and its lineage is the parent's and more."""
    space = LayerSpace(
        layers=evaluator.layers,
        calibrations=("light", "learned", "learned-weights"),
        iterations=(20, 40),
        timesteps=(1, 2),
        pins={f"phi/{evaluator.layers[0]}": 2},
    )
    study, _ = searched(evaluator, space, 40)
    learned = [t for t in study.trials if t.params["calibration"] != "light"]
    layers = [name for name in space.distributions() if name.startswith(("phi/", "rho/"))]
    assert learned[0].number >= 6, "there is nothing to learn from yet"
    assert len(learned) > 10
    depths = []
    for trial in learned:
        record = TrialRecord.of(trial)
        parent = study.trials[record.goes_on_from]
        assert all(trial.params[name] == parent.params[name] for name in layers)
        assert trial.params[f"phi/{evaluator.layers[0]}"] == 2
        if parent.params["calibration"] == "light":
            assert not record.lineage
        else:
            segment = vars(space.choice(parent.params).conversion.segment())
            assert record.lineage == [*TrialRecord.of(parent).lineage, segment]
        depths.append(len(record.lineage))
    assert max(depths) >= 1


def test_what_a_trial_measured_is_what_its_lineage_gives(evaluator: Evaluator) -> None:
    """The choice that is read back from a trial, learned again from nothing, is the same."""
    space = LayerSpace(layers=evaluator.layers, calibrations=("light", "learned-weights"),
                       iterations=(2,), timesteps=(1, 2))  # fmt: skip
    study, _ = searched(evaluator, space, 25)
    last = max(study.trials, key=lambda t: len(TrialRecord.of(t).lineage))
    assert TrialRecord.of(last).lineage
    again = Evaluator(evaluator.task).measure(choice_of(space, last))
    assert again == measurement_of(last)


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


@pytest.mark.parametrize(
    ("alpha", "timesteps"), [(0.62, (1, 4)), (0.0, (1, 4)), (0.6, (1,)), (0.6, (1, 4))]
)
def test_a_pinned_exit_threshold_that_no_curve_has(
    evaluator: Evaluator, alpha: float, timesteps: tuple[int, ...]
) -> None:
    space = LayerSpace(layers=evaluator.layers, timesteps=timesteps, pins={"iat/alpha": alpha})
    study, _ = searched(evaluator, space, 12)
    assert {t.params["iat/alpha"] for t in study.trials} == {alpha}


def test_exits_of_a_pass_are_foreseen_from_the_whole_pass(evaluator: Evaluator) -> None:
    space = LayerSpace(layers=evaluator.layers)
    long = {**space.uniform(phi=2, rho=2.0, alpha=1.0), "timesteps": 8}
    sampler = AdditiveSampler(evaluator.profile, space, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for params in (long, {**long, "timesteps": 1}):
        measurement = evaluator.measure(space.choice(params))
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=space.distributions(),
                values=[measurement.accuracy.value, measurement.energy_pj.value],
                user_attrs={"measurement": measurement.to_dict()},
            )
        )
    known = [sampler._book.seen(study, t) for t in study.trials]
    foreseen = []

    def noted(staircases, *arguments):
        foreseen.append(staircases)
        return foreseen_exits(staircases, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_roots, "foreseen_exits", noted)
        sampler._roots.ranked(known, known, [], LOSSES[0])
    assert len(foreseen[0]) == 1, "they are one pass"
    assert len(foreseen[0][0]) == len(known[0].exits[LOSSES[0]]) > 1


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


def searched(
    evaluator: Evaluator, space: LayerSpace, trials: int, *, more: bool = False, **options
) -> tuple[optuna.Study, AdditiveSampler]:
    """A user's own study, with a parameter of the user's own if asked."""
    sampler = AdditiveSampler(evaluator.profile, space, seed=0, **options)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        choice = space.suggest(trial)
        if more:
            trial.suggest_float("rate", 0, 1)
        measurement = evaluator.measure(choice)
        trial.set_user_attr("measurement", measurement.to_dict())
        study.tell(trial, (measurement.accuracy.value, measurement.energy_pj.value))
    return study, sampler


def test_a_study_may_have_parameters_of_the_user_s(evaluator: Evaluator, space: LayerSpace) -> None:
    study, _ = searched(evaluator, space, 25, more=True)
    assert len({t.params["rate"] for t in study.trials}) == 25


def test_a_study_without_measurements_is_warned_of_once(
    evaluator: Evaluator, space: LayerSpace, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = AdditiveSampler(evaluator.profile, space, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(3):
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, (0.5, 1.0))
    told = [r.message for r in caplog.records if "nothing is learned from them" in r.message]
    assert len(told) == 1


def test_a_trial_without_a_measurement_is_passed_over(
    evaluator: Evaluator, space: LayerSpace
) -> None:
    study, _ = searched(evaluator, space, 3)
    for _ in range(2):
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, (0.5, 1.0))
    space.suggest(study.ask())


def test_studies_are_told_apart(evaluator: Evaluator, space: LayerSpace) -> None:
    first, sampler = searched(evaluator, space, 3)
    second, _ = searched(evaluator, replace(space, phi_max=2), 3)
    for study in (first, second):
        for trial in study.trials:
            assert sampler._book.seen(study, trial).params == trial.params


def test_every_t_is_tried_where_nothing_exits(evaluator: Evaluator) -> None:
    space = LayerSpace(
        layers=evaluator.layers, phi_max=2, rho_max=1.5, rho_step=0.5, timesteps=(1, 2, 4),
        neurons=("adafire",), calibrations=("light",), calibration_timesteps=(2,),
        pins={"iat/alpha": 1.0},
    )  # fmt: skip
    study, _ = searched(evaluator, space, 30)
    steps: dict[tuple, set[int]] = {}
    for trial in study.trials:
        cells = tuple(v for k, v in trial.params.items() if k.startswith(("phi/", "rho/")))
        steps.setdefault(cells, set()).add(trial.params["timesteps"])
    assert max(map(len, steps.values())) > 1


def test_a_space_that_only_learns_is_learned_from(evaluator: Evaluator) -> None:
    space = LayerSpace(
        layers=evaluator.layers, calibrations=("learned",), iterations=(1,), timesteps=(1, 2)
    )
    _, sampler = searched(evaluator, space, 8)
    assert not np.allclose(sampler._roots.surrogate.mean, sampler._roots.surrogate._prior)


def test_energies_are_predicted_as_measured(evaluator: Evaluator) -> None:
    """At fixed T, after a few trials, within a few percent: stem, steps and prices included."""
    space = LayerSpace(layers=evaluator.layers, timesteps=(1, 4), pins={"iat/alpha": 1.0})
    graded = Evaluator(evaluator.task, energy="horowitz45-int8")
    study, sampler = searched(graded, space, 20, energy=graded.energy)
    known = [sampler._book.seen(study, t) for t in study.trials]
    sampler._roots.ranked(known, known, [], LOSSES[0])
    predicted = sampler._book.log_energies([t.candidate for t in known])
    found = np.log([t.measurement.energy_ratio for t in known])
    assert np.abs(predicted - found).max() < 0.15


def test_energies_of_first_steps_are_predicted_where_samples_exit(evaluator: Evaluator) -> None:
    space = LayerSpace(layers=evaluator.layers, timesteps=(1, 4), neurons=("adafire",))
    study, sampler = searched(evaluator, space, 20)
    known = [sampler._book.seen(study, t) for t in study.trials]
    sampler._roots.ranked(known, known, [], LOSSES[0])
    predicted = sampler._book.log_energies([t.candidate for t in known])
    found = np.log([t.measurement.exit_curve[0][3] for t in known])
    assert abs(np.mean(predicted - found)) < 0.05
    assert np.abs(predicted - found).max() < 0.3


def test_a_budget_is_looked_within(evaluator: Evaluator) -> None:
    space = LayerSpace(layers=evaluator.layers, timesteps=(4,), pins={"iat/alpha": 1.0})
    free, _ = searched(evaluator, space, 25)
    ratios = sorted(t.user_attrs["measurement"]["energy_ratio"] for t in free.trials)
    limit = ratios[8]
    study, _ = searched(evaluator, space, 25, budget=Budget(max_energy=limit))
    found = [t.user_attrs["measurement"]["energy_ratio"] for t in study.trials[5:]]
    assert np.mean([ratio <= 1.05 * limit for ratio in found]) > 0.8
