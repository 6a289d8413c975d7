"""Several processes on one study, killed with real signals, on real storages."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from conversion import Choice
from evaluators import Evaluator, Measurement, Task
from search import StudyError, exit_of, open_storage, passes, reason_of, run_study, serve_storage
from search._trial import TrialRecord, is_double
from search.running import _measure
from search.running._lease import Leases
from search.running._queue import queue_again
from spaces import LayerSpace
from tests.search.servers import MariaDB, PostgreSQL, Proxy, Redis
from tests.search.team import FORK, Instant, check_whole, killed_again_and_again, made, started


@pytest.fixture
def instant(small_task: Task) -> Instant:
    evaluator = Evaluator(small_task)
    space = LayerSpace(layers=evaluator.layers)
    answer = evaluator.measure(space.choice(space.baselines()[0]))
    return Instant(evaluator, answer, 0.2)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def running(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def test_a_lease_ends_when_its_time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    leases = Leases(grace=10)

    def trials(**beats: float) -> list[optuna.trial.FrozenTrial]:
        found = []
        for number, beat in beats.items():
            trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={"beats": beat})
            trial.number = int(number[1:])
            found.append(trial)
        return found

    assert leases.lost(trials(t1=0, t2=0)) == []
    now = 109.0
    assert leases.lost(trials(t1=0, t2=1.5)) == []
    now = 111.0
    assert [t.number for t in leases.lost(trials(t1=0, t2=1.5))] == [1]
    now = 118.0
    assert [t.number for t in leases.lost(trials(t2=0.5, t3=5))] == [], "each from its own sight"
    now = 130.0
    assert [t.number for t in leases.lost(trials(t2=0.5, t3=5))] == [2, 3]


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_killed_workers_lose_nothing_on_one_machine(
    instant: Instant, tmp_path: Path, kind: str
) -> None:
    url = {"journal": str(tmp_path / "s.journal"), "sqlite": f"sqlite:///{tmp_path / 's.db'}"}[kind]
    study = made(url, instant)
    kills = killed_again_and_again(
        lambda: started(url, instant, 150), study, 150, workers=4, every=1
    )
    assert kills > 2
    check_whole(study, 150, workers=4)


@pytest.mark.slow
def test_postgresql_with_killed_workers_and_a_restart(folder: Path, instant: Instant) -> None:
    pytest.importorskip("psycopg")
    server = PostgreSQL(folder)
    server.start()
    instant.seconds = 0.4

    def restart() -> None:
        server.stop()
        time.sleep(8)  # longer than the grace of 5 s: nobody's trial may be taken for lost
        server.start()

    try:
        study = made(server.url, instant)
        kills = killed_again_and_again(
            lambda: started(server.url, instant, 300),
            study,
            300,
            workers=8,
            every=1.5,
            halfway=restart,
        )
        assert kills > 5
        check_whole(study, 300, workers=8)
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpc", "redis", "mysql"])
def test_servers_that_restart_under_killed_workers(
    folder: Path, instant: Instant, kind: str
) -> None:
    if kind == "mysql":
        pytest.importorskip("pymysql")
    if kind == "redis":
        pytest.importorskip("redis")
    servers = {
        "grpc": lambda: Proxy(folder, f"sqlite:///{folder / 's.db'}"),
        "redis": lambda: Redis(folder),
        "mysql": lambda: MariaDB(folder),
    }
    server = servers[kind]()
    server.start()

    def restart() -> None:
        server.stop()
        time.sleep(3)
        server.start()

    try:
        study = made(server.url, instant)
        kills = killed_again_and_again(
            lambda: started(server.url, instant, 140),
            study,
            140,
            workers=4,
            every=1,
            halfway=restart,
        )
        assert kills > 2
        check_whole(study, 140, workers=4)
    finally:
        server.stop()


def test_while_the_storage_is_away_nobody_is_taken_for_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, trouble = 100.0, float("-inf")
    monkeypatch.setattr(time, "monotonic", lambda: now)
    leases = Leases(10, lambda: trouble)
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={"beats": 1.0})
    assert leases.lost([trial]) == []
    now = trouble = 140.0
    assert leases.lost([trial]) == []
    now = 149.0
    assert leases.lost([trial]) == []
    now = 151.0
    assert leases.lost([trial]) == [trial]


def test_a_result_that_comes_too_late_is_not_taken(instant: Instant, tmp_path: Path) -> None:
    url = str(tmp_path / "s.journal")
    study = made(url, instant)
    instant.seconds = 0.0
    first = started(url, instant, 3)
    until(lambda: len(running(study)) == 1 or len(passes(study)) > 0)
    first.join()
    instant.seconds = 3.0
    slow = started(url, instant, 4, beat=60.0)  # gives no signs in time
    until(lambda: len(running(study)) == 1)
    instant.seconds = 0.0
    other = started(url, instant, 5, beat=0.1, grace=0.5)
    slow.join(60)
    other.join(60)
    assert (slow.exitcode, other.exitcode) == (0, 0)
    (lost,) = study.get_trials(states=(TrialState.FAIL,))
    assert reason_of(lost) == "its worker was lost, 1 of 3 times"
    (again,) = [t for t in passes(study) if t.user_attrs.get("retry_of") == lost.number]
    assert again.params == lost.params


def test_what_kills_three_workers_is_left_out(instant: Instant, tmp_path: Path) -> None:
    url = str(tmp_path / "s.journal")
    study = made(url, instant)
    study.enqueue_trial(LayerSpace(layers=instant.layers).baselines()[0])
    instant.seconds = 60
    for deaths in range(3):
        process = started(url, instant, 1)
        until(
            lambda deaths=deaths: any(
                t.user_attrs.get("deaths", 0) == deaths and "beats" in t.user_attrs
                for t in running(study)
            )
        )
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    instant.seconds = 0.0
    process = started(url, instant, 2)
    process.join(120)
    check_whole(study, 2)
    reasons = [t.user_attrs["reason"] for t in study.get_trials(states=(TrialState.FAIL,))]
    assert reasons == [f"its worker was lost, {n} of 3 times" for n in (1, 2, 3)]


def test_what_two_workers_bring_back_at_the_end_runs_once(instant: Instant, tmp_path: Path) -> None:
    """The study is done before the second entry's turn, which a longer one then leaves out."""
    url = str(tmp_path / "s.journal")
    study = made(url, instant)
    study.enqueue_trial(LayerSpace(layers=instant.layers).baselines()[0])
    instant.seconds = 60
    killed = started(url, instant, 1)
    until(lambda: any("beats" in t.user_attrs for t in running(study)))
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join()
    (lost,) = running(study)
    space = LayerSpace(layers=instant.layers)
    for _ in range(2):  # as two workers do who both see it at once
        assert queue_again(study, space, lost, TrialRecord(deaths=1))
    instant.seconds = 1
    started(url, instant, 1, grace=0.5).join(60)
    check_whole(study, 1)
    states = [t.state.name for t in study.get_trials(deepcopy=False) if exit_of(t) is None]
    assert states == ["FAIL", "COMPLETE", "WAITING"]
    started(url, instant, 2).join(60)
    check_whole(study, 2)
    assert is_double(study.get_trials(deepcopy=False)[2])


