"""The attributes that spikefront stores in a trial, and functions that read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from conversion import Choice
from evaluators import Measurement
from search._budget import is_feasible
from spaces import LayerSpace


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """The user attributes of a trial; those that are None or 0 are not written.

    Attributes:
        owner: The process that runs the trial.
        beats: Time of its last sign of life, in seconds.
        deaths: Number of processes that died while running these parameters.
        suspect: Whether to run it alone, because a process died while running it.
        retry_of: The trial that lost its worker and whose parameters it repeats.
        baseline: ``"uniform"``, ``"pareto_dp"``, ``"learned"``, or None.
        exit_of: The trial whose pass it is an additional exit of.
        seconds: Duration of the pass.
        goes_on_from: The trial whose φ, ρ and learned state, if any, it continues.
        lineage: The learning segments before its own, as ``vars`` of ``Segment``.
        state: Name of its learned state among the study's artifacts.
        energy_ratio: Energy ÷ the ANN's, for display in optuna-dashboard.
        kl: Divergence from the ANN's outputs, nats, for the same purpose.
        measurement: A :meth:`evaluators.Measurement.to_dict`.
        reason: Reason of its failure.
    """

    owner: str | None = None
    beats: float = 0.0
    deaths: int = 0
    suspect: bool = False
    retry_of: int | None = None
    baseline: str | None = None
    exit_of: int | None = None
    seconds: float = 0.0
    goes_on_from: int | None = None
    lineage: Sequence[Mapping[str, Any]] = ()
    state: str | None = None
    energy_ratio: float | None = None
    kl: float | None = None
    measurement: Mapping[str, Any] | None = None
    reason: str | None = None

    @classmethod
    def of(cls, trial: FrozenTrial | optuna.Trial) -> TrialRecord:
        """The record of a trial; attributes of other programs are ignored."""
        attrs = trial.user_attrs
        return cls(**{name: attrs[name] for name in _DEFAULTS if name in attrs})

    @classmethod
    def of_measurement(cls, measurement: Measurement, **others: Any) -> TrialRecord:
        """The record of a measured trial, including the attributes for optuna-dashboard."""
        return cls(
            energy_ratio=round(measurement.energy_ratio, 5),
            kl=round(measurement.kl.value, 5),
            measurement=measurement.to_dict(),
            **others,
        )

    def attrs(self) -> dict[str, Any]:
        """The user attributes, in the order of the fields."""
        values = {**vars(self), "lineage": tuple(self.lineage)}
        changed = {n: values[n] for n in _DEFAULTS if values[n] != _DEFAULTS[n]}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in changed.items()}

    def write(self, study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> None:
        """Set these attributes of an unfinished trial; others are unchanged."""
        for name, value in self.attrs().items():
            study._storage.set_trial_user_attr(trial._trial_id, name, value)


def choice_of(space: LayerSpace, trial: FrozenTrial) -> Choice:
    """The choice of a trial, including the learning segments it continues.

    Raises:
        ConfigError: Its parameters are outside the space.
    """
    return space.choice(trial.params, TrialRecord.of(trial).lineage)


def segment_of(params: Mapping[str, Any], space: LayerSpace) -> dict[str, Any]:
    """The learning of a trial as a segment that another one can continue."""
    return dict(vars(space.choice(params).conversion.segment()))


_DEFAULTS = {field.name: field.default for field in fields(TrialRecord)}

_THE_SAME = "the same as trial"


def measurement_of(trial: FrozenTrial) -> Measurement:
    """The measurement of a finished trial."""
    return Measurement.from_dict(trial.user_attrs["measurement"])


def exit_of(trial: FrozenTrial) -> int | None:
    """The number of the trial whose pass it is an additional exit of, or None."""
    return TrialRecord.of(trial).exit_of


def reason_of(trial: FrozenTrial) -> str | None:
    """Why a trial failed."""
    return TrialRecord.of(trial).reason


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials with a measurement, by number."""
    return finished_of(study.get_trials(deepcopy=False))


def finished_of(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials with a measurement."""
    complete = (trial for trial in trials if trial.state is TrialState.COMPLETE)
    return [trial for trial in complete if TrialRecord.of(trial).measurement is not None]


def passes(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials that were run, without additional exits."""
    return passes_of(study.get_trials(deepcopy=False))


def passes_of(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The :func:`passes` among trials."""
    return [trial for trial in finished_of(trials) if exit_of(trial) is None]


def running_of(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The running trials."""
    return [trial for trial in trials if trial.state is TrialState.RUNNING]


def known_points(trials: Iterable[FrozenTrial]) -> np.ndarray:
    """Accuracy, energy ÷ the ANN's, divergence of trials within the budget, ``(n, 3)``."""
    within = [
        trial.user_attrs["measurement"] for trial in finished_of(trials) if is_feasible(trial)
    ]
    rows = [(m["accuracy"]["value"], m["energy_ratio"], m["kl"]["value"]) for m in within]
    return np.array(rows).reshape(-1, 3)


def fail(study: optuna.Study, trial: optuna.Trial | FrozenTrial, reason: str) -> None:
    """End a trial as failed, with the reason."""
    TrialRecord(reason=reason).write(study, trial)
    study.tell(trial.number, state=TrialState.FAIL)


def fail_double(study: optuna.Study, trial: optuna.Trial, of: int) -> None:
    """Fail a queued trial whose settings another trial already has."""
    fail(study, trial, f"{_THE_SAME} {of}")


def is_double(trial: FrozenTrial) -> bool:
    """Whether it was skipped because another trial has the same settings."""
    return (TrialRecord.of(trial).reason or "").startswith(_THE_SAME)
