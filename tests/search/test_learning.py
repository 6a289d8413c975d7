from __future__ import annotations

import io
import multiprocessing
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState, create_trial

from conversion import Choice, ConversionError, SpikingModel
from evaluators import Evaluator, Measurement, Recording, Task
from search import (
    StudyError,
    StudySetup,
    TrialRecord,
    choice_of,
    measurement_of,
    open_states,
    open_storage,
    open_study,
    passes,
    run_study,
)
from search._errors import TrialTimeoutError
from search._exits import LOSSES
from search.learning import ArtifactStates, needless_states
from search.running._measure import time_limit
from search.sampler import make_sampler
from search.sampler._acquisition import Limits, gains_per_second
from spaces import LayerSpace
from tests.conftest import made_small_task
from tests.search.servers import PostgreSQL
from tests.search.team import check_whole, killed_again_and_again, work


def space_of(evaluator: Evaluator) -> LayerSpace:
    return LayerSpace(
        layers=evaluator.layers,
        calibrations=("light", "learned-weights"),
        iterations=(3, 6),
        timesteps=(1, 2),
    )


def searched(task: Task, folder: Path, trials: int) -> tuple[optuna.Study, Evaluator]:
    evaluator = Evaluator(task, states=open_states(folder / "artifacts"))
    space = space_of(evaluator)
    storage = open_storage(folder / "study.journal")
    study = open_study(storage, "s", StudySetup.of(evaluator, space))
    study.sampler = make_sampler("additive", seed=0, profile=evaluator.profile, space=space)
    run_study(
        study, space, lambda: evaluator, trials=trials, folder=folder, states=evaluator.states
    )
    return study, evaluator


def learned_again(evaluator: Evaluator, choice: Choice) -> int:
    """Iterations that measuring a choice takes."""
    done: list[int] = []
    evaluator.convert(choice, on_iteration=lambda n, _: done.append(n))
    return len(done)


def test_states_are_kept_found_and_pruned(small_task: Task, tmp_path: Path) -> None:
    study, _ = searched(small_task, tmp_path, 45)
    space = load_space(study)
    records = {t.number: TrialRecord.of(t) for t in passes(study)}
    learned = [n for n, record in records.items() if record.state]
    assert len(learned) > 12
    assert any(records[n].lineage for n in learned)
    needless = needless_states(study.trials)
    assert needless, "after so many trials there are some that nothing descends from"
    kept = {path.stem for path in (tmp_path / "artifacts").iterdir()}
    assert kept == {records[n].state for n in learned} - needless
    for number in learned:
        (meta,) = get_all_artifact_meta(study.trials[number], storage=study._storage)
        assert meta.artifact_id == f"{records[number].state}.safetensors"
    there = [n for n in learned if records[n].state in kept]
    fresh = Evaluator(small_task, states=open_states(tmp_path / "artifacts"))
    for number in there[-3:]:
        choice = choice_of(space, study.trials[number])
        assert learned_again(fresh, choice) == 0
        assert fresh.measure(choice) == measurement_of(study.trials[number])


def test_learned_baselines_go_on_from_each_other(small_task: Task, tmp_path: Path) -> None:
    study, evaluator = searched(small_task, tmp_path, 12)
    learned = [t for t in passes(study) if TrialRecord.of(t).baseline == "learned"]
    prices = [t.params["learning/energy_weight"] for t in learned]
    assert prices == sorted(prices)
    assert len(prices) == 4
    before: list[int | None] = [None, *(t.number for t in learned[:-1])]
    assert [TrialRecord.of(t).goes_on_from for t in learned] == before
    lineages = [[s["energy_weight"] for s in TrialRecord.of(t).lineage] for t in learned]
    assert lineages == [prices[:n] for n in range(4)]
    # The second search finds them all, and adds none.
    space = load_space(study)
    run_study(study, space, lambda: evaluator, trials=12, folder=tmp_path, states=evaluator.states)
    assert len(passes(study)) == 12
    assert not [t for t in study.trials if t.state is TrialState.WAITING]


class FailsAfterLearning(Evaluator):
    """As where what was learned gives outputs that are not finite."""

    def record(self, model: SpikingModel, split: str) -> Recording:
        if model.config.calibration.learns:
            raise ConversionError("the outputs contain NaN")
        return super().record(model, split)


