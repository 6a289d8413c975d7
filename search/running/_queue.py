"""The queue of a study: baselines, trials that lost their worker, duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from evaluators import Measurement
from search._objectives import objective_values
from search._study import objectives_of
from search._trial import TrialRecord, segment_of
from search.sampler._names import warm_start_attrs
from spaces import LayerSpace

MAX_DEATHS = 3
"""Number of processes that may die of the same parameters before these are skipped."""


def enqueue(
    study: optuna.Study,
    params: Mapping[str, Any],
    record: TrialRecord | None = None,
    *,
    system_attrs: Mapping[str, Any] | None = None,
) -> None:
    """Add a waiting trial with fixed parameters, like ``Study.enqueue_trial``.

    In addition it sets the system attributes that make the trial visible to a genetic sampler.
    """
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            user_attrs=record.attrs() if record else {},
            system_attrs={**(system_attrs or {}), "fixed_params": dict(params)},
        )
    )


def enqueue_baselines(
    study: optuna.Study,
    space: LayerSpace,
    kind: str,
    baselines: Iterable[Mapping[str, Any]],
    owner: str | None,
    *,
    continued: bool = False,
) -> None:
    """Queue the settings that the study does not contain yet.

    Args:
        study: The study.
        space: Its search space.
        kind: The mark of the trials.
        baselines: Parameters.
        owner: The process that will run them; None: any.
        continued: Whether each continues the learned state of the one before.
    """
    known = _fixed_of(study)
    record = TrialRecord(baseline=kind, owner=owner)
    for params in baselines:
        space.choice(params)  # one outside the space would end every search
        if params not in known:
            enqueue(study, params, record, system_attrs=warm_start_attrs(study.sampler))
            known = _fixed_of(study)
        if continued:
            lineage = (*record.lineage, segment_of(params, space))
            record = replace(record, lineage=lineage, goes_on_from=known.index(dict(params)))


def _fixed_of(study: optuna.Study) -> list[dict[str, Any]]:
    """Fixed parameters by trial number."""
    return [fixed(trial) for trial in study.get_trials(deepcopy=False)]


def fixed(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters that a trial was enqueued with; empty if the sampler chooses them."""
    return dict(trial.system_attrs.get("fixed_params", {}))


def queue_again(
    study: optuna.Study, space: LayerSpace, trial: FrozenTrial, record: TrialRecord
) -> bool:
    """Queue a trial again unless too many processes died of it or its parameters are incomplete.

    Args:
        study: The study.
        space: Its search space.
        trial: The trial that lost its worker.
        record: The record that the new trial starts with.
    """
    params = fixed(trial) or trial.params
    if set(params) != set(space.distributions()) or record.deaths >= MAX_DEATHS:
        return False
    system = {k: v for k, v in trial.system_attrs.items() if k.endswith(":generation")}
    again = TrialRecord(
        owner=record.owner,
        deaths=record.deaths,
        suspect=record.suspect,
        retry_of=trial.number,
        baseline=record.baseline,
        goes_on_from=record.goes_on_from,
        lineage=record.lineage,
    )
    enqueue(study, params, again, system_attrs=system)
    return True


def is_queued(trial: FrozenTrial, every: Iterable[FrozenTrial]) -> bool:
    """Whether a trial's parameters were queued again."""
    return any(TrialRecord.of(t).retry_of == trial.number for t in every)


def double_of(number: int, every: Sequence[FrozenTrial]) -> int | None:
    """The number of a trial that makes a queued one redundant, or None.

    Two searches started at the same time both queue the baselines; two workers may bring back the
    same trial, and that trial may complete after all.
    """
    if number >= len(every):
        return None
    trial = every[number]
    lost = TrialRecord.of(trial).retry_of
    if lost is not None:
        if every[lost].state is TrialState.COMPLETE:
            return int(lost)
        same = (t for t in every[:number] if TrialRecord.of(t).retry_of == lost)
    else:
        params = fixed(trial)
        same = (t for t in every[:number] if params and fixed(t) == params)
    return next((t.number for t in same), None)


def add_exit(
    study: optuna.Study,
    space: LayerSpace,
    trial: FrozenTrial,
    exits: Mapping[str, Any],
    measurement: Measurement,
    constraints: Mapping[str, float],
) -> None:
    """Add an additional exit of a trial's pass as a finished trial, with ``exit_of`` set."""
    shared = TrialRecord.of(trial)
    record = TrialRecord.of_measurement(
        measurement,
        baseline=shared.baseline,
        exit_of=trial.number,
        goes_on_from=shared.goes_on_from,
        lineage=shared.lineage,
        state=shared.state,
    )
    study.add_trial(
        optuna.trial.create_trial(
            values=objective_values(measurement, objectives_of(study)),
            params={**trial.params, **exits},
            distributions=space.distributions(),
            user_attrs=record.attrs(),
            constraints=dict(constraints),
        )
    )