def test_sigterm_gives_the_trial_back_at_once(instant: Instant, tmp_path: Path) -> None:
    url = str(tmp_path / "s.journal")
    study = made(url, instant)
    instant.seconds = 60
    process = started(url, instant, 3)
    until(lambda: "beats" in next(iter(running(study))).user_attrs if running(study) else False)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(30)
    failed, waiting = study.get_trials(deepcopy=False)
    assert (failed.state, waiting.state) == (TrialState.FAIL, TrialState.WAITING)
    assert reason_of(failed) == "it was interrupted"
    assert waiting.system_attrs["fixed_params"] == failed.params


def test_a_long_evaluation_times_out(instant: Instant, tmp_path: Path) -> None:
    url = str(tmp_path / "s.journal")
    study = made(url, instant)
    study.enqueue_trial(LayerSpace(layers=instant.layers).baselines()[0])

    class Slow(Instant):
        def measure(self, choice: Choice, split: str = "search") -> Measurement:
            self.seconds, seconds = 0.0, self.seconds
            time.sleep(seconds)
            return self.answer

    process = started(url, Slow(instant, instant.answer, 60), 3, timeout=1.0)
    process.join(60)
    assert process.exitcode == 0
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    assert reason_of(failed) == "took longer than 1 s; --timeout allows more"
    assert len(passes(study)) == 3


