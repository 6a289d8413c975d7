from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from torch import Tensor

from conversion import ConfigError, ConversionError, energy_model
from evaluators import Evaluator, Measurement, Recording, Split, Task, TaskSpec
from search import (
    SAMPLER_NAMES,
    Budget,
    StudyError,
    StudySetup,
    TrialRecord,
    check_evaluator,
    check_settings,
    dominated_area,
    finished,
    is_feasible,
    load_study,
    make_sampler,
    measurement_of,
    open_storage,
    open_study,
    passes,
    reason_of,
    run_study,
    study_setup,
)
from search.running import _measure
from spaces import LayerSpace


class Bench:
    """A study of the small network, opened anew as often as asked."""

    def __init__(self, task: Task, folder: Path, sampler: str = "random") -> None:
        self.evaluator = Evaluator(task)
        self.folder = folder
        self.space = LayerSpace(layers=self.evaluator.layers, timesteps=(1, 2, 4))
        self.sampler = sampler

    def study(self, **changes: object) -> optuna.Study:
        setup = replace(StudySetup.of(self.evaluator, self.space), **changes)
        sampler = make_sampler(
            self.sampler, seed=0, profile=self.evaluator.profile, space=self.space
        )
        return open_study(open_storage(self.folder / "study.journal"), "s", setup, sampler)

    def run(self, study: optuna.Study, trials: int, **options: object) -> None:
        make = options.pop("make", lambda: self.evaluator)
        run_study(study, self.space, make, trials=trials, folder=self.folder, **options)


@pytest.fixture
def bench(small_task: Task, tmp_path: Path) -> Bench:
    return Bench(small_task, tmp_path / "out")


def states(study: optuna.Study) -> dict[str, int]:
    found: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        found[trial.state.name] = found.get(trial.state.name, 0) + 1
    return found


def test_baselines_come_first_and_trials_hold_their_measurements(bench: Bench) -> None:
    study = bench.study()
    seen: list[int] = []
    count = len(bench.space.baselines())
    bench.run(study, count + 3, on_trial=lambda study, done, reason: seen.append(done))
    trials = passes(study)
    assert seen == list(range(1, count + 4))
    assert [TrialRecord.of(t).baseline for t in trials] == ["uniform"] * count + [None] * 3
    assert [t.params for t in trials[:count]] == bench.space.baselines()
    for trial in trials:
        measurement = measurement_of(trial)
        assert trial.values == [measurement.accuracy.value, measurement.energy_pj.value]
        assert trial.distributions == bench.space.distributions()
        fresh = Evaluator(bench.evaluator.task)
        assert fresh.measure(bench.space.choice(trial.params)) == measurement


def test_gainful_exits_of_a_pass_are_trials_of_their_own(bench: Bench) -> None:
    study = bench.study()
    bench.run(study, 9)
    every = finished(study)
    more = [t for t in every if "exit_of" in t.user_attrs]
    assert len(passes(study)) == 9 == len(every) - len(more)
    assert more
    for trial in more:
        parent = every[trial.user_attrs["exit_of"]]
        changed = {k for k, v in trial.params.items() if parent.params[k] != v}
        assert changed <= {"timesteps", "iat/alpha", "iat/beta"}
        assert TrialRecord.of(trial).baseline == TrialRecord.of(parent).baseline
        fresh = Evaluator(bench.evaluator.task).measure(bench.space.choice(trial.params))
        assert measurement_of(trial) == fresh
        assert trial.values == [fresh.accuracy.value, fresh.energy_pj.value]


def test_a_trial_is_whole_without_its_further_exits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(_measure, "measured_exits", broken)
    study, reasons = bench.study(), []
    bench.run(study, 3, on_trial=lambda study, done, reason: reasons.append(reason))
    assert reasons == [None] * 3
    assert len(finished(study)) == 3
    assert "no additional exits of trial 0: by zero" in caplog.text


def test_the_same_call_goes_on(bench: Bench) -> None:
    bench.run(bench.study(), 4)
    first = [t.params for t in passes(bench.study())]
    study = bench.study()
    bench.run(study, 7)
    assert [t.params for t in passes(study)][:4] == first
    assert len(passes(study)) == 7
    bench.run(study, 5)
    assert len(passes(study)) == 7


SLOW = ("gp",)


@pytest.mark.parametrize(
    "sampler",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in SAMPLER_NAMES],
)
def test_every_sampler_searches(small_task: Task, tmp_path: Path, sampler: str) -> None:
    bench = Bench(small_task, tmp_path, sampler)
    study = bench.study()
    count = len(bench.space.baselines())
    bench.run(study, count + (3 if sampler == "gp" else 25))
    own = [t for t in passes(study) if TrialRecord.of(t).baseline is None]
    assert all(t.distributions == bench.space.distributions() for t in own)
    assert len({tuple(sorted(t.params.items())) for t in own}) > 1