def test_a_trial_that_failed_leaves_no_state(small_task: Task, tmp_path: Path) -> None:
    evaluator = FailsAfterLearning(small_task, states=open_states(tmp_path / "artifacts"))
    space = space_of(evaluator)
    study = open_study(
        open_storage(tmp_path / "study.journal"), "s", StudySetup.of(evaluator, space)
    )
    study.sampler = make_sampler("additive", seed=0, profile=evaluator.profile, space=space)
    run_study(study, space, lambda: evaluator, trials=10, folder=tmp_path, states=evaluator.states)
    failed = [t for t in study.trials if t.state is TrialState.FAIL]
    assert len(failed) >= 4
    kept = [path.name for path in (tmp_path / "artifacts").iterdir()]
    assert len(kept) <= 3, "what a later one of them learned anew as its ancestors"


def load_space(study: optuna.Study) -> LayerSpace:
    return StudySetup.from_dict(study.user_attrs["spikefront"]).space


def test_a_state_that_is_lost_or_damaged_is_learned_again(
    small_task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study, _ = searched(small_task, tmp_path, 30)
    space = load_space(study)
    kept = {path.stem: path for path in (tmp_path / "artifacts").iterdir()}
    one, two = [t for t in passes(study) if TrialRecord.of(t).state in kept][-2:]
    damaged = kept[TrialRecord.of(one).state]
    damaged.write_bytes(damaged.read_bytes()[:-3])
    kept[TrialRecord.of(two).state].unlink()
    fresh = Evaluator(small_task, states=open_states(tmp_path / "artifacts"))
    for trial in (one, two):
        choice = choice_of(space, trial)
        assert learned_again(fresh, choice) == choice.conversion.calibration.iterations
        assert fresh.measure(choice) == measurement_of(trial)
    assert "it is learned again" in caplog.text
    again = Evaluator(small_task, states=open_states(tmp_path / "artifacts"))
    assert learned_again(again, choice_of(space, one)) == 0, "it was kept again"


def test_a_store_that_cannot_be_reached_is_told_of_once(
    small_task: Task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "artifacts").write_text("a file, where the folder should be")
    study, _ = searched(small_task, tmp_path, 30)
    assert len(passes(study)) == 30
    told = [r.message for r in caplog.records if "the artifacts in" in r.message]
    assert len(told) == 1
    assert "cannot be" in told[0]


def test_a_store_that_hangs_does_not_outlast_the_time_limit() -> None:
    class Slow:
        def write(self, name: str, body: io.BytesIO) -> None:
            time.sleep(30)

    start = time.monotonic()
    with pytest.raises(TrialTimeoutError), time_limit(0.5):
        ArtifactStates(Slow(), "a slow place").put("k", b"data")
    assert time.monotonic() - start < 5


def test_states_of_other_training_data_have_other_names(small_task: Task) -> None:
    other = replace(small_task, train=small_task.calibration.shuffled(8))
    config = space_of(Evaluator(small_task)).choice(
        space_of(Evaluator(small_task)).learned_baselines()[0]
    )
    keys = {Evaluator(task).state_key(config.conversion) for task in (small_task, other)}
    assert len(keys) == 2
    again = Evaluator(small_task).state_key(config.conversion)
    assert again in keys


class CannotLearn(Evaluator):
    """As where memory does not suffice for gradients."""

    def measure(self, choice: Choice, split: str = "search") -> Measurement:
        if choice.conversion.calibration.learns:
            raise ConversionError("no memory for gradients")
        return super().measure(choice, split)


def test_a_search_that_cannot_learn_goes_on_without(small_task: Task, tmp_path: Path) -> None:
    evaluator = CannotLearn(small_task)
    space = space_of(evaluator)
    storage = open_storage(tmp_path / "study.journal")
    study = open_study(storage, "s", StudySetup.of(evaluator, space))
    study.sampler = make_sampler("additive", seed=0, profile=evaluator.profile, space=space)
    run_study(study, space, lambda: evaluator, trials=20, folder=tmp_path)
    assert len(passes(study)) == 20


def test_what_gained_more_per_second(small_task: Task) -> None:
    """Passes that only learned ones improve on; the others cost less, but gain nothing."""

    def known(number: int, *, learned: bool, energy: float, kl: float) -> SimpleNamespace:
        found = SimpleNamespace(
            accuracy=SimpleNamespace(value=1 - kl),
            energy_ratio=energy,
            kl=SimpleNamespace(value=kl),
        )
        return SimpleNamespace(
            is_pass=True, pass_key=str(number), learned=learned, seconds=2.0 if learned else 1.0,
            measurement=found, exits={loss: np.log([[energy, kl]]) for loss in LOSSES},
        )  # fmt: skip

    roots = [known(n, learned=False, energy=0.1, kl=0.05) for n in range(3)]
    learned = [known(3 + n, learned=True, energy=0.1 - 0.01 * n, kl=0.045) for n in range(3)]
    after = [known(6 + n, learned=False, energy=0.2, kl=0.1) for n in range(6)]
    limits = Limits(0.0)
    rate, unknown = gains_per_second(roots, limits)
    assert unknown is None
    assert rate is not None
    assert rate > 0
    root, learns = gains_per_second([*roots, *learned, *after], limits)
    assert root == 0
    assert learns is not None
    assert learns > 0


def test_places_that_are_none() -> None:
    with pytest.raises(StudyError, match="artifacts must be in a folder, s3:// or gs://, got"):
        open_states("ftp://host/place")


def test_prefixes_of_buckets() -> None:
    from search.learning._states import ArtifactStates, _Prefixed

    class Bucket:
        def __init__(self) -> None:
            self.files: dict[str, bytes] = {}

        def open_reader(self, name: str) -> io.BytesIO:
            return io.BytesIO(self.files[name])

        def write(self, name: str, body: io.BytesIO) -> None:
            self.files[name] = body.read()

        def remove(self, name: str) -> None:
            del self.files[name]

    bucket = Bucket()
    states = ArtifactStates(_Prefixed(bucket, "team/digits"), "s3://bucket/team/digits")
    states.put("k", b"data")
    assert list(bucket.files) == ["team/digits/k.safetensors"]
    assert states.get("k") == b"data"
    states.remove("k")
    assert not bucket.files


def test_what_is_needed_by_hand() -> None:
    """0 <- 1 <- 2 on the front, 3 beaten; a running trial goes on from 4; ten more are recent."""

    def trial(
        number: int, accuracy: float, energy: float, parent: int | None
    ) -> optuna.trial.FrozenTrial:
        record = TrialRecord(
            measurement={"accuracy": {"value": accuracy}, "energy_ratio": energy,
                         "kl": {"value": 1 - accuracy}},
            goes_on_from=parent, state=f"s{number}",
        )  # fmt: skip
        made = create_trial(values=[accuracy, energy], user_attrs=record.attrs())
        made.number = number
        return made

    every = [
        trial(0, 0.5, 0.9, None), trial(1, 0.6, 0.8, 0), trial(2, 0.9, 0.1, 1),
        trial(3, 0.7, 0.5, None), trial(4, 0.7, 0.5, None),
        *(trial(n, 0.1, 0.99, None) for n in range(5, 15)),
    ]  # fmt: skip
    running = create_trial(state=TrialState.RUNNING, user_attrs={"goes_on_from": 4})
    running.number = 15
    assert needless_states([*every, running]) == {"s3", "s5", "s6"}
    waiting = create_trial(state=TrialState.WAITING, user_attrs={"goes_on_from": 3})
    waiting.number = 16
    assert needless_states([*every, running, waiting]) == {"s5", "s6"}
    assert needless_states([running]) == set()


def learn_with_others(url: str, artifacts: Path) -> None:
    """A worker as on another machine: all it shares is the storage and the artifacts."""
    torch.set_num_threads(1)
    work(url, Evaluator(made_small_task(), states=open_states(artifacts)), 60, {}, "additive")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["journal", "postgresql"])