def test_an_evaluation_that_hangs_ends_its_process(
    instant: Instant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_measure, "_WEDGED", 1.0)
    url = str(tmp_path / "s.journal")
    study = made(url, instant)

    class Hanging(Instant):
        def measure(self, choice: Choice, split: str = "search") -> Measurement:
            while True:
                try:
                    time.sleep(60)
                except _measure.TrialTimeoutError:
                    continue  # as a deadlocked library does, it never comes back

    process = started(url, Hanging(instant, instant.answer, 0), 1, timeout=1.0)
    process.join(60)
    assert process.exitcode == 1
    process = started(url, instant, 2)
    process.join(60)
    check_whole(study, 2)


def test_a_full_disk_is_waited_for(instant: Instant, tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    study = made(str(path), instant)
    instant.seconds = 0.0
    process = started(str(path), instant, 400)
    pid = process.pid or 0
    until(lambda: len(passes(study)) > 20)
    # The kernel refuses to let the file grow, in the middle of a line if need be.
    most = path.stat().st_size + 777
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    time.sleep(2)
    full = path.stat().st_size
    time.sleep(2)
    assert path.stat().st_size == full
    assert process.is_alive()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    process.join(120)
    assert process.exitcode == 0
    check_whole(study, 400)
    assert not study.get_trials(states=(TrialState.FAIL,)), "nothing was lost"


def coordinate(url: str, evaluator: Instant, folder: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = made(url, evaluator)
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    space = LayerSpace(layers=evaluator.layers)
    run_study(study, space, lambda: evaluator, trials=20, folder=folder, beat=0.5, grace=5.0)


def test_two_coordinators_do_no_harm(instant: Instant, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    study = made(url, instant)
    team = [FORK.Process(target=coordinate, args=(url, instant, tmp_path / out)) for out in "ab"]
    for process in team:
        process.start()
    for process in team:
        process.join(120)
        assert process.exitcode == 0
    done = passes(study)
    assert 20 <= len(done) <= 21
    baselines = [t.params for t in done if "baseline" in t.user_attrs]
    assert sorted(map(str, baselines)) == sorted(
        map(str, LayerSpace(layers=instant.layers).baselines())
    )
    failed = study.get_trials(states=(TrialState.FAIL,))
    assert all((reason_of(t) or "").startswith("the same as trial") for t in failed)
    assert not running(study)


def test_journals_are_not_served(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="a journal cannot be served; give a database"):
        serve_storage(str(tmp_path / "s.journal"), "127.0.0.1", 13000, 1)


def test_the_server_ends_on_sigterm_and_says_what_it_cannot_do(folder: Path) -> None:
    server = Proxy(folder, f"sqlite:///{folder / 's.db'}")
    server.start()
    with pytest.raises(StudyError, match=r"cannot listen on 127\.0\.0\.1"):
        serve_storage(f"sqlite:///{folder / 't.db'}", "127.0.0.1", server.port, 1)
    optuna.create_study(storage=open_storage(server.url)).tell(
        optuna.load_study(study_name=None, storage=open_storage(server.url)).ask(), 1.0
    )
    assert server.stop(signal.SIGTERM) == 130