def test_genetic_samplers_see_the_baselines_as_parents(small_task: Task, tmp_path: Path) -> None:
    bench = Bench(small_task, tmp_path, "nsga2")
    study = bench.study()
    bench.run(study, len(bench.space.baselines()))
    assert isinstance(study.sampler, optuna.samplers.NSGAIISampler)
    population = study.sampler.get_population(study, generation=0)
    assert len(population) == len(bench.space.baselines())


def test_a_failing_trial_keeps_its_reason_and_the_study_goes_on(bench: Bench, monkeypatch) -> None:
    evaluator, calls = bench.evaluator, []
    run = evaluator.record

    def sometimes(model, split) -> Recording:
        calls.append(1)
        if len(calls) == 2:
            raise ConversionError("layer 'relu' diverges")
        if len(calls) == 3:
            raise ZeroDivisionError("by zero")
        return run(model, split)

    monkeypatch.setattr(evaluator, "record", sometimes)
    study = bench.study()
    reasons: list[str | None] = []
    bench.run(study, 4, on_trial=lambda study, done, reason: reasons.append(reason))
    failed = study.get_trials(states=(TrialState.FAIL,))
    assert [reason_of(t) for t in failed] == [
        "layer 'relu' diverges",
        "ZeroDivisionError: by zero",
    ]
    assert reasons.count(None) == 4
    assert len(passes(study)) == 4


@pytest.mark.parametrize("score", [float("nan"), 7.0])
def test_a_metric_out_of_range_fails_and_says_so(bench: Bench, score: float) -> None:
    def metric(logits: Tensor, targets: Tensor) -> Tensor:
        return torch.full((len(logits),), score)

    bench.evaluator = Evaluator(replace(bench.evaluator.task, metric=metric))
    with pytest.raises(StudyError, match=r"5 trials in a row failed.* one score within"):
        bench.run(bench.study(), 10)
    assert states(bench.study())["FAIL"] == 5


def test_failure_after_failure_ends_the_search(bench: Bench, monkeypatch) -> None:
    def always(choice, split="search") -> Measurement:
        raise ConversionError("no layer converges")

    monkeypatch.setattr(bench.evaluator, "measure", always)
    with pytest.raises(StudyError, match=r"5 trials in a row failed.*no layer converges"):
        bench.run(bench.study(), 10)


def test_an_interrupted_trial_runs_again(bench: Bench, monkeypatch) -> None:
    measure, calls = bench.evaluator.measure, []

    def interrupted(choice, split="search") -> Measurement:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(choice, split)

    monkeypatch.setattr(bench.evaluator, "measure", interrupted)
    study = bench.study()
    with pytest.raises(KeyboardInterrupt):
        bench.run(study, 25)
    assert states(study)["FAIL"] == 1
    assert "RUNNING" not in states(study)
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    bench.run(bench.study(), 25)
    assert failed.system_attrs["fixed_params"] in [t.params for t in passes(study)]
    assert len(passes(study)) == 25
    assert sum(TrialRecord.of(t).baseline is not None for t in passes(study)) == len(
        bench.space.baselines()
    )


def test_sigterm_stops_as_ctrl_c_does(bench: Bench) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    study = bench.study()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        bench.run(study, 10_000)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "RUNNING" not in states(study)


def test_what_a_killed_process_left_running_runs_again(bench: Bench) -> None:
    study = bench.study()
    bench.run(study, 2)
    owner = passes(study)[0].user_attrs["owner"]
    mine, other = study.ask(), study.ask()
    mine.set_user_attr("owner", owner)
    other.set_user_attr("owner", "another machine")
    for trial in (mine, other):
        bench.space.suggest(trial)
    bench.run(bench.study(), 6, beat=0.1, grace=1.0)
    found = {t.number: t for t in study.get_trials()}
    assert found[mine.number].state is TrialState.FAIL
    assert reason_of(found[mine.number]) == "its process was killed"
    assert found[other.number].state is TrialState.FAIL
    assert reason_of(found[other.number]) == "its worker was lost, 1 of 3 times"
    bench.run(bench.study(), len(bench.space.baselines()) + 1)
    again = [t for t in passes(study) if t.user_attrs.get("retry_of") == mine.number]
    assert [t.params for t in again] == [mine.params]


