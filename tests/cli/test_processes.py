"""Searches that are killed or stopped, and workers on one storage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from search import Plan, load_study, open_storage, passes, set_plan
from spikefront.loading import artifacts_of
from tests.cli.conftest import SMALL
from tests.conftest import ROOT, CommandLine


def count_finished(journal: Path) -> int:
    if not journal.exists():
        return 0
    # state 1 is COMPLETE in Optuna's journal; reading it so does not touch the file
    return sum(
        b'"op_code":6' in line and b'"state":1' in line
        for line in journal.read_bytes().splitlines()
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_search_loses_nothing(tmp_path: Path, small: str, workers: int) -> None:
    command = [
        sys.executable, "-m", "spikefront", "search", "--task", small, "--trials", "60",
        "--workers", str(workers),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    journal = tmp_path / "spikefront-out" / "study.journal"
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while count_finished(journal) < 15 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {t.number: t.values for t in passes(load_study(open_storage(journal), "small"))}
    assert 15 <= len(before) < 60
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    study = load_study(open_storage(journal), "small")
    after = {t.number: t.values for t in passes(study)}
    assert len(after) == 60
    assert {number: after[number] for number in before} == before
    assert "RUNNING" not in {t.state.name for t in study.trials}
    assert [t.number for t in study.trials] == list(range(len(study.trials)))
    baselines = [t for t in passes(study) if t.user_attrs.get("baseline")]
    kinds = [t.user_attrs["baseline"] for t in baselines]
    assert kinds.count("uniform") == 8, "a baseline that was running when killed ran again"


@pytest.mark.slow
def test_ctrl_c_ends_cleanly(tmp_path: Path, small: str) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "spikefront",
            "search",
            "--task",
            small,
            "--trials",
            "9999",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = tmp_path / "spikefront-out" / "study.journal"
    deadline = time.monotonic() + 120
    while count_finished(journal) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = errors.strip().splitlines()
    assert lines[-1] == "stopped; the same command resumes"
    assert any(" of 9999 trials" in line and "on the front" in line for line in lines), "a log"
    study = load_study(open_storage(journal), "small")
    assert "RUNNING" not in {t.state.name for t in study.trials}


def test_workers_take_part_by_the_storage_alone(
    spikefront: CommandLine, small: str, tmp_path: Path
) -> None:
    store = ["--storage", f"sqlite:///{tmp_path / 's.db'}"]
    made = ["search", "--task", small, *store, "--trials", 20, "--timesteps", "1,4"]
    assert "there is no storage" in spikefront("worker", *store, check=False).stderr
    assert not (tmp_path / "s.db").exists()
    printed = spikefront(*made, "--workers", 0).stdout
    assert f"spikefront worker {store[0]} {store[1]} --study small --task {small}" in printed
    waiting = json.loads(spikefront("status", *store, "--json").stdout)
    assert (waiting["run"], waiting["planned"], waiting["workers"]) == (0, 20, [])
    assert "made with code of your own" in spikefront("worker", *store, check=False).stderr

    command = [sys.executable, "-m", "spikefront", "worker", "--task", small, *store]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    team = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    done = [process.communicate(timeout=300)[0] for process in team]
    assert [process.returncode for process in team] == [0, 0]
    run = sum(int(line.split()[0]) for line in done)
    study = load_study(open_storage(store[1]), "small")
    assert run == len(passes(study)) in (20, 21)
    kinds = [t.user_attrs.get("baseline") for t in passes(study)]
    assert kinds.count("uniform") == 8
    assert {t.state.name for t in study.trials} == {"COMPLETE"}
    shown = spikefront("status", *store).stdout
    assert f"small: {run} of 20 trials run" in shown
    assert "of 20 trials" in spikefront("status", *store, "--watch").stdout
    assert spikefront("report", *store, "--task", small, "--no-test").returncode == 0

    spikefront(*made[:-4], "--trials", 22, "--timesteps", "1,4", "--workers", 0)
    more = spikefront("worker", "--task", small, *store).stdout
    assert more == f"{22 - run} trials by this worker; the study has run 22\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("torch.manual_seed(0)", "torch.manual_seed(1)"), "another model"),
        (("(0, 60, 120)", "(60, 0, 120)"), "another calibration data"),
        (("y[i:i + 60]", "y[i:i + 60].flip(0)"), "another search split"),
    ],
)
def test_a_worker_with_something_else_refuses(
    spikefront: CommandLine, small: str, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    store = ["--storage", f"sqlite:///{tmp_path / 's.db'}"]
    spikefront("search", "--task", small, *store, "--workers", 0, "--no-paper")
    (tmp_path / "small.py").write_text(SMALL.replace(*change))
    refused = spikefront("worker", "--task", small, *store, check=False)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert not passes(load_study(open_storage(store[1]), "small"))


def test_passwords_are_not_printed(
    spikefront: CommandLine, small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKEFRONT_STORAGE", "postgresql+psycopg://me:secret@127.0.0.1:9/db")
    for arguments in (("search", "--task", small, "--workers", 0), ("worker",), ("status",)):
        refused = spikefront(*arguments, check=False)
        assert refused.returncode == 1
        assert (
            "cannot open the storage postgresql+psycopg://me:***@127.0.0.1:9/db" in refused.stderr
        )
        assert "secret" not in refused.stdout + refused.stderr


def test_a_worker_of_another_version_refuses(
    spikefront: CommandLine, small: str, tmp_path: Path
) -> None:
    store = ["--storage", f"sqlite:///{tmp_path / 's.db'}"]
    spikefront("search", "--task", small, *store, "--workers", 0, "--no-paper")
    study = load_study(open_storage(store[1]), "small")
    setup = {**study.user_attrs["spikefront"], "version": "0.0.1"}
    study.set_user_attr("spikefront", setup)
    refused = spikefront("worker", "--task", small, *store, check=False)
    assert "another version of spikefront: '0.0.1' there" in refused.stderr


def test_artifacts_that_moved_with_their_study_are_found(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    study = optuna.create_study()
    assert artifacts_of(study, None, here) is None
    set_plan(study, Plan(trials=1, artifacts=str(there / "artifacts")))
    assert artifacts_of(study, None, here) == str(there / "artifacts")
    (here / "artifacts").mkdir(parents=True)
    assert artifacts_of(study, None, here) == str(here / "artifacts")
    assert artifacts_of(study, "s3://bucket", here) == "s3://bucket"
    (there / "artifacts").mkdir(parents=True)
    assert artifacts_of(study, None, here) == str(there / "artifacts")
