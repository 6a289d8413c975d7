"""Workers in processes of their own, and what must hold of a study after what they went through."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import optuna
from optuna.trial import TrialState

from conversion import Choice
from evaluators import Evaluator, Measurement
from search import (
    StudySetup,
    exit_of,
    load_study,
    make_sampler,
    open_storage,
    open_study,
    passes,
    run_worker,
    study_setup,
)
from search._trial import is_double
from spaces import LayerSpace

FORK = multiprocessing.get_context("fork")  # a worker that imports torch anew takes seconds


class Instant(Evaluator):
    """Gives the same measurement after a while."""

    def __init__(self, evaluator: Evaluator, answer: Measurement, seconds: float) -> None:
        super().__init__(evaluator.task)
        self.answer, self.seconds = answer, seconds

    def measure(self, choice: Choice, split: str = "search") -> Measurement:
        time.sleep(self.seconds)
        return self.answer


def made(url: str, evaluator: Evaluator) -> optuna.Study:
    space = LayerSpace(layers=evaluator.layers)
    return open_study(open_storage(url), "s", StudySetup.of(evaluator, space))


def work(
    url: str, evaluator: Evaluator, trials: int, options: dict[str, object], name: str = "random"
) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = load_study(open_storage(url), "s")
    space = study_setup(study).space

    def sampler(number: int) -> optuna.samplers.BaseSampler:
        return make_sampler(name, seed=number, profile=evaluator.profile, space=space)

    given = {"beat": 0.5, "grace": 5.0, "states": evaluator.states, **options}
    run_worker(study, space, evaluator, trials=trials, sampler=sampler, **given)


def started(url: str, evaluator: Evaluator, trials: int, **options: object) -> BaseProcess:
    _ = evaluator.profile  # a forked process that uses torch's threads hangs
    process = FORK.Process(target=work, args=(url, evaluator, trials, options), daemon=True)
    process.start()
    return process


def _nothing() -> None:
    pass


def killed_again_and_again(
    start_one: Callable[[], BaseProcess],
    study: optuna.Study,
    trials: int,
    *,
    workers: int,
    every: float,
    halfway: Callable[[], None] = _nothing,
) -> int:
    """Work on a study while one worker after the other is killed and replaced.

    ``halfway`` is called once, when a third of the trials were run; the killing ends at two thirds.
    """
    team = [start_one() for _ in range(workers)]
    kills, random_one, done = 0, random.Random(0), False
    end = time.monotonic() + 240  # of a machine on which it does not get on at all
    while (run := len(passes(study))) < 2 * trials / 3 and time.monotonic() < end:
        time.sleep(every)  # the latest one has reached the storage by then
        if run > trials / 3 and not done:
            halfway()
            done = True
        chosen = random_one.randrange(workers)
        if team[chosen].is_alive():
            os.kill(team[chosen].pid or 0, signal.SIGKILL)
            kills += 1
        team[chosen].join()
        team[chosen] = start_one()
    assert done or halfway is _nothing
    for process in team:
        process.join(300)
        assert process.exitcode == 0
    return kills


def check_whole(study: optuna.Study, trials: int, workers: int = 1) -> None:
    every = study.get_trials(deepcopy=False)
    assert [t.number for t in every] == list(range(len(every)))
    waiting = [t for t in every if t.state is TrialState.WAITING]
    assert {t.state for t in every} <= {TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING}
    assert all("retry_of" in t.user_attrs for t in waiting), "lost when the study was done"
    own = passes(study)
    assert trials <= len(own) < trials + workers, "the last ones may start at the same time"
    lost = [t for t in every if t.state is TrialState.FAIL and not is_double(t)]
    assert all("its worker was lost" in t.user_attrs["reason"] for t in lost)
    retries = [t for t in every if "retry_of" in t.user_attrs and not is_double(t)]
    again = [t.user_attrs["retry_of"] for t in retries]
    # Two workers may bring back one trial; the second entry still waits if the study ends before.
    run_again = [t.user_attrs["retry_of"] for t in retries if t.state is not TrialState.WAITING]
    assert len(run_again) == len(set(run_again)), "nothing runs again twice"
    whole = [t.number for t in lost if set(t.params) == set(own[0].params)]
    left_out = [t.number for t in lost if t.user_attrs["reason"].endswith("3 of 3 times")]
    assert set(whole) - set(left_out) <= set(again), "what was lost is in the queue again"
    assert set(again) <= {t.number for t in lost}
    exits = [(exit_of(t), str(t.params)) for t in every if exit_of(t) is not None]
    assert {number for number, _ in exits} <= {p.number for p in own}
    assert len(exits) == len(set(exits))
