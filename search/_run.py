"""Running a study: ask, measure, tell, in this process or in several."""

from __future__ import annotations

import logging
import math
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import optuna
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from conversion import ConfigError, SpikefrontError
from evaluators import Evaluator, Measurement
from search._exits import MeasuredExits, measured_exits
from search._lease import BEATS, Leases, beating
from search._samplers import warm_start_attrs
from search._storage import StudyError, hold
from search._study import (
    add_exit,
    baseline_attrs,
    enqueue,
    fail,
    known_points,
    passes,
    record,
    study_setup,
)
from spaces import LayerSpace

_LOG = logging.getLogger("spikefront")

MakeEvaluator = Callable[[], Evaluator]
OnTrial = Callable[[optuna.Study, int, str | None], None]
"""Called after each trial with (study, number of :func:`passes`, why it failed or None)."""

_MAX_FAILURES_IN_A_ROW = 5
_OWNER = "owner"
_RETRY_OF = "retry_of"
_DEATHS = "deaths"
_MAX_DEATHS = 3


@dataclass(frozen=True)
class _Asked:
    """What to measure, and what a process that measures must know."""

    number: int
    params: Mapping[str, Any]
    space: LayerSpace
    known: np.ndarray
    dearest: float
    least_accuracy: float


@dataclass(frozen=True)
class _Outcome:
    number: int
    measurement: Measurement | None
    exits: MeasuredExits
    reason: str | None
    seconds: float


def run_study(
    study: optuna.Study,
    space: LayerSpace,
    make_evaluator: MakeEvaluator,
    *,
    trials: int,
    workers: int = 1,
    folder: Path,
    pareto_dp: Sequence[Mapping[str, Any]] = (),
    ann_accuracy: float | None = None,
    on_trial: OnTrial | None = None,
    beat: float = 5.0,
    grace: float = 30.0,
) -> None:
    """Search until ``trials`` trials of the study were run, whoever ran them.

    The baselines come first: the uniform settings, then the paper's. Exits of a pass that enlarge
    the front of accuracy or divergence against energy become trials of their own, which cost
    nothing and do not count; a process killed while it writes them loses some. A trial that raises
    is marked as failed, with its reason, and the study goes on; Ctrl-C and SIGTERM give the running
    trials back to the study.

    Args:
        study: From :func:`search.open_study`.
        space: Its search space.
        make_evaluator: Called once in each process that measures.
        trials: Trials to run, those that the study has included.
        workers: Processes; 1 measures in this one.
        folder: Held by one searching process at a time; trials that an earlier holder left
            running when it was killed run again.
        pareto_dp: Parameters of the paper's search, to be baselines too.
        ann_accuracy: Of the search split; needed where the study has a limit on lost accuracy.
        on_trial: Told of every trial.
        beat: Seconds between the signs of life that it gives to others on the same study.
        grace: Seconds after which a trial of another process that gives none is lost.

    Raises:
        StudyError: Another process holds the folder, or trial after trial fails.
        ConfigError: Lost accuracy is limited, and nobody said what the ANN's is.
        KeyboardInterrupt: It was stopped.
    """
    if study_setup(study).budget.max_accuracy_drop is not None and ann_accuracy is None:
        raise ConfigError("a limit on lost accuracy needs ann_accuracy")
    interrupts = _Interrupts()
    owner = f"{platform.node()}:{folder.resolve()}"
    with hold(folder), interrupts.caught():
        coordinator = _Coordinator(
            study, space, owner, on_trial, interrupts, ann_accuracy, beat, grace
        )
        coordinator.take_back("its process was killed")
        coordinator.enqueue_baselines("uniform", space.baselines())
        coordinator.enqueue_baselines("pareto_dp", pareto_dp)
        if workers == 1:
            coordinator.run_here(make_evaluator(), trials)
        else:
            coordinator.run_in_processes(make_evaluator, trials, workers)


