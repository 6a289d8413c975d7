"""Studies: created once, and checked whenever they are resumed."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from conversion import EnergyModel, energy_model
from evaluators import AnnReference, Evaluator, TaskSpec
from search._budget import NO_LIMITS, Budget
from search._errors import StudyError
from search._objectives import ENERGY, OBJECTIVES
from spaces import LayerSpace

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
"""Of a study of the metric against energy alone."""

_SETUP = "spikefront"
_PLAN = "plan"


@dataclass(frozen=True, kw_only=True)
class StudySetup:
    """What a study searches; stored in the study, so that any process can continue it.

    Attributes:
        space: The search space.
        energy_model: The complete energy model.
        seed: Seed of the splits and samplers.
        model_fingerprint: SHA-256 of the ANN.
        data_fingerprint: SHA-256 of the calibration inputs.
        search_fingerprint: SHA-256 of the search split.
        task: The task to load, or None if the caller passed objects.
        budget: Limits that points of the front must respect.
        metric: Name of the task's metric, the first objective.
        objectives: Quantities to minimise, energy first; see ``OBJECTIVES``.
        version: Version of spikefront.
    """

    space: LayerSpace
    energy_model: EnergyModel
    seed: int
    model_fingerprint: str
    data_fingerprint: str
    search_fingerprint: str
    task: TaskSpec | None = None
    budget: Budget = NO_LIMITS
    metric: str = "accuracy"
    objectives: tuple[str, ...] = (ENERGY,)
    version: str | None = None

    @classmethod
    def of(
        cls,
        evaluator: Evaluator,
        space: LayerSpace,
        task: TaskSpec | None = None,
        budget: Budget = NO_LIMITS,
        objectives: tuple[str, ...] = (ENERGY,),
    ) -> StudySetup:
        """The setup of a study of ``space`` by ``evaluator``."""
        return cls(
            space=space,
            energy_model=evaluator.energy,
            seed=evaluator.seed,
            model_fingerprint=evaluator.profile.network.fingerprint,
            data_fingerprint=evaluator.profile.data_fingerprint,
            search_fingerprint=evaluator.search_fingerprint,
            task=task,
            budget=budget,
            metric=evaluator.task.metric.name,
            objectives=objectives,
            version=_version(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        nouns = ("space", "budget", "energy_model")
        values = {**vars(self), **{name: getattr(self, name).to_dict() for name in nouns}}
        task = self.task.to_dict() if self.task else None
        return {**values, "task": task, "objectives": list(self.objectives)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudySetup:
        """Rebuild from the output of :meth:`to_dict`."""
        task = TaskSpec.from_dict(values["task"]) if values["task"] else None
        space = LayerSpace.from_dict(values["space"])
        budget = Budget.from_dict(values.get("budget", {}))
        energy = values["energy_model"]  # just a name in early studies of 0.1.0
        energy = energy_model(energy) if isinstance(energy, str) else EnergyModel.from_dict(energy)
        objectives = tuple(values.get("objectives", (ENERGY,)))
        nouns = {"space": space, "task": task, "budget": budget, "energy_model": energy,
                 "objectives": objectives}  # fmt: skip
        return cls(**{**values, **nouns})


def _version() -> str | None:
    try:
        return importlib.metadata.version("spikefront")
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to run a study; unlike its setup, this may change when a search resumes.

    Attributes:
        trials: Number of trials to run, across all workers.
        sampler: Name of the sampler.
        timeout: Time limit of a trial in seconds, or None.
        artifacts: Where learned states are stored: a folder, ``s3://`` or ``gs://``; None: nowhere.
        options: Options of the command that reproduces the study, as typed; None if unknown.
    """

    trials: int
    sampler: str = "additive"
    timeout: float | None = None
    artifacts: str | None = None
    options: Mapping[str, Any] | None = None


def set_plan(study: optuna.Study, plan: Plan) -> None:
    """Set the plan for all workers of the study, including running ones."""
    study.set_user_attr(_PLAN, asdict(plan))


def plan_of(study: optuna.Study) -> Plan:
    """Read the plan of a study; raises :class:`StudyError` if no search has set one."""
    if _PLAN not in (attrs := study.user_attrs):
        raise StudyError(
            f"the study {study.study_name!r} has no planned number of trials;"
            " `spikefront search --workers 0 --trials N` sets it"
        )
    return Plan(**attrs[_PLAN])


_ANN = "ann"


def note_ann(study: optuna.Study, ann: AnnReference) -> None:
    """Store the ANN's result on the search split, for readers of the storage alone."""
    study.set_user_attr(_ANN, ann.to_dict())


def ann_reference(study: optuna.Study) -> AnnReference | None:
    """The ANN's result on the search split, if a search has stored it."""
    found = study.user_attrs.get(_ANN)
    return None if found is None else AnnReference.from_dict(found)


