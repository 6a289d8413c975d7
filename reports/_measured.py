"""Measurements of a report: the front on the test split, its rivals, the knee against the ANN."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import optuna

from conversion import ConfigError, EnergyModel, FileError, Inputs, LayerDiagnosis, diagnose
from evaluators import AnnReference, Comparison, Evaluator, Measurement, QuantisedAnn
from reports._findings import Findings
from reports._front import FrontPoint, ParetoFront, knee, pareto_front
from reports._models import ann_under, repriced
from search import ann_reference, kept_sensitivity, study_setup, sweep_of

_LOG = logging.getLogger("spikefront")
_T = TypeVar("_T")

_TEST = "test/{trial}"

_TEST_ANN = "test/ann"

_RIVAL = "quantised/{trial}"
_THRESHOLDS = "thresholds/{trial}"


def measure_front(
    study: optuna.Study,
    evaluator: Evaluator,
    *,
    test: bool = True,
    rivals: bool = False,
    energy: EnergyModel | None = None,
    confidence: float | None = None,
    on_point: Callable[[int, int], None] | None = None,
) -> ParetoFront:
    """The front of a study, each point measured once on the test split.

    Test measurements are stored in the study: later reports reuse them and do not touch the test
    split again.

    Args:
        study: A study with finished trials.
        evaluator: Evaluator of the study's task.
        test: Whether to measure on the test split. If not, test results of an earlier report are
            shown, provided that it measured all points.
        rivals: Whether to measure, for each point, the quantised ANN of as many levels, on the
            search split.
        energy: An energy model other than the study's, which gives another front.
        confidence: Confidence of the promises; None: the study's.
        on_point: Called with (points done, points in total).

    Raises:
        ConfigError: The study has no finished trial, or its trials cannot be priced by another
            model.
    """
    ann, costs = {"search": evaluator.ann("search")}, evaluator.profile.costs
    studied = pareto_front(study, ann, confidence=confidence)
    front = studied if energy is None else repriced(studied, energy, costs)
    if rivals:
        points = {p.trial: p for p in (*studied.points, *front.points)}.values()
        found = {p.trial: _rival(study, evaluator, p) for p in points}
        front = replace(front, rivals=found)
    known = {_TEST_ANN, *(_TEST.format(trial=point.trial) for point in front.points)}
    if not test and not known <= set(study.user_attrs):
        return front
    model = front.energy_model
    tested_ann = _ann_on_test(study, evaluator)
    points_ = []
    for done, point in enumerate(front.points, 1):
        found_ = _on_test(study, evaluator, point)
        found_ = found_ if energy is None else found_.priced(model, costs)
        points_.append(replace(point, test=found_))
        if on_point is not None:
            on_point(done, len(front.points))
    return replace(
        front,
        points=tuple(points_),
        ann={**front.ann, "test": ann_under(tested_ann, model, costs)},
    )


def _rival(study: optuna.Study, evaluator: Evaluator, point: FrontPoint) -> QuantisedAnn:
    """The quantised ANN of as many levels as a point; measured once and stored in the study."""
    key = _RIVAL.format(trial=point.trial)

    def found() -> dict[str, Any]:
        choice = study_setup(study).space.choice(point.params, point.lineage)
        steps = point.search.timesteps.value
        return evaluator.quantised(choice.conversion, steps, "search").to_dict()

    return QuantisedAnn.from_dict(_remembered(study, key, found))


def _remembered(study: optuna.Study, key: str, find: Callable[[], _T]) -> _T:
    """What a study stores under a key; else find it and store it, unless it is read-only."""
    if key in study.user_attrs:
        known: _T = study.user_attrs[key]
        return known
    found = find()
    try:
        study.set_user_attr(key, found)
    except FileError:
        if key == _TEST_ANN:  # the first of many
            _LOG.warning("the study is read-only: what is measured is not stored in it")
    return found


def kept_front(study: optuna.Study, *, confidence: float | None = None) -> ParetoFront:
    """The front of a study from its storage alone: neither model nor data are needed.

    Test results are included if a report has measured all points there.

    Raises:
        ConfigError: No trial has finished, or the storage lacks the ANN's score.
    """
    ann = ann_reference(study)
    if ann is None:
        raise ConfigError(
            f"the study {study.study_name!r} does not contain the ANN's score; `spikefront search`"
            " stores it"
        )
    front = pareto_front(study, {"search": ann}, confidence=confidence)
    found = [tested(study, point.trial) for point in front.points]
    if None in found or _TEST_ANN not in study.user_attrs:
        return front
    points = tuple(replace(p, test=m) for p, m in zip(front.points, found, strict=True))
    return replace(front, points=points, ann={"search": ann, "test": ann_on_test(study)})


def tested(study: optuna.Study, trial: int) -> Measurement | None:
    """A trial's measurement on the test split, if an earlier report made it."""
    found = study.user_attrs.get(_TEST.format(trial=trial))
    return None if found is None else Measurement.from_dict(found)


