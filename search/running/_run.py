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
    """Search until ``trials`` trials of the study have run, across all processes.

    The baselines come first: uniform settings, the paper's, learned ones. Additional exits of a
    pass that improve the front of accuracy or divergence against energy become trials of their own,
    which cost nothing and do not count; a process killed while writing them loses some. A trial
    that raises is marked as failed, with its reason, and the study continues. Ctrl-C and SIGTERM
    return the running trials to the queue. A trial that kills its process runs again, alone; after
    the third time it is skipped.

    Args:
        study: From :func:`search.open_study`.
        space: Its search space.
        make_evaluator: Makes the evaluator; called once in each measuring process.
        trials: Number of trials to run, including those already in the study.
        workers: Number of processes; 1 measures in this process, 0 leaves it to :func:`run_worker`.
        dask: Address of a Dask scheduler whose workers measure instead of local processes.
        folder: Folder that one searching process locks at a time; trials left running by a killed
            predecessor run again.
        pareto_dp: Parameters of the paper's search, as additional baselines.
        ann_accuracy: The ANN's accuracy on the search split; needed if the study limits lost
            accuracy.
        device: A torch device; with ``"cuda"`` each of several processes uses its own GPU.
        timeout: Time limit of a trial in seconds. Default: an hour, or ten times the longest so
            far.
        on_trial: Called after every trial.
        states: Store of the evaluators' learned states; those that no point of the front descends
            from are removed.
        beat: Seconds between signs of life for other processes on the same study.
        grace: Seconds without a sign of life after which another process's trial is lost.

    Raises:
        StudyError: Another process holds the folder, or too many trials in a row fail.
        ConfigError: Lost accuracy is limited but the ANN's accuracy is not given.
        KeyboardInterrupt: The search was stopped.
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
    """Take part in a study together with other processes, possibly on other machines.

    Workers ask, measure and tell independently and share only the storage. If a trial's worker
    sends no sign of life for ``grace`` seconds, another worker fails the trial and its parameters
    run again; after three such losses the parameters are skipped. Trials that your own loop runs in
    the same study send no signs of life.

    Args:
        study: From :func:`search.load_study`, or :func:`search.open_study`.
        space: Its search space.
        evaluator: Evaluator of the study's task; see :func:`search.check_evaluator`.
        trials: Number of trials to run in the study. Default: as in its :class:`search.Plan`.
        sampler: Makes the sampler from a number that is unique to this worker. Default: the study's
            own sampler, which you then have to seed differently in each worker.
        ann_accuracy: As in :func:`run_study`.
        timeout: Time limit of a trial in seconds. Default: an hour, or ten times the longest so
            far.
        on_trial: Called after every trial of this worker.
        states: As in :func:`run_study`.
        beat: Seconds between signs of life.
        grace: Seconds without a sign of life after which a trial is lost.

    Raises:
        StudyError: Too many trials in a row fail.
        KeyboardInterrupt: It was stopped; its running trial is queued again.
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