def open_study(
    storage: BaseStorage,
    name: str,
    setup: StudySetup,
    sampler: optuna.samplers.BaseSampler | None = None,
) -> optuna.Study:
    """Create a study, or resume it.

    Raises:
        StudyError: The study exists with another space, model, data or energy model.
    """
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=sampler,
        directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE] * len(setup.objectives)],
        load_if_exists=True,
    )
    if _SETUP in study.user_attrs:
        _check_same(name, study_setup(study), setup)
    elif study.trials:
        raise StudyError(f"the study {name!r} has trials that spikefront did not create")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            shown = [OBJECTIVES[name][0] for name in setup.objectives]
            study.set_metric_names([setup.metric, *shown])
        study.set_user_attr(_SETUP, setup.to_dict())
    return study


def load_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Open an existing study.

    Raises:
        StudyError: The study does not exist, or spikefront did not create it.
    """
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        known = ", ".join(summary.study_name for summary in optuna.get_all_study_summaries(storage))
        raise StudyError(
            f"there is no study {name!r} in this storage ({known or 'it is empty'});"
            " run `spikefront search` first"
        ) from error
    study_setup(study)
    return study


def study_setup(study: optuna.Study) -> StudySetup:
    """Read a study's setup; raises :class:`StudyError` if spikefront did not create it."""
    if _SETUP not in study.user_attrs:
        raise StudyError(f"the study {study.study_name!r} was not created by spikefront")
    return StudySetup.from_dict(study.user_attrs[_SETUP])


def objectives_of(study: optuna.Study) -> tuple[str, ...]:
    """The quantities that a study minimises; energy alone if spikefront did not create it."""
    return tuple(study.user_attrs.get(_SETUP, {}).get("objectives", (ENERGY,)))


def check_settings(
    storage: BaseStorage,
    name: str,
    *,
    energy: EnergyModel,
    task: TaskSpec,
    budget: Budget = NO_LIMITS,
    objectives: tuple[str, ...] = (ENERGY,),
    **space: Any,
) -> None:
    """Check the settings of a resumed search before anything is loaded or trained.

    Args:
        storage: The storage in which the study may exist.
        name: Name of the study.
        energy: The energy model.
        task: The task to load.
        budget: Limits that points of the front must respect.
        objectives: Quantities to minimise.
        **space: Fields of :class:`spaces.LayerSpace`.

    Raises:
        StudyError: The study exists with other settings.
    """
    if name not in optuna.get_all_study_names(storage):
        return
    study = optuna.load_study(study_name=name, storage=storage)
    if _SETUP in study.user_attrs:
        there = study_setup(study)
        here = replace(
            there,
            energy_model=energy,
            seed=task.seed,
            task=task,
            budget=budget,
            objectives=objectives,
            space=replace(there.space, **space),
        )
        _check_same(name, there, here)


def check_evaluator(study: optuna.Study, evaluator: Evaluator, *, version: bool = False) -> None:
    """Raise :class:`StudyError` unless the evaluator has the study's model, data and energies.

    Args:
        study: The study.
        evaluator: To measure its trials.
        version: Whether to require the spikefront version that created the study: numbers of two
            versions should not be mixed in one front.
    """
    check_setup(study.study_name, study_setup(study), evaluator, version=version)


def check_setup(
    name: str, there: StudySetup, evaluator: Evaluator, *, version: bool = True
) -> None:
    """Like :func:`check_evaluator`, without access to the storage."""
    here = StudySetup.of(
        evaluator, there.space, there.task, there.budget, objectives=there.objectives
    )
    if not version:
        here = replace(here, version=there.version)
    _check_same(name, there, here)


def _check_same(name: str, there: StudySetup, here: StudySetup) -> None:
    differences = _differences(there.to_dict(), here.to_dict())
    if differences:
        what, was, now = differences[0]
        raise StudyError(
            f"the study {name!r} was made with another {what}: {was!r} there, {now!r} here;"
            " use the same settings, or choose another --study or --out"
        )


_MEANINGS = {
    "model_fingerprint": "model",
    "data_fingerprint": "calibration data",
    "search_fingerprint": "search split",
    "metric": "metric",
    "objectives": "objectives",
    "version": "version of spikefront",
}


_GROUPS = {
    "energy_model": "energy model",
    "space": "search space",
    "task": "task",
    "budget": "budget",
}


_IN_WORDS = ("source", "leaves_out", "node_nm")
"""Fields of an energy model that do not affect any number."""


_PLACES = ("task", "data", "weights")
"""Task settings that are paths: fingerprints show whether their contents are the same."""


def _has_moved(there: Any, here: Any) -> bool:
    """Whether both are paths with the same file name in different folders."""
    both = isinstance(there, str) and isinstance(here, str)
    return both and Path(there).name == Path(here).name


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    found = []
    for key in (*_MEANINGS, "seed"):
        unknown = key == "version" and None in (there[key], here[key])
        if there[key] != here[key] and not unknown:
            found.append((_MEANINGS.get(key, key), there[key], here[key]))
    for group, meaning in _GROUPS.items():
        old, new = there[group] or {}, here[group] or {}
        for key in {**old, **new}:
            moved = key in _PLACES and _has_moved(old.get(key), new.get(key))
            if old.get(key) != new.get(key) and key not in _IN_WORDS and not moved:
                what = meaning if key == "name" else f"{meaning} ({key})"
                found.append((what, old.get(key), new.get(key)))
    return found
