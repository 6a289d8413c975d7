"""Trials per second that each storage sustains, when measuring itself costs nothing.

Workers as ``spikefront worker`` runs them (real ask, signs of life, tell), random proposals, 44
parameters, an evaluator that answers at once and has no further exits. PostgreSQL, MariaDB and
Redis are started on loopback, and must be installed.
``python -m benchmarks.storages [--workers 1,8,32,64] [--seconds 15] [--json]``
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.console import Console
from rich.table import Table

from conversion import Choice
from evaluators import Evaluator, Measurement, digits
from search import (
    StudySetup,
    load_study,
    make_sampler,
    open_storage,
    open_study,
    passes,
    run_worker,
)
from spaces import LayerSpace
from tests.search.servers import MariaDB, PostgreSQL, Process, Proxy, Redis

FORK = multiprocessing.get_context("fork")
KINDS = ("journal", "sqlite", "postgresql", "mysql", "redis", "grpc+sqlite", "grpc+postgresql")
EVALUATION, SLOWED = 10.0, 0.1


class Instant(Evaluator):
    """Answers at once."""

    def __init__(self, evaluator: Evaluator, answer: Measurement) -> None:
        super().__init__(evaluator.task)
        self._answer = answer

    def measure(self, choice: Choice, split: str = "search") -> Measurement:
        return self._answer


def work(url: str, evaluator: Evaluator) -> None:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("spikefront").setLevel(logging.ERROR)
    space = LayerSpace(layers=evaluator.layers)
    study = load_study(open_storage(url), "s")

    def sampler(number: int) -> optuna.samplers.BaseSampler:
        return make_sampler("random", seed=number, profile=evaluator.profile, space=space)

    run_worker(study, space, evaluator, trials=10**9, sampler=sampler)


@contextmanager
def storage(kind: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        servers: list[PostgreSQL | Process] = []

        def serve(server: PostgreSQL | Process) -> str:
            server.start()
            servers.append(server)
            return server.url

        def place(kind: str) -> str:
            if kind.startswith("grpc+"):
                return serve(Proxy(folder, place(kind.removeprefix("grpc+"))))
            plain = {"journal": f"{folder}/s.journal", "sqlite": f"sqlite:///{folder}/s.db"}
            started = {"postgresql": PostgreSQL, "mysql": MariaDB, "redis": Redis}
            return plain[kind] if kind in plain else serve(started[kind](folder))

        try:
            yield place(kind)
        finally:
            for server in reversed(servers):
                server.stop()


def finished(study: optuna.Study) -> tuple[float, int]:
    return time.monotonic(), len(passes(study))


def rate(kind: str, evaluator: Instant, workers: int, seconds: float) -> float:
    """Trials per second once every worker is at work."""
    with storage(kind) as url:
        space = LayerSpace(layers=evaluator.layers)
        study = open_study(open_storage(url), "s", StudySetup.of(evaluator, space))
        team: list[BaseProcess] = [
            FORK.Process(target=work, args=(url, evaluator), daemon=True) for _ in range(workers)
        ]
        for process in team:
            process.start()
        end = time.monotonic() + 60
        while finished(study)[1] < workers and time.monotonic() < end:
            time.sleep(0.2)
        start, before = finished(study)
        time.sleep(seconds)
        stop, after = finished(study)
        for process in team:
            process.kill()
            process.join()
    return (after - before) / (stop - start)


def slowing(teams: list[int], rates: list[float]) -> float:
    """How many workers cost each other SLOWED × EVALUATION seconds of CPU a trial.

    All cores are busy here, with workers and server alike: cores / rate is what a trial costs them
    together. On a cluster each worker brings cores of its own, and it is less. Between the measured
    teams by straight lines of logarithms; infinite beyond the largest.
    """
    costs = np.log([(os.cpu_count() or 1) / rate for rate in rates])
    limit = math.log(SLOWED * EVALUATION)
    if costs[-1] < limit:
        return math.inf
    return float(np.exp(np.interp(limit, costs, np.log(teams))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,8,32,64")
    parser.add_argument("--storages", default=",".join(KINDS))
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    real = Evaluator(digits())
    space = LayerSpace(layers=real.layers)
    answer = real.measure(space.choice(space.baselines()[0]))
    evaluator = Instant(real, replace(answer, exit_curve=((1, 1.0, 0.0, 1.0, 9.0),)))
    teams = [int(count) for count in options.workers.split(",")]
    logging.getLogger("spikefront").setLevel(logging.ERROR)
    table = Table(title=f"trials per second, {len(space.distributions())} parameters")
    for column in ("storage", *(f"{team} workers" for team in teams), "ms a trial, alone"):
        table.add_column(column, justify="right")
    table.add_column(f"workers that slow {EVALUATION:g} s by {SLOWED:.0%}", justify="right")
    found: dict[str, Any] = {}
    for kind in options.storages.split(","):
        rates = [rate(kind, evaluator, team, options.seconds) for team in teams]
        most = slowing(teams, rates)
        per_second = dict(zip(teams, rates, strict=True))
        found[kind] = {"per_second": per_second, "workers": most if most < math.inf else None}
        shown = [f"{r:.1f}" for r in rates]
        table.add_row(
            kind,
            *shown,
            f"{1000 / rates[0]:.0f}",
            f"{most:.0f}" if most < math.inf else f"> {teams[-1]}",
        )
        print(kind, *shown, flush=True)
    Console(width=140).print(table)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
