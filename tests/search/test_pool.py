"""Worker processes of one search: joblib's, and those of a Dask cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib
import optuna
import pytest
import torch
from optuna.trial import TrialState

from conversion import Choice, ConfigError
from evaluators import Evaluator, Measurement, Task
from search import (
    StudyError,
    StudySetup,
    finished,
    measurement_of,
    open_storage,
    open_study,
    passes,
    reason_of,
    run_study,
)
from search.running._measure import Gpus
from search.running._pool import DaskCluster
from spaces import LayerSpace
from tests.conftest import ROOT

TRIALS = 14


def searched(task: Task, folder: Path, **options: object) -> optuna.Study:
    """A study with proposals that do not depend on what is measured."""
    evaluator = Evaluator(task)
    space = LayerSpace(layers=evaluator.layers, timesteps=(1, 2))
    study = open_study(
        open_storage(folder / "s.journal"),
        "s",
        StudySetup.of(evaluator, space),
        optuna.samplers.RandomSampler(seed=3),
    )
    make = options.pop("make", lambda: Evaluator(task))
    run_study(study, space, make, trials=TRIALS, folder=folder, **options)
    return study


def found(study: optuna.Study) -> list[tuple[str, float, float]]:
    return sorted(
        (str(sorted(t.params.items())), m.accuracy.value, round(m.energy_pj.value, 3))
        for t in passes(study)
        for m in [measurement_of(t)]
    )


def deadly(task: Task) -> tuple[LayerSpace, Callable[[], Evaluator]]:
    """Evaluators that the third baseline kills."""
    space = LayerSpace(layers=Evaluator(task).layers, timesteps=(1, 2))
    poison = space.choice(space.baselines()[2])

    def make() -> Evaluator:
        evaluator = Evaluator(task)
        measure = evaluator.measure

        def measured(choice: Choice, split: str = "search") -> Measurement:
            if choice == poison:
                os.kill(os.getpid(), signal.SIGKILL)
            return measure(choice, split)

        evaluator.measure = measured  # type: ignore[method-assign]
        return evaluator

    return space, make


@pytest.mark.slow
def test_what_kills_its_process_runs_alone_and_is_left_out(
    small_task: Task, tmp_path: Path
) -> None:
    space, make = deadly(small_task)
    study = searched(small_task, tmp_path, workers=2, make=make)
    every = study.get_trials(deepcopy=False)
    assert len(passes(study)) == TRIALS
    assert not any(t.state in (TrialState.RUNNING, TrialState.WAITING) for t in every)
    deaths = [t for t in every if t.system_attrs.get("fixed_params") == space.baselines()[2]]
    assert [reason_of(t) for t in deaths] == ["its worker died"] * 2 + [
        "its worker died, 3 of 3 times"
    ]
    others = [t for t in every if t.state is TrialState.FAIL and t not in deaths]
    assert len(others) <= 2, "those that ran beside it, or had finished but not told"
    assert not any("retry_of" in t.user_attrs for t in others), "alone, it harmed no other"
    done = [t.params for t in passes(study)]
    assert all(params in done for i, params in enumerate(space.baselines()) if i != 2)


def gpu_of_this_process(gpus: Gpus, folder: Path, others: int) -> str:
    lock = gpus.take()
    assert lock is not None
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < others and time.monotonic() < end:
        time.sleep(0.1)  # hold it until the others have started
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_each_process_sees_a_gpu_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert Gpus.of("cpu", 3, tmp_path) is None
    assert Gpus.of("cuda:1", 3, tmp_path) is None
    gpus = Gpus.of("cuda", 3, tmp_path)
    assert gpus is not None
    (tmp_path / "taken").mkdir()
    jobs = [joblib.delayed(gpu_of_this_process)(gpus, tmp_path / "taken", 3) for _ in range(3)]
    seen = joblib.Parallel(n_jobs=3, batch_size=1)(jobs)
    assert sorted(seen) == ["3", "3", "5"], "three processes share two"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_the_cores_are_divided_among_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    workers = joblib.cpu_count()  # as many processes as cores: one thread each
    jobs = [joblib.delayed(torch.get_num_threads)() for _ in range(workers)]
    with joblib.parallel_config("loky"):
        threads = joblib.Parallel(n_jobs=max(2, workers))(jobs)
    assert set(threads) == {1}


@pytest.fixture
def cluster() -> Iterator[tuple[str, list[int]]]:
    """The address of a Dask scheduler of 4 processes, and their numbers."""
    pytest.importorskip("distributed")
    script = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, *(w.pid for w in cluster.workers.values()), flush=True)
        sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    address, *pids = process.stdout.readline().split()
    yield address, [int(pid) for pid in pids]
    assert process.stdin is not None
    process.stdin.close()
    process.wait(60)


@pytest.mark.slow
def test_a_dask_cluster_finishes_the_same_study(
    small_task: Task, tmp_path: Path, cluster: tuple[str, list[int]]
) -> None:
    address, pids = cluster
    here = searched(small_task, tmp_path / "joblib", workers=2)
    there = searched(small_task, tmp_path / "dask", dask=address)
    assert found(there) == found(here)
    kills: list[int] = []

    def kill_one(study: optuna.Study, count: int, reason: str | None) -> None:
        if not kills:
            kills.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    again = searched(small_task, tmp_path / "killed", dask=address, on_trial=kill_one)
    assert kills
    assert found(again) == found(here)
    assert {t.state for t in again.trials} == {TrialState.COMPLETE}
    assert len(finished(again)) >= TRIALS


@pytest.mark.slow
def test_dask_workers_that_die_of_a_trial_or_take_too_long(
    small_task: Task, tmp_path: Path, cluster: tuple[str, list[int]]
) -> None:
    space, make = deadly(small_task)
    study = searched(small_task, tmp_path / "deadly", dask=cluster[0], make=make)
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    assert failed.params == space.baselines()[2]
    assert (reason_of(failed) or "").startswith("its workers died: Attempted to run task")
    assert len(passes(study)) == TRIALS

    def slow() -> Evaluator:
        evaluator = Evaluator(small_task)
        measure, poison = evaluator.measure, space.choice(space.baselines()[2])

        def measured(choice: Choice, split: str = "search") -> Measurement:
            while choice == poison:
                time.sleep(0.1)
            return measure(choice, split)

        evaluator.measure = measured  # type: ignore[method-assign]
        return evaluator

    study = searched(small_task, tmp_path / "slow", dask=cluster[0], make=slow, timeout=5.0)
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    assert reason_of(failed) == "took longer than 5 s; --timeout allows more"
    assert len(passes(study)) == TRIALS


@pytest.mark.slow
def test_a_search_of_several_processes_stops_cleanly(small_task: Task, tmp_path: Path) -> None:
    def stop(study: optuna.Study, count: int, reason: str | None) -> None:
        if count == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        searched(small_task, tmp_path, workers=3, on_trial=stop)
    every = optuna.load_study(
        study_name="s", storage=open_storage(tmp_path / "s.journal")
    ).get_trials()
    assert not [t for t in every if t.state is TrialState.RUNNING]
    assert not [t for t in every if "suspect" in t.user_attrs]
    study = searched(small_task, tmp_path, workers=2)
    assert len(passes(study)) == TRIALS


def test_a_dask_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("search.running._pool._SECONDS_TO_ANSWER", 1)
    with pytest.raises(StudyError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        DaskCluster(lambda: None, "tcp://127.0.0.1:9")  # type: ignore[arg-type, return-value]
    with pytest.raises(StudyError, match=r"there is no scheduler file none\.json"):
        DaskCluster(lambda: None, "none.json")  # type: ignore[arg-type, return-value]
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r'--dask needs: pip install "spikefront\[cluster\]"'):
        DaskCluster(lambda: None, "tcp://127.0.0.1:9")  # type: ignore[arg-type, return-value]
