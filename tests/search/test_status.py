from __future__ import annotations

import time
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search import Plan, plan_of, set_plan, study_status
from search._study import StudyError

NOON = datetime(2026, 1, 1, 12)


def ended(study: optuna.Study, after: timedelta, **attrs: object) -> None:
    trial = create_trial(values=[0.5, 1.0], user_attrs={"measurement": {}, **attrs})
    trial.datetime_complete = NOON + after
    study.add_trial(trial)


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(study_name="s", directions=["maximize", "minimize"])


def test_a_study_without_trials(study: optuna.Study) -> None:
    status = study_status(study)
    assert (status.planned, status.run, status.per_hour, status.seconds_left) == (
        None,
        0,
        None,
        None,
    )
    assert not status.is_done
    with pytest.raises(StudyError, match="the study 's' has no planned number of trials"):
        plan_of(study)


def test_rate_and_time_left_without_the_night(study: optuna.Study) -> None:
    set_plan(study, Plan(trials=14))
    for i in range(5):
        ended(study, timedelta(seconds=30 * i))
    for i in range(5):
        ended(study, timedelta(hours=12, seconds=30 * i))
    ended(study, timedelta(hours=12), exit_of=3)
    status = study_status(study)
    assert (status.run, status.exits, status.planned) == (10, 1, 14)
    assert status.states == {"COMPLETE": 11}
    assert status.per_hour == pytest.approx(120)
    assert status.seconds_left is None, "no worker is at work"
    study.ask().set_user_attr("beats", time.time())
    assert study_status(study).seconds_left == pytest.approx(4 * 30)
    study.tell(11, state=TrialState.FAIL)
    set_plan(study, Plan(trials=10))
    assert study_status(study).is_done


def test_workers_are_those_with_a_trial_running(study: optuna.Study) -> None:
    for owner, beat in (("a:1", 100), ("a:1", 3), ("b:2", None)):
        trial = study.ask()
        trial.set_user_attr("owner", owner)
        if beat is not None:
            trial.set_user_attr("beats", time.time() - beat + 100)
    failed = study.ask()
    failed.set_user_attr("reason", "layer 'relu' diverges")
    study.tell(failed, state=TrialState.FAIL)
    status = study_status(study)
    assert [(w.name, w.trials) for w in status.workers] == [("a:1", (0, 1)), ("b:2", (2,))]
    assert all(w.silent < 60 for w in status.workers)
    assert status.reasons == ("layer 'relu' diverges",)
    assert status.states == {"RUNNING": 3, "FAIL": 1}