def run_worker(
    study: optuna.Study,
    space: LayerSpace,
    evaluator: Evaluator,
    *,
    trials: int,
    beat: float = 5.0,
    grace: float = 30.0,
    ann_accuracy: float | None = None,
    on_trial: OnTrial | None = None,
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
        trials: Trials that the study shall have run.
        beat: Seconds between signs of life.
        grace: Seconds without one after which a trial is lost.
        ann_accuracy: As of :func:`run_study`.
        on_trial: Told of every trial of this worker.

    Raises:
        StudyError: Trial after trial fails.
        KeyboardInterrupt: It was stopped; its running trial waits to be run again.
    """
    interrupts = _Interrupts()
    owner = f"{platform.node()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    with interrupts.caught():
        worker = _Worker(study, space, owner, on_trial, interrupts, ann_accuracy, beat, grace)
        worker.run_here(evaluator, trials)


class _Coordinator:
    """Asks and tells; the only one in a process that touches the study.

    Other processes may work on the same study: it gives signs of life of its trials, and brings
    back those of others that give none.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: LayerSpace,
        owner: str,
        on_trial: OnTrial | None,
        interrupts: _Interrupts,
        ann_accuracy: float | None,
        beat: float,
        grace: float,
    ) -> None:
        self._study = study
        self._space = space
        self._owner = owner
        self._on_trial = on_trial
        self._interrupts = interrupts
        self._budget = study_setup(study).budget
        self._ann_accuracy = ann_accuracy
        self._beat, self._grace = beat, grace
        self._leases = Leases(grace)
        self._looked = 0.0
        self._running: dict[int, optuna.Trial] = {}
        self._failures = 0
        self._lock = threading.Lock()  # joblib asks from a thread of its own

    def take_back(self, reason: str) -> None:
        """Fail what is running, and put it into the queue again."""
        with self._lock, self._interrupts.shield():
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            mine = [t for t in running if t.user_attrs.get(_OWNER) == self._owner]
            for trial in mine:
                self._give_back(trial, reason)
            self._running.clear()
        if mine:
            numbers = ", ".join(str(trial.number) for trial in mine)
            _LOG.info("will run again, because %s: trial %s", reason, numbers)

    def enqueue_baselines(self, kind: str, baselines: Sequence[Mapping[str, Any]]) -> None:
        """Put the settings that the study does not know yet into its queue."""
        known = [_fixed(trial) for trial in self._study.get_trials(deepcopy=False)]
        attrs = warm_start_attrs(self._study.sampler)
        for params in baselines:
            self._space.choice(params)  # one outside the space would end every search
            if params not in known:
                known.append(dict(params))
                user = {**baseline_attrs(kind), _OWNER: self._owner}
                enqueue(self._study, params, user_attrs=user, system_attrs=attrs)

    def run_here(self, evaluator: Evaluator, trials: int) -> None:
        """Ask, measure and tell in this process."""
        try:
            with beating(self._study, self._running, self._beat):
                while (missing := trials - len(passes(self._study))) > 0:
                    if self._others_suffice(missing):
                        self._bring_back_lost()
                        time.sleep(min(self._beat, 0.5))
                    else:
                        self._tell(_measure(evaluator, self._ask()))
            self._settle()
        finally:
            self.take_back("it was interrupted")

    def run_in_processes(self, make: MakeEvaluator, trials: int, workers: int) -> None:
        """Ask and tell here, measure in worker processes."""
        token = uuid.uuid4().hex
        deaths = 0
        try:
            while (missing := trials - len(passes(self._study))) > 0:
                asked = (
                    delayed(_measure_in_worker)(token, make, self._ask()) for _ in range(missing)
                )
                parallel = Parallel(
                    n_jobs=workers, return_as="generator_unordered", pre_dispatch=workers
                )
                try:
                    with beating(self._study, self._running, self._beat):
                        for outcome in parallel(asked):
                            self._tell(outcome)
                except TerminatedWorkerError as error:
                    deaths += 1
                    self.take_back("its worker died")
                    if deaths == 3:
                        raise StudyError(
                            "worker processes died three times; the usual cause is memory: use"
                            " fewer --workers or a smaller --batch-size"
                        ) from error
            self._settle()
        finally:
            self.take_back("it was interrupted")

    def _others_suffice(self, missing: int) -> bool:
        """Whether the trials that others run are all that the study still needs."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return len(running) >= missing

    def _settle(self) -> None:
        """Wait until the last trials of others have finished, or were seen to be lost."""
        end = time.monotonic() + self._grace + 2 * self._beat
        while time.monotonic() < end and self._others_suffice(1):
            self._bring_back_lost()
            time.sleep(min(self._beat, 0.5))

    def _bring_back_lost(self) -> None:
        """Fail the trials that lost their worker, and put their parameters into the queue."""
        if time.monotonic() - self._looked < self._beat:
            return
        self._looked = time.monotonic()
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in self._leases.lost([t for t in running if t.number not in self._running]):
            with self._interrupts.shield():
                self._bring_back(trial)

    def _bring_back(self, trial: FrozenTrial) -> None:
        """The storage lets one process only fail a trial: that one queues its parameters."""
        deaths = int(trial.user_attrs.get(_DEATHS, 0)) + 1
        params = _fixed(trial) or trial.params
        again = deaths < _MAX_DEATHS and set(params) == set(self._space.distributions())
        try:
            fail(self._study, trial, f"its worker was lost, {deaths} of {_MAX_DEATHS} times")
        except (ValueError, UpdateFinishedTrialError):
            return  # it came back, or another worker was faster
        if again:
            self._queue_again(trial, params, {_DEATHS: deaths})
        then = "it will run again" if again else "it is left out"
        _LOG.warning("trial %d lost its worker: %s", trial.number, then)

    def _ask(self) -> _Asked:
        self._bring_back_lost()
        with self._lock, self._interrupts.shield():
            self._before_asking()
            trial = self._study.ask()
            self._running[trial.number] = trial
            if trial.user_attrs.get(_OWNER) != self._owner:  # somebody else's entry in the queue
                trial.set_user_attr(_OWNER, self._owner)
            self._space.suggest(trial)
            dearest = math.log(self._budget.max_energy or 1.0)
            drop = self._budget.max_accuracy_drop
            return _Asked(
                trial.number,
                dict(trial.params),
                self._space,
                known_points(self._study),
                dearest,
                0.0 if drop is None else (self._ann_accuracy or 0.0) - drop,
            )

    def _before_asking(self) -> None:
        # A trial waits with its owner's name before it runs: were the name written after,
        # a kill between the two would leave a trial that runs for ever and is nobody's.
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            enqueue(self._study, {}, user_attrs={_OWNER: self._owner})

    def _tell(self, outcome: _Outcome) -> None:
        with self._lock, self._interrupts.shield():
            trial = self._running.pop(outcome.number)
            try:
                self._finish(trial, outcome)
            except (ValueError, UpdateFinishedTrialError):
                if not self._study._storage.get_trial(trial._trial_id).state.is_finished():
                    raise
                _LOG.warning("trial %d was given up by another worker meanwhile", outcome.number)
            count = len(passes(self._study))
        if self._on_trial is not None:
            self._on_trial(self._study, count, outcome.reason)
        if self._failures >= _MAX_FAILURES_IN_A_ROW:
            raise StudyError(
                f"{self._failures} trials in a row failed, the last one because: {outcome.reason}"
            )

    def _finish(self, trial: optuna.Trial, outcome: _Outcome) -> None:
        if outcome.measurement is None:
            fail(self._study, trial, outcome.reason or "unknown")
            self._failures += 1
        else:
            self._complete(trial, outcome.measurement, outcome)
            self._failures = 0

    def _complete(self, trial: optuna.Trial, found: Measurement, outcome: _Outcome) -> None:
        record(self._study, trial, found)
        trial.set_user_attr("seconds", round(outcome.seconds, 3))
        for name, value in self._constraints(found).items():
            trial.set_constraint(name, value)
        done = self._study.tell(trial, [found.accuracy.value, found.energy_pj.value])
        for exits, m in outcome.exits:
            add_exit(self._study, self._space, done, exits, m, self._constraints(m))

    def _constraints(self, measurement: Measurement) -> dict[str, float]:
        return self._budget.constraints(measurement, self._ann_accuracy or 0.0)

    def _give_back(self, trial: FrozenTrial, reason: str) -> None:
        """Put a trial's parameters in the queue again, and fail it.

        In this order: a kill between the two must not lose them.
        """
        params = _fixed(trial) or trial.params
        complete = set(params) == set(self._space.distributions())  # not killed while being asked
        if complete and trial.number not in self._retried():
            self._queue_again(trial, params, {})
        fail(self._study, trial, reason)

    def _queue_again(
        self, trial: FrozenTrial, params: Mapping[str, Any], more: Mapping[str, Any]
    ) -> None:
        dropped = (_OWNER, BEATS, "reason")
        kept = {k: v for k, v in trial.user_attrs.items() if k not in dropped}
        system = {k: v for k, v in trial.system_attrs.items() if k.endswith(":generation")}
        enqueue(
            self._study,
            params,
            user_attrs={**kept, **more, _RETRY_OF: trial.number, _OWNER: self._owner},
            system_attrs=system,
        )

    def _retried(self) -> set[int]:
        trials = self._study.get_trials(deepcopy=False)
        return {t.user_attrs[_RETRY_OF] for t in trials if _RETRY_OF in t.user_attrs}


class _Worker(_Coordinator):
    """One of several that ask and tell; none of them is told of the others."""

    def _before_asking(self) -> None:
        """Nothing: whoever is killed is missed by the others, by name or not."""


def _fixed(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters that a trial was enqueued with; empty if the sampler was to choose them."""
    return dict(trial.system_attrs.get("fixed_params", {}))


