"""Progress of a study across all workers, as the storage shows it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, median

import optuna
from optuna.trial import FrozenTrial, TrialState

from search._errors import StudyError
from search._study import plan_of
from search._trial import TrialRecord, exit_of, is_double, passes, reason_of, running_of

_RECENT = 50
"""Number of recent trials that determine the rate."""

_SILENT = 60.0
"""Seconds without a sign of life after which a worker counts as gone."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker with a running trial.

    Attributes:
        name: Machine, and process or folder.
        trials: Numbers of its running trials.
        seconds: Time since the first of them started.
        silent: Seconds since its last sign of life, comparing its machine's clock with this one's.
    """

    name: str
    trials: tuple[int, ...]
    seconds: float
    silent: float


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """Progress of a study.

    Attributes:
        name: Name of the study.
        planned: Number of planned trials; None if unknown.
        run: Number of trials run.
        states: Number of trials by Optuna state; complete ones include additional exits.
        exits: Number of additional exits.
        workers: Workers with a running trial.
        per_hour: Rate of the latest trials; None before there are two.
        seconds_left: Time left at this rate; None if unknown, or if no worker is active.
        reasons: Distinct reasons of the latest failures, newest first.
    """

    name: str
    planned: int | None
    run: int
    states: dict[str, int]
    exits: int
    workers: tuple[Worker, ...]
    per_hour: float | None
    seconds_left: float | None
    reasons: tuple[str, ...]

    @property
    def at_work(self) -> bool:
        """Whether any worker with a running trial shows signs of life."""
        return any(worker.silent < _SILENT for worker in self.workers)

    @property
    def is_done(self) -> bool:
        """Whether all planned trials have run and none is running."""
        return self.planned is not None and self.run >= self.planned and not self.at_work


def study_status(study: optuna.Study) -> StudyStatus:
    """Read the progress of a study."""
    every = study.get_trials(deepcopy=False)
    done = passes(study)
    planned = _planned(study)
    rate = _per_hour(done)
    reasons = dict.fromkeys(
        reason
        for t in reversed(every)
        if t.state is TrialState.FAIL
        and (reason := reason_of(t))
        and not is_double(t)
        and "interrupted" not in reason
    )
    found = StudyStatus(
        name=study.study_name,
        planned=planned,
        run=len(done),
        states=dict(Counter(trial.state.name for trial in every)),
        exits=sum(exit_of(trial) is not None for trial in every),
        workers=_workers(running_of(every)),
        per_hour=rate,
        seconds_left=None,
        reasons=tuple(reasons)[:3],
    )
    if rate is None or planned is None or not found.at_work:
        return found
    return replace(found, seconds_left=max(0, planned - len(done)) / rate * 3600)


def _planned(study: optuna.Study) -> int | None:
    try:
        return plan_of(study).trials
    except StudyError:
        return None


def _workers(running: Sequence[FrozenTrial]) -> tuple[Worker, ...]:
    owned: dict[str, list[FrozenTrial]] = {}
    for trial in running:
        owned.setdefault(TrialRecord.of(trial).owner or "unknown", []).append(trial)
    return tuple(_worker(name, trials) for name, trials in sorted(owned.items()))


def _worker(name: str, trials: Sequence[FrozenTrial]) -> Worker:
    now = time.time()
    starts = [t.datetime_start.timestamp() for t in trials if t.datetime_start is not None]
    beats = [beat for t in trials if (beat := TrialRecord.of(t).beats)]
    signs = beats or starts  # starts may be in another machine's time zone
    return Worker(
        name=name,
        trials=tuple(trial.number for trial in trials),
        seconds=max(0.0, now - min(starts, default=now)),
        silent=max(0.0, now - max(signs, default=now)),
    )


def _per_hour(done: Sequence[FrozenTrial]) -> float | None:
    """From the mean time between recent completions, ignoring long pauses."""
    ends = sorted(t.datetime_complete for t in done if t.datetime_complete is not None)[-_RECENT:]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(ends)]
    if not gaps:
        return None
    usual = [gap for gap in gaps if gap <= 60 + 10 * median(gaps)]
    return 3600 / max(fmean(usual), 1e-3)
