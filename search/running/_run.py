"""Running a study from its first trial to its last: alone, with processes, or as one of many."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from conversion import ConfigError
from evaluators import Evaluator
from search._interrupts import Interrupts
from search._study import study_setup
from search.learning import ArtifactStates
from search.running._coordinator import Coordinator, OnTrial, Worker
from search.running._measure import Gpus, MakeEvaluator
from search.running._pool import DaskCluster, Processes
from search.running._queue import enqueue_baselines
from search.storage import hold
from spaces import LayerSpace


def run_study(
    study: optuna.Study,
    space: LayerSpace,
    make_evaluator: MakeEvaluator,
    *,
    trials: int,
    workers: int = 1,
    dask: str | None = None,
    folder: Path,
    pareto_dp: Sequence[Mapping[str, Any]] = (),
    ann_accuracy: float | None = None,
    device: str = "cpu",
    timeout: float | None = None,
    on_trial: OnTrial | None = None,
    states: ArtifactStates | None = None,
    beat: float = 5.0,
    grace: float = 30.0,
) -> None:
    """Search until ``trials`` trials of the study were run, across all processes.

    The baselines come first: uniform settings, the paper's, learned ones. Exits of a pass that
    enlarge the front of accuracy or divergence against energy become trials of their own, which
    cost nothing and do not count; a process killed while it writes them loses some. A trial that
    raises is marked as failed, with its reason, and the study goes on; Ctrl-C and SIGTERM give the
    running trials back to the study. What kills the process that measures it runs again, alone;
    the third time it is left out.

    Args:
        study: From :func:`search.open_study`.
        space: Its search space.
        make_evaluator: Called once in each process that measures.
        trials: Trials to run, those that the study has included.
        workers: Processes; 1 measures in this one, 0 in none: it is left to :func:`run_worker`.
        dask: Address of a Dask scheduler whose workers measure instead of such processes.
        folder: Held by one searching process at a time; trials that an earlier holder left
            running when it was killed run again.
        pareto_dp: Parameters of the paper's search, to be baselines too.
        ann_accuracy: Of the search split; needed where the study has a limit on lost accuracy.
        device: A torch device; ``"cuda"`` gives each of several processes a GPU of its own.
        timeout: Seconds that a trial may take. Default: an hour, or ten times the longest so far.
        on_trial: Told of every trial.
        states: Where the evaluators keep what they learn; what no point of the front descends
            from is removed.
        beat: Seconds between the signs of life that it gives to others on the same study.
        grace: Seconds after which a trial of another process that gives none is lost.

    Raises:
        StudyError: Another process holds the folder, or trial after trial fails.
        ConfigError: Lost accuracy is limited, and the ANN's accuracy is not given.
        KeyboardInterrupt: It was stopped.
    """
    if study_setup(study).budget.max_accuracy_drop is not None and ann_accuracy is None:
        raise ConfigError("a limit on lost accuracy needs ann_accuracy")
    interrupts = Interrupts()
    owner = f"{platform.node()}:{folder.resolve()}"
    with hold(folder), interrupts.caught():
        coordinator = Coordinator(
            study,
            space,
            owner,
            trials=trials,
            timeout=timeout,
            on_trial=on_trial,
            interrupts=interrupts,
            ann_accuracy=ann_accuracy,
            states=states,
            beat=beat,
            grace=grace,
        )
        coordinator.take_back("its process was killed", died=True)
        runs = workers > 0 or dask is not None
        by = owner if runs else None
        enqueue_baselines(study, space, "uniform", space.baselines(), by)
        enqueue_baselines(study, space, "pareto_dp", pareto_dp, by)
        enqueue_baselines(study, space, "learned", space.learned_baselines(), by, continued=True)
        if dask is None and workers == 1:
            coordinator.run_here(make_evaluator())
        elif dask is not None or workers > 1:
            coordinator.run_in_processes(
                DaskCluster(make_evaluator, dask)
                if dask is not None
                else Processes(make_evaluator, workers, Gpus.of(device, workers, folder))
            )


def run_worker(
    study: optuna.Study,
    space: LayerSpace,
    evaluator: Evaluator,
    *,
    trials: int | None = None,
    sampler: Callable[[int], BaseSampler] | None = None,
    ann_accuracy: float | None = None,
    timeout: float | None = None,
    on_trial: OnTrial | None = None,
    states: ArtifactStates | None = None,
    beat: float = 5.0,
    grace: float = 30.0,
) -> None:
    """Take part in a study that other processes, on other machines perhaps, work on too.

    Every worker asks, measures and tells by itself; all they share is the storage. A trial whose
    worker gave no sign of life for ``grace`` seconds is failed by one of the others and its
    parameters run again; where that happens three times to the same parameters they are left out.
    Trials that a loop of the user's own runs in the same study give no signs of life.

    Args:
        study: From :func:`search.load_study`, or :func:`search.open_study`.
        space: Its search space.
        evaluator: Of the study's task; see :func:`search.check_evaluator`.
        trials: Trials to run in the study. Default: those of its :class:`search.Plan`.
        sampler: Makes the sampler from a number that no other worker of the study has. Default:
            the study's, whose seed is then the caller's to choose.
        ann_accuracy: As of :func:`run_study`.
        timeout: Seconds that a trial may take. Default: an hour, or ten times the longest so far.
        on_trial: Told of every trial of this worker.
        states: As of :func:`run_study`.
        beat: Seconds between signs of life.
        grace: Seconds without one after which a trial is lost.

    Raises:
        StudyError: Trial after trial fails.
        KeyboardInterrupt: It was stopped; its running trial waits to be run again.
    """
    interrupts = Interrupts()
    owner = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    with interrupts.caught():
        worker = Worker(
            study,
            space,
            owner,
            trials=trials,
            timeout=timeout,
            on_trial=on_trial,
            interrupts=interrupts,
            ann_accuracy=ann_accuracy,
            states=states,
            beat=beat,
            grace=grace,
        )
        worker.make_sampler = sampler
        worker.run_here(evaluator)