def _measure(evaluator: Evaluator, asked: _Asked) -> _Outcome:
    start = time.perf_counter()
    measurement, reason, exits = None, None, []
    space = asked.space

    def measure(params: Mapping[str, Any]) -> Measurement:
        return evaluator.measure(space.choice(params))

    try:
        measurement = measure(asked.params)
    except SpikefrontError as error:
        reason = str(error)
    except Exception as error:  # one bad trial must not end the study; its reason is kept
        _LOG.debug("trial %d failed", asked.number, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
    if measurement is not None:
        try:
            exits = measured_exits(
                asked.params,
                measurement,
                measure,
                space,
                known=asked.known,
                dearest=asked.dearest,
                least_accuracy=asked.least_accuracy,
            )
        except Exception as error:  # the trial itself is whole
            _LOG.warning("no further exits of trial %d: %s", asked.number, error)
    return _Outcome(asked.number, measurement, exits, reason, time.perf_counter() - start)


_EVALUATORS: dict[str, Evaluator] = {}


def _measure_in_worker(token: str, make: MakeEvaluator, asked: _Asked) -> _Outcome:
    """Measure in a worker process, which makes its evaluator once per run."""
    if token not in _EVALUATORS:
        _EVALUATORS.clear()
        _EVALUATORS[token] = make()
    return _measure(_EVALUATORS[token], asked)


class _Interrupts:
    """Lets Ctrl-C and SIGTERM stop a search between two changes of its study, never within one."""

    def __init__(self) -> None:
        self._shielded = False
        self._pending = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle both signals alike; in another than the main thread there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._interrupt) for number in signals}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Put an interrupt off until the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._shielded:
            raise KeyboardInterrupt
        self._pending = True