def test_a_trial_killed_while_being_asked_is_only_failed(bench: Bench) -> None:
    bench.run(bench.study(), 20)
    study = bench.study()
    owner = passes(study)[0].user_attrs["owner"]
    half = study.ask()
    half.set_user_attr("owner", owner)
    half.suggest_int("phi/relu", 1, 8)
    bench.run(bench.study(), 21)
    found = study.get_trials()[half.number]
    assert found.state is TrialState.FAIL
    assert len(passes(study)) == 21


def test_two_processes_measure_what_one_does(bench: Bench, small_task: Task) -> None:
    study = bench.study()
    # cloudpickle carries the task to the workers; the command line sends a reference instead.
    bench.run(study, 12, workers=2, make=lambda: Evaluator(small_task))
    trials = passes(study)
    assert len(trials) == 12
    assert sorted(t.number for t in finished(study)) == list(range(len(finished(study))))
    for trial in trials:
        expected = bench.evaluator.measure(bench.space.choice(trial.params))
        assert measurement_of(trial).accuracy == expected.accuracy
        assert measurement_of(trial).energy_pj.value == pytest.approx(expected.energy_pj.value)


@pytest.mark.slow
def test_a_killed_worker_s_trial_runs_again(bench: Bench, small_task: Task, tmp_path: Path) -> None:
    marker = tmp_path / "died"

    def make() -> Evaluator:
        evaluator = Evaluator(small_task)
        measure = evaluator.measure

        def once(choice, split="search") -> Measurement:
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return measure(choice, split)

        evaluator.measure = once  # type: ignore[method-assign]
        return evaluator

    study = bench.study()
    bench.run(study, 8, workers=2, make=make)
    assert marker.exists()
    assert len(passes(study)) == 8
    failed = study.get_trials(states=(TrialState.FAIL,))
    assert failed
    assert {reason_of(t) for t in failed} == {"its worker died"}
    assert "RUNNING" not in states(study)
    done = [t.params for t in passes(study)]
    waiting = [
        t.system_attrs["fixed_params"] for t in study.get_trials() if t.state.name == "WAITING"
    ]
    assert all(t.params in done + waiting for t in failed)


def test_a_study_is_checked_on_return(bench: Bench) -> None:
    bench.run(bench.study(), 1)
    other = replace(bench.space, phi_max=4)
    cases = [
        ({"space": other}, r"another search space \(phi_max\): 8 there, 4 here"),
        ({"model_fingerprint": "f00"}, "another model: .* there, 'f00' here"),
        ({"data_fingerprint": "f00"}, "another calibration data"),
        ({"search_fingerprint": "f00"}, "another search split"),
        ({"energy_model": energy_model("horowitz45-int8")}, "another energy model"),
        ({"seed": 3}, "another seed: 0 there, 3 here"),
        ({"task": TaskSpec()}, r"another task \(task\)"),
    ]
    for changes, message in cases:
        with pytest.raises(StudyError, match=message):
            bench.study(**changes)
    check_evaluator(bench.study(), bench.evaluator)
    storage, task = open_storage(bench.folder / "study.journal"), TaskSpec()
    check_settings(storage, "none such", energy=energy_model("horowitz45"), task=task, phi_max=4)
    with pytest.raises(StudyError, match=r"another search space \(phi_max\): 8 there, 4 here"):
        check_settings(storage, "s", energy=energy_model("horowitz45"), task=task, phi_max=4)
    flipped = Split.of(*(t.flip(0) for t in bench.evaluator.task.search.dataset.tensors))
    with pytest.raises(StudyError, match="another search split"):
        check_evaluator(bench.study(), Evaluator(replace(bench.evaluator.task, search=flipped)))
    dear = replace(energy_model("horowitz45"), ac_pj=1.0)
    with pytest.raises(StudyError, match=r"another energy model \(ac_pj\): 0.9 there, 1.0 here"):
        check_evaluator(bench.study(), Evaluator(bench.evaluator.task, energy=dear))
    with pytest.raises(StudyError, match="another energy model"):
        check_evaluator(bench.study(), Evaluator(bench.evaluator.task, energy="horowitz45-int8"))


def test_studies_that_are_not_ours_are_refused(bench: Bench, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "x.journal")
    with pytest.raises(StudyError, match=r"no study 'a' in this storage \(it is empty\)"):
        load_study(storage, "a")
    study = optuna.create_study(
        study_name="b", storage=storage, directions=["maximize", "minimize"]
    )
    study.optimize(lambda trial: (0.0, 0.0), n_trials=1)
    with pytest.raises(StudyError, match="was not created by spikefront"):
        load_study(storage, "b")
    setup = StudySetup.of(bench.evaluator, bench.space)
    with pytest.raises(StudyError, match="has trials that spikefront did not create"):
        open_study(storage, "b", setup, optuna.samplers.RandomSampler())
    with pytest.raises(StudyError, match=r"no study 'a' in this storage \(b\)"):
        load_study(storage, "a")


