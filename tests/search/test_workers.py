"""Several processes on one study, killed with real signals, on real storages."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from conversion import Choice
from evaluators import Evaluator, Measurement, Task
from search import (
    StudySetup,
    exit_of,
    load_study,
    make_sampler,
    open_storage,
    open_study,
    passes,
    run_worker,
)
from search._lease import BEATS, Leases
from spaces import LayerSpace

FORK = multiprocessing.get_context("fork")  # a worker that imports torch anew takes seconds


class Instant(Evaluator):
    """Gives the same measurement after a while."""

    def __init__(self, evaluator: Evaluator, answer: Measurement, seconds: float) -> None:
        super().__init__(evaluator.task)
        self.answer, self.seconds = answer, seconds

    def measure(self, choice: Choice, split: str = "search") -> Measurement:
        time.sleep(self.seconds)
        return self.answer


@pytest.fixture
def instant(small_task: Task) -> Instant:
    evaluator = Evaluator(small_task)
    space = LayerSpace(layers=evaluator.layers)
    answer = evaluator.measure(space.choice(space.baselines()[0]))
    return Instant(evaluator, answer, 0.2)


def work(url: str, evaluator: Instant, trials: int, seed: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = LayerSpace(layers=evaluator.layers)
    study = load_study(open_storage(url), "s")
    study.sampler = make_sampler("random", seed=seed, profile=evaluator.profile, space=space)
    run_worker(study, space, evaluator, trials=trials, beat=0.5, grace=5.0)


def made(url: str, evaluator: Evaluator) -> optuna.Study:
    space = LayerSpace(layers=evaluator.layers)
    return open_study(open_storage(url), "s", StudySetup.of(evaluator, space))


def started(url: str, evaluator: Instant, trials: int) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=work, args=(url, evaluator, trials, random.randrange(2**31)))
    process.start()
    return process


def killed_again_and_again(
    url: str, evaluator: Instant, *, workers: int, trials: int, seconds: float, every: float
) -> int:
    """Work on a study while one worker after the other is killed and replaced."""
    team = [started(url, evaluator, trials) for _ in range(workers)]
    kills, end, random_one = 0, time.monotonic() + seconds, random.Random(0)
    while time.monotonic() < end:
        time.sleep(every)
        chosen = random_one.randrange(workers)
        if team[chosen].is_alive():
            os.kill(team[chosen].pid, signal.SIGKILL)
            kills += 1
        team[chosen].join()
        team[chosen] = started(url, evaluator, trials)
    for process in team:
        process.join(300)
        assert process.exitcode == 0
    return kills


def check_whole(study: optuna.Study, trials: int, workers: int = 1) -> None:
    every = study.get_trials(deepcopy=False)
    assert [t.number for t in every] == list(range(len(every)))
    waiting = [t for t in every if t.state is TrialState.WAITING]
    assert {t.state for t in every} <= {TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING}
    assert all("retry_of" in t.user_attrs for t in waiting), "lost when the study was done"
    own = passes(study)
    assert trials <= len(own) < trials + workers, "the last ones may start at the same time"
    again = [t.user_attrs["retry_of"] for t in every if "retry_of" in t.user_attrs]
    assert len(again) == len(set(again)), "nothing runs again twice"
    for number in again:
        assert every[number].state is TrialState.FAIL
    lost = [t for t in every if t.state is TrialState.FAIL]
    assert all("its worker was lost" in t.user_attrs["reason"] for t in lost)
    assert all(exit_of(t) in {p.number for p in own} for t in every if exit_of(t) is not None)


@pytest.fixture
def postgresql() -> Iterator[Server]:
    """A server of this test's own, on loopback."""
    pytest.importorskip("psycopg")
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), shutil.which("initdb")]
    programs = [Path(path).parent for path in found if path]
    if not programs:
        pytest.skip("PostgreSQL is not installed")
    # The tests' own folder may be closed to another user, as who the server must run.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        server = Server(programs[0], Path(folder))
        server.start()
        yield server
        server.stop()


class Server:
    """PostgreSQL, which does not run as root."""

    def __init__(self, programs: Path, data: Path) -> None:
        self.programs, self.data = programs, data
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        if os.getuid() == 0:
            shutil.chown(self.data, "postgres")
        self._run("initdb", "-D", self.data, "-U", "tester", "-A", "trust", "--no-sync")

    def _run(self, program: str, *arguments: object) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        subprocess.run(
            [*user, str(self.programs / program), *map(str, arguments)],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self._run("pg_ctl", "-D", self.data, "-o", options, "-l", self.data / "log", "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")


def test_a_lease_ends_when_its_count_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    leases = Leases(grace=10)

    def running(**beats: int) -> list[optuna.trial.FrozenTrial]:
        trials = []
        for number, count in beats.items():
            trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={BEATS: count})
            trial.number = int(number[1:])
            trials.append(trial)
        return trials

    assert leases.lost(running(t1=0, t2=0)) == []
    now = 109.0
    assert leases.lost(running(t1=0, t2=1)) == []
    now = 111.0
    assert [t.number for t in leases.lost(running(t1=0, t2=1))] == [1]
    now = 118.0
    assert [t.number for t in leases.lost(running(t2=2, t3=5))] == [], "each from its own sight"
    now = 130.0
    assert [t.number for t in leases.lost(running(t2=2, t3=5))] == [2, 3]


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_killed_workers_lose_nothing_on_one_machine(
    instant: Instant, tmp_path: Path, kind: str
) -> None:
    url = {"journal": str(tmp_path / "s.journal"), "sqlite": f"sqlite:///{tmp_path / 's.db'}"}[kind]
    study = made(url, instant)
    kills = killed_again_and_again(url, instant, workers=4, trials=150, seconds=10, every=1)
    assert kills > 3
    check_whole(study, 150, workers=4)


@pytest.mark.slow
def test_killed_workers_lose_nothing_on_postgresql(postgresql: Server, instant: Instant) -> None:
    study = made(postgresql.url, instant)
    kills = killed_again_and_again(
        postgresql.url, instant, workers=8, trials=400, seconds=60, every=2
    )
    assert kills > 10
    check_whole(study, 400, workers=8)


def test_what_kills_three_workers_is_left_out(instant: Instant, tmp_path: Path) -> None:
    url = str(tmp_path / "s.journal")
    study = made(url, instant)
    study.enqueue_trial(LayerSpace(layers=instant.layers).baselines()[0])
    instant.seconds = 60
    for deaths in range(3):
        process = started(url, instant, 1)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not any(
            t.user_attrs.get("deaths", 0) == deaths and BEATS in t.user_attrs
            for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        ):
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    instant.seconds = 0.0
    process = started(url, instant, 2)
    process.join(120)
    check_whole(study, 2)
    reasons = [t.user_attrs["reason"] for t in study.get_trials(states=(TrialState.FAIL,))]
    assert reasons == [f"its worker was lost, {n} of 3 times" for n in (1, 2, 3)]
