"""What a second worker gains on ``digits``, one thread each.

``python -m benchmarks.workers [--trials 80] [--repeats 3] [--json]``

The same random proposals, without learned thresholds, measured by one process and by two: joblib's,
and two that share nothing but a journal. Beside it what two processes reach that evaluate without
any study, which is all that these cores can give.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

import optuna
import torch

from evaluators import Evaluator, digits
from search import (
    StudySetup,
    load_study,
    open_storage,
    open_study,
    passes,
    run_study,
    run_worker,
)
from spaces import LayerSpace

FORK = multiprocessing.get_context("fork")


def made() -> Evaluator:
    torch.set_num_threads(1)
    evaluator = Evaluator(digits())
    _ = evaluator.profile
    return evaluator


def space_of(evaluator: Evaluator) -> LayerSpace:
    return LayerSpace(layers=evaluator.layers, calibrations=("light", "advanced", "none"))


def study_of(evaluator: Evaluator, folder: Path) -> optuna.Study:
    setup = StudySetup.of(evaluator, space_of(evaluator))
    return open_study(open_storage(folder / "s.journal"), "s", setup)


def rate(study: optuna.Study) -> float:
    """Trials per second, from the end of the first to the end of the last."""
    ends: list[datetime] = sorted(t.datetime_complete for t in passes(study) if t.datetime_complete)
    return (len(ends) - 1) / (ends[-1] - ends[0]).total_seconds()


def by_joblib(evaluator: Evaluator, workers: int, trials: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = study_of(evaluator, folder)
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        make: Callable[[], Evaluator] = (lambda: evaluator) if workers == 1 else made
        space = space_of(evaluator)
        run_study(study, space, make, trials=trials, workers=workers, folder=folder)
        return rate(study)


def take_part(folder: Path, evaluator: Evaluator, trials: int, ready: Barrier) -> None:
    torch.set_num_threads(1)
    study = load_study(open_storage(folder / "s.journal"), "s")
    ready.wait()
    run_worker(
        study,
        space_of(evaluator),
        evaluator,
        trials=trials,
        sampler=lambda number: optuna.samplers.RandomSampler(seed=number),
    )


def by_storage(evaluator: Evaluator, workers: int, trials: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        study = study_of(evaluator, Path(name))
        ready = FORK.Barrier(workers)
        team = [
            FORK.Process(target=take_part, args=(Path(name), evaluator, trials, ready))
            for _ in range(workers)
        ]
        for process in team:
            process.start()
        for process in team:
            process.join()
        return rate(study)


def evaluate(evaluator: Evaluator, seed: int, trials: int, ready: Barrier) -> None:
    torch.set_num_threads(1)
    space = space_of(evaluator)
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=seed)
    )
    choices = [space.suggest(study.ask()) for _ in range(trials)]
    ready.wait()
    for choice in choices:
        evaluator.measure(choice)


def without_a_study(evaluator: Evaluator, workers: int, trials: int) -> float:
    ready = FORK.Barrier(workers + 1)
    team = [
        FORK.Process(target=evaluate, args=(evaluator, worker, trials // workers, ready))
        for worker in range(workers)
    ]
    for process in team:
        process.start()
    ready.wait()
    start = time.perf_counter()
    for process in team:
        process.join()
    return trials / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of joblib's processes
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    evaluator = made()
    found = {}
    for how in (without_a_study, by_joblib, by_storage):
        ratios = []
        for _ in range(options.repeats):  # one after the other: the machine's noise meets both
            one, two = (how(evaluator, workers, options.trials) for workers in (1, 2))
            ratios.append(two / one)
            print(
                f"{how.__name__}: {one:.2f} and {two:.2f} a second, x {two / one:.2f}", flush=True
            )
        found[how.__name__] = median(ratios)
    print(json.dumps(found) if options.json else found)


if __name__ == "__main__":
    main()