def test_setups_round_trip(bench: Bench) -> None:
    setup = StudySetup.of(bench.evaluator, bench.space, TaskSpec(seed=4))
    assert StudySetup.from_dict(setup.to_dict()) == setup
    assert study_setup(bench.study()).space == bench.space


def test_unknown_samplers_are_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="sampler 'luck' is unknown; known: additive, nsga2"):
        make_sampler("luck", seed=0, profile=bench.evaluator.profile, space=bench.space)


class Killed(BaseException):
    """A process that dies: nothing that it does afterwards reaches the disk."""


def test_a_kill_before_any_write_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.space = LayerSpace(layers=bench.space.layers, phi_max=2, rho_max=1.0, timesteps=(2,))
    write = JournalFileBackend.append_logs
    for allowed in range(60):
        bench.folder = bench.folder.parent / str(allowed)
        study, written = bench.study(), itertools.count()

        def write_or_die(
            self: JournalFileBackend,
            logs: list[dict[str, object]],
            written: itertools.count[int] = written,
            allowed: int = allowed,
        ) -> None:
            if next(written) >= allowed:
                raise Killed
            write(self, logs)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(JournalFileBackend, "append_logs", write_or_die)
            bench.run(study, 5)
        before = {t.number: t.values for t in passes(bench.study())}
        bench.run(bench.study(), 6)
        study = bench.study()
        after = {t.number: t.values for t in passes(study)}
        assert len(after) == 6
        assert {number: after[number] for number in before} == before
        assert set(states(study)) <= {"COMPLETE", "FAIL", "WAITING"}
        assert sorted(
            t.params["phi/relu"] for t in passes(study) if TrialRecord.of(t).baseline
        ) == [1, 2]


def test_a_baseline_outside_the_space_is_refused_before_anything_runs(bench: Bench) -> None:
    outside = {**bench.space.baselines()[0], "rho/relu": 1.1}
    study = bench.study()
    with pytest.raises(ConfigError, match=r"rho/relu = 1.1 is outside"):
        bench.run(study, 30, pareto_dp=[outside])
    assert states(study).get("COMPLETE", 0) == 0


def test_a_limit_on_lost_accuracy_needs_the_ann_s(bench: Bench) -> None:
    study = bench.study(budget=Budget(max_accuracy_drop=0.1))
    with pytest.raises(ConfigError, match="needs ann_accuracy"):
        bench.run(study, 1)


def test_constraints_say_what_keeps_the_budget(bench: Bench) -> None:
    budget = Budget(max_energy=1.5, max_accuracy_drop=0.05)
    ann = bench.evaluator.ann("search").accuracy.value
    study = bench.study(budget=budget)
    bench.run(study, 20, ann_accuracy=ann)
    kept = []
    for trial in passes(study):
        m = measurement_of(trial)
        kept.append(m.energy_ratio <= 1.5 and m.accuracy.value >= ann - 0.05)
        assert is_feasible(trial) == kept[-1]
    assert any(kept)
    assert not all(kept)
    assert study_setup(study).budget == budget


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_energy": 0.0}, "max_energy must be finite and > 0, got 0.0"),
        ({"max_accuracy_drop": 2.0}, "max_accuracy_drop must be in 0..1, got 2.0"),
    ],
)
def test_budgets_are_checked(limits: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget(**limits)


def volume_alone(evaluator: Evaluator, name: str) -> float:
    """Hypervolume that a sampler reaches alone in 20 trials, in a loop of the user's own."""
    space = LayerSpace(layers=evaluator.layers)
    sampler = make_sampler(name, seed=0, profile=evaluator.profile, space=space)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        measurement = evaluator.measure(space.suggest(trial))
        trial.set_user_attr("measurement", measurement.to_dict())
        return measurement.accuracy.value, measurement.energy_ratio

    study.optimize(objective, n_trials=20)
    accuracies, energies = np.array([t.values for t in study.trials]).T
    return dominated_area(np.column_stack([energies, -accuracies]), (1.0, 0.0))


@pytest.fixture(scope="module")
def volume_of_chance(digits_evaluator: Evaluator) -> float:
    return volume_alone(digits_evaluator, "random")


@pytest.mark.parametrize("name", [n for n in SAMPLER_NAMES if n not in ("gp", "random")])
def test_every_sampler_is_good_alone(
    digits_evaluator: Evaluator, volume_of_chance: float, name: str
) -> None:
    """In ``study.optimize``, without the baselines and exits that a search adds."""
    least = {"additive": 1.0}.get(name, 0.98)  # others have to find their way first
    assert volume_alone(digits_evaluator, name) >= least * volume_of_chance