def test_killed_workers_that_learn(folder: Path, tmp_path: Path, where: str) -> None:
    """Nothing is lost, no state is half written, and every trial gives again what it gave."""
    url, server = str(tmp_path / "study.journal"), None
    if where == "postgresql":
        pytest.importorskip("psycopg")
        server = PostgreSQL(folder)
        server.start()
        url = server.url
    spawn = multiprocessing.get_context("spawn")  # autograd does not survive a fork

    def start_one() -> BaseProcess:
        process = spawn.Process(
            target=learn_with_others, args=(url, tmp_path / "artifacts"), daemon=True
        )
        process.start()
        return process

    try:
        states = open_states(tmp_path / "artifacts")
        evaluator = Evaluator(made_small_task(), states=states)
        setup = StudySetup.of(evaluator, space_of(evaluator))
        study = open_study(open_storage(url), "s", setup)
        kills = killed_again_and_again(start_one, study, 60, workers=3, every=3)
        assert kills >= 2, "a busy machine starts processes slowly"
        check_whole(study, 60, workers=3)
        learned = [t for t in passes(study) if TrialRecord.of(t).state]
        assert len(learned) > 10
        names = {path.stem for path in (tmp_path / "artifacts").glob("*.safetensors")}
        kept = [t for t in learned if TrialRecord.of(t).state in names]
        assert kept
        for trial in kept[-6:]:
            choice = choice_of(setup.space, trial)
            assert learned_again(evaluator, choice) == 0
            assert evaluator.measure(choice) == measurement_of(trial)
    finally:
        if server is not None:
            server.stop()
