"""Running a study: ask, measure, tell, in this process or in several."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from conversion import Segment
from evaluators import Evaluator, Measurement
from search._errors import StudyError
from search._exits import dearest_of
from search._interrupts import Interrupts
from search._objectives import objective_values
from search._study import objectives_of, plan_of, study_setup
from search._trial import (
    TrialRecord,
    fail,
    fail_double,
    known_points,
    passes_of,
    running_of,
)
from search.learning import ArtifactStates, needless_states, note_artifact
from search.running._lease import Leases, beating
from search.running._measure import Asked, Outcome, auto_timeout, measure
from search.running._pool import DaskCluster, DeadWorkerError, Processes
from search.running._queue import (
    MAX_DEATHS,
    add_exit,
    double_of,
    enqueue,
    is_queued,
    queue_again,
)
from search.storage import last_trouble
from spaces import LayerSpace

_LOG = logging.getLogger("spikefront")

OnTrial = Callable[[optuna.Study, int, str | None], None]
"""Called after each trial with (study, number of :func:`passes`, why it failed or None)."""

_MAX_FAILURES_IN_A_ROW = 5


class Coordinator:
    """Asks and tells; the only object in a process that accesses the study.

    Other processes may work on the same study: it sends signs of life for its own trials, and
    brings back those of others that stop sending them.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: LayerSpace,
        owner: str,
        *,
        trials: int | None,
        timeout: float | None,
        on_trial: OnTrial | None,
        interrupts: Interrupts,
        ann_accuracy: float | None,
        states: ArtifactStates | None,
        beat: float,
        grace: float,
    ) -> None:
        self._study = study
        self._objectives = objectives_of(study)
        self._space = space
        self._owner = owner
        self._trials = trials
        self._timeout = timeout
        self._on_trial = on_trial
        self._interrupts = interrupts
        self._budget = study_setup(study).budget
        self._ann_accuracy = ann_accuracy
        self._beat, self._grace = beat, grace
        self._leases = Leases(grace, lambda: last_trouble(study._storage))
        self._looked = 0.0
        self._running: dict[int, optuna.Trial] = {}
        self._alone: Asked | None = None
        # joblib may briefly go on asking after its trials were taken back
        self._round = 0
        self._failures = 0
        self._passes = 0
        self._states = states
        self._pruned: set[str] = set()
        self._lock = threading.Lock()  # joblib asks from its own thread

    def take_back(self, reason: str, *, died: bool = False) -> None:
        """Fail the running trials and queue them again."""
        with self._lock, self._interrupts.shield():
            self._round += 1
            held, self._alone = self._alone, None
            mine = [t for t in running_of(self._look()) if TrialRecord.of(t).owner == self._owner]
            for trial in mine:
                at_work = held is None or held.number != trial.number
                self._give_back(trial, reason, died=died and at_work)
            self._running.clear()
        if mine:
            numbers = ", ".join(str(trial.number) for trial in mine)
            _LOG.info("given back, because %s: trial %s", reason, numbers)

    def run_here(self, evaluator: Evaluator) -> None:
        """Ask, measure and tell in this process."""
        try:
            with beating(self._study, self._running, self._beat):
                while not self._enough(every := self._look()):
                    if self._suffices(every):
                        self._wait_for_others()
                    elif (asked := self._ask(every, self._round)) is not None:
                        self._tell(measure(evaluator, asked))
            self._settle()
        finally:
            self.take_back("it was interrupted")

    def run_in_processes(self, pool: Processes | DaskCluster) -> None:
        """Ask and tell here, measure in worker processes.

        When a process dies, all trials running at that time become suspects: each of them runs
        alone once.
        """
        deaths = 0
        try:
            while self._alone or not self._enough(self._look()):
                alone, self._alone = self._alone, None
                try:
                    with beating(self._study, self._running, self._beat):
                        for outcome in pool.run([alone] if alone else self._company()):
                            self._tell(outcome)
                except DeadWorkerError as error:
                    deaths = 0 if alone else deaths + 1
                    self.take_back("its worker died", died=True)
                    if deaths == 3:
                        raise StudyError(
                            "worker processes died three times, not because of one trial; the"
                            " usual cause is memory: use fewer --workers or a smaller --batch-size"
                        ) from error
                if self._alone is None and self._suffices(self._look()):
                    self._wait_for_others()
            self._settle()
        finally:
            self.take_back("it was interrupted")
            pool.close()

    def _company(self) -> Iterator[Asked]:
        """Trials that may run at the same time; stops before a suspect."""
        asking = self._round
        while asking == self._round:
            every = self._look()
            if self._enough(every) or self._suffices(every):
                return
            asked = self._ask(every, asking)
            if asked is not None and asked.suspect:
                self._alone = asked
                return
            if asked is not None:
                yield asked

    def _target(self) -> int:
        return self._trials if self._trials is not None else plan_of(self._study).trials

    def _look(self) -> list[FrozenTrial]:
        """Every trial of the study, by number.

        A database sends all running trials each time, which is the main load that many workers
        cause.
        """
        every = self._study.get_trials(deepcopy=False)
        self._passes = len(passes_of(every))
        return every

    def _enough(self, every: Sequence[FrozenTrial]) -> bool:
        return len(passes_of(every)) >= self._target()

    def _suffices(self, every: Sequence[FrozenTrial]) -> bool:
        """Whether the running trials are all that the study still needs."""
        return len(running_of(every)) >= max(1, self._target() - len(passes_of(every)))

    def _wait_for_others(self) -> None:
        self._bring_back_lost(self._look())
        time.sleep(min(self._beat, 0.5))

    def _settle(self) -> None:
        """Wait until the last trials of other workers have finished or are known to be lost."""
        end = time.monotonic() + self._grace + 2 * self._beat
        while time.monotonic() < end and running_of(self._look()):
            self._wait_for_others()

    def _bring_back_lost(self, every: Sequence[FrozenTrial]) -> None:
        """Fail the trials that lost their worker, and queue their parameters again."""
        if time.monotonic() - self._looked < self._beat:
            return
        self._looked = time.monotonic()
        others = [t for t in running_of(every) if t.number not in self._running]
        for trial in self._leases.lost(others):
            with self._interrupts.shield():
                self._bring_back(trial)

    def _bring_back(self, trial: FrozenTrial) -> None:
        """Several workers may notice a lost trial; the storage lets only one of them fail it.

        Its parameters are queued first, so that a kill between the two steps cannot lose them.
        """
        record = TrialRecord.of(trial)
        record = replace(record, deaths=record.deaths + 1, owner=self._owner)
        every = self._look()
        if every[trial.number].state is not TrialState.RUNNING:
            return  # another worker was faster
        again = is_queued(trial, every) or queue_again(self._study, self._space, trial, record)
        try:
            times = f"{record.deaths} of {MAX_DEATHS} times"
            fail(self._study, trial, f"its worker was lost, {times}")
        except (ValueError, UpdateFinishedTrialError):
            return
        then = "it will run again" if again else "it is skipped"
        _LOG.warning("trial %d lost its worker: %s", trial.number, then)

    def _ask(self, every: Sequence[FrozenTrial], asking: int) -> Asked | None:
        """The next trial to measure; None if it turns out to need no measurement."""
        self._bring_back_lost(every)
        with self._lock, self._interrupts.shield():
            if asking != self._round:
                return None
            self._before_asking(every)
            trial = self._study.ask()
            self._after_asking(trial)
            try:
                return self._taken(trial, every)
            except (ValueError, UpdateFinishedTrialError):
                self._running.pop(trial.number, None)
                if not self._state(trial).is_finished():
                    raise
                return None  # asking took so long that another worker gave the trial up

    def _taken(self, trial: optuna.Trial, every: Sequence[FrozenTrial]) -> Asked | None:
        if trial.number >= len(every) or every[trial.number].state is TrialState.WAITING:
            every = self._look() if TrialRecord.of(trial).retry_of is not None else every
            double = double_of(trial.number, every)
            if double is not None:
                fail_double(self._study, trial, double)
                return None
        self._running[trial.number] = trial
        if TrialRecord.of(trial).owner != self._owner:  # queued by another process
            TrialRecord(owner=self._owner).write(self._study, trial)
        lineage = self._space.suggest(trial).conversion.lineage
        return self._asked(trial, every, lineage)

    def _state(self, trial: optuna.Trial) -> TrialState:
        return self._study._storage.get_trial(trial._trial_id).state

    def _asked(
        self, trial: optuna.Trial, every: Sequence[FrozenTrial], lineage: Sequence[Segment]
    ) -> Asked:
        drop, limit = self._budget.max_accuracy_drop, self._budget.max_energy
        known = known_points(every)
        record = TrialRecord.of(trial)
        took = [TrialRecord.of(t).seconds for t in passes_of(every)]
        return Asked(
            number=trial.number,
            params=dict(trial.params),
            space=self._space,
            known=known,
            dearest=math.log(limit) if limit else dearest_of(known[:, 1]),
            least_accuracy=0.0 if drop is None else (self._ann_accuracy or 0.0) - drop,
            seconds=self._timeout or auto_timeout(took),
            suspect=record.suspect,
            lineage=lineage,
        )

    def _before_asking(self, every: Sequence[FrozenTrial]) -> None:
        # A trial is queued with its owner's name before it runs: if the name came later,
        # a kill in between would leave a trial that runs for ever without an owner.
        if not any(trial.state is TrialState.WAITING for trial in every):
            enqueue(self._study, {}, TrialRecord(owner=self._owner))

    def _after_asking(self, trial: optuna.Trial) -> None:
        """Do nothing: the study already has its sampler."""

    def _tell(self, outcome: Outcome) -> None:
        with self._lock, self._interrupts.shield():
            trial = self._running.pop(outcome.number)
            try:
                self._finish(trial, outcome)
            except (ValueError, UpdateFinishedTrialError):
                if not self._state(trial).is_finished():
                    raise
                _LOG.warning("trial %d was given up by another worker", outcome.number)
            self._passes += outcome.measurement is not None
        if outcome.state is not None and self._states is not None:
            self._pruned.discard(outcome.state)
            self._prune(self._states, failed=None if outcome.measurement else outcome.state)
        if self._on_trial is not None:
            self._on_trial(self._study, self._passes, outcome.reason)
        if self._failures >= _MAX_FAILURES_IN_A_ROW:
            raise StudyError(
                f"{self._failures} trials in a row failed, the last one because: {outcome.reason}"
            )

    def _finish(self, trial: optuna.Trial, outcome: Outcome) -> None:
        if outcome.measurement is None:
            fail(self._study, trial, outcome.reason or "unknown")
            self._failures += 1
        else:
            self._complete(trial, outcome.measurement, outcome)
            self._failures = 0

    def _complete(self, trial: optuna.Trial, found: Measurement, outcome: Outcome) -> None:
        seconds = round(outcome.seconds, 3)
        record = TrialRecord.of_measurement(found, seconds=seconds, state=outcome.state)
        record.write(self._study, trial)
        if outcome.state is not None:
            note_artifact(self._study, trial, outcome.state)
        for name, value in self._constraints(found).items():
            trial.set_constraint(name, value)
        try:
            self._study.tell(trial, objective_values(found, self._objectives))
        except UpdateFinishedTrialError:
            if self._state(trial) is not TrialState.COMPLETE:
                raise  # otherwise only the storage's answer was lost
        done = self._study._storage.get_trial(trial._trial_id)
        for exits, m in outcome.exits:
            add_exit(self._study, self._space, done, exits, m, self._constraints(m))

    def _prune(self, states: ArtifactStates, failed: str | None) -> None:
        """Remove the states of failed trials and those that no point of the front descends from."""
        every = self._look()
        needless = needless_states(every) - self._pruned
        # Trials that differ only in T share a state, and one of them may have succeeded.
        held = {TrialRecord.of(trial).state for trial in every}
        for key in needless | ({failed} - held if failed else set()):
            states.remove(key)
        self._pruned |= needless

    def _constraints(self, measurement: Measurement) -> dict[str, float]:
        return self._budget.constraints(measurement, self._ann_accuracy or 0.0)

    def _give_back(self, trial: FrozenTrial, reason: str, *, died: bool) -> None:
        record = TrialRecord.of(trial)
        record = replace(
            record,
            deaths=record.deaths + died,
            suspect=record.suspect or died,
            owner=self._owner,
        )
        queued = is_queued(trial, self._look()) or queue_again(
            self._study, self._space, trial, record
        )
        if not queued and record.deaths >= MAX_DEATHS:
            reason = f"{reason}, {record.deaths} of {MAX_DEATHS} times"
            _LOG.warning("trial %d is skipped: %s", trial.number, reason)
        with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # another worker gave it up
            fail(self._study, trial, reason)


class Worker(Coordinator):
    """One of several independent processes that ask and tell."""

    make_sampler: Callable[[int], BaseSampler] | None = None

    def _before_asking(self, every: Sequence[FrozenTrial]) -> None:
        """Do nothing: other workers notice a killed worker's trial even without a name."""

    def _after_asking(self, trial: optuna.Trial) -> None:
        """Make the sampler, seeded by its first trial's number, which is unique to a worker."""
        if self.make_sampler is not None:
            self._study.sampler = self.make_sampler(trial.number)
            self.make_sampler = None