def ann_on_test(study: optuna.Study) -> AnnReference:
    """The ANN's result there; raises KeyError without an earlier report."""
    return AnnReference.from_dict(study.user_attrs[_TEST_ANN])


def _ann_on_test(study: optuna.Study, evaluator: Evaluator) -> AnnReference:
    found = _remembered(study, _TEST_ANN, lambda: evaluator.ann("test").to_dict())
    return AnnReference.from_dict(found)


def _on_test(study: optuna.Study, evaluator: Evaluator, point: FrontPoint) -> Measurement:
    def found() -> dict[str, Any]:
        choice = study_setup(study).space.choice(point.params, point.lineage)
        return evaluator.measure(choice, "test").to_dict()

    return Measurement.from_dict(_remembered(study, _TEST.format(trial=point.trial), found))


def compare_knee(study: optuna.Study, evaluator: Evaluator, front: ParetoFront) -> Comparison:
    """Compare the knee of a front with the ANN, on the last split that was measured."""
    point = next(p for p in front.points if p.trial == knee(front.points).trial)
    choice = study_setup(study).space.choice(point.params, point.lineage)
    return evaluator.compare(choice, list(front.ann)[-1])


def with_thresholds(study: optuna.Study, evaluator: Evaluator, front: ParetoFront) -> ParetoFront:
    """The front with the mean thresholds of its points' layers, which the study stores.

    Points whose learned state is lost are skipped, as they would have to be learned again.
    """
    points = tuple(replace(p, thresholds=_thresholds(study, evaluator, p)) for p in front.points)
    return replace(front, points=points)


def _thresholds(
    study: optuna.Study, evaluator: Evaluator, point: FrontPoint
) -> Mapping[str, float]:
    key = _THRESHOLDS.format(trial=point.trial)
    choice = study_setup(study).space.choice(point.params, point.lineage)
    if key not in study.user_attrs and not evaluator.has_learned(choice):
        return {}

    def found() -> dict[str, float]:
        model, layers = evaluator.convert(choice), evaluator.profile.layers
        return {
            name: float(
                (model.config.layers[name].rho * model.thetas[name]).mean()
                / layer.largest.max().clamp_min(1e-12)
            )
            for name, layer in layers.items()
        }

    return _remembered(study, key, found)


_DIAGNOSED = 64
"""Number of samples on which the knee is diagnosed."""


def findings(
    study: optuna.Study, evaluator: Evaluator, front: ParetoFront, *, closely: bool = True
) -> Findings:
    """Collect what a report shows about a study.

    Args:
        study: The study.
        evaluator: Evaluator of its task.
        front: Front of the study, from :func:`measure_front`.
        closely: Whether to compare the knee with the ANN, diagnose it and compute thresholds, which
            takes a few more conversions and passes.
    """
    known = Findings(front=front, costs=evaluator.profile.costs, task=evaluator.task)
    if not closely:
        return known
    space = study_setup(study).space
    return replace(
        known,
        sensitivity=kept_sensitivity(evaluator.profile, evaluator.energy, **sweep_of(space)),
        front=with_thresholds(study, evaluator, front),
        comparison=compare_knee(study, evaluator, front),
        diagnosis=_diagnosis(study, evaluator, front),
    )


def _diagnosis(
    study: optuna.Study, evaluator: Evaluator, front: ParetoFront
) -> Sequence[LayerDiagnosis]:
    point = knee(front.points)
    choice = study_setup(study).space.choice(point.params, point.lineage)
    model = evaluator.convert(choice)
    if not model.neurons or model.config.bits is not None:
        return ()
    x, _ = next(evaluator.task.search.batches(_DIAGNOSED))
    return diagnose(model, Inputs.of(x).to(evaluator.device))
