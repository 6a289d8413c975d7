"""``spikefront worker``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikefront.options import artifacts_option, run_options, task_options, timeout_option
from spikefront.shared import (
    artifacts_of,
    evaluator_of,
    open_existing,
    states_in,
    trial_bar,
)

if TYPE_CHECKING:
    import optuna


@click.command()
@click.option(
    "--storage",
    envvar="SPIKEFRONT_STORAGE",
    required=True,
    help="Where the study is: an Optuna URL, or a journal; or $SPIKEFRONT_STORAGE.",
)
@click.option("--study", "study_name", help="Its name. Default: the only one there.")
@task_options
@run_options
@click.option("--trials", type=click.IntRange(1), help="Default: as many as the search said.")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads. Default: torch's, all cores as a rule."
)
@timeout_option
@artifacts_option
def worker(
    storage: str,
    study_name: str | None,
    device: str,
    batch_size: int | None,
    trials: int | None,
    threads: int | None,
    timeout: float | None,
    artifacts: str | None,
    **task: Any,
) -> None:
    """Take part in a study, from any machine that reaches its storage, until it is done.

    `spikefront search --storage URL` makes the study (with --workers 0 it does no more than that).
    What to load, the sampler and the number of trials are in the study. --data and --weights say
    where they are on this machine, if elsewhere; another model or other data is refused. Workers
    may come, go and be killed at any time: the trial of one that is lost runs again.
    """
    import torch

    import search as rooms

    if threads is not None:
        torch.set_num_threads(threads)
    study, spec = open_existing(Path(), storage, study_name, task)
    setup, plan = rooms.study_setup(study), rooms.plan_of(study)
    evaluator = evaluator_of(study, spec, device, batch_size, version=True, artifacts=artifacts)

    def sampler(number: int) -> Any:
        return rooms.make_sampler(
            plan.sampler,
            seed=setup.seed + number,
            profile=evaluator.profile,
            space=setup.space,
            energy=evaluator.energy,
            budget=setup.budget,
        )

    own = 0
    with trial_bar(evaluator, trials or plan.trials, len(rooms.passes(study))) as on_trial:

        def counted(study: optuna.Study, count: int, reason: str | None) -> None:
            nonlocal own
            own += 1
            on_trial(study, count, reason)

        rooms.run_worker(
            study,
            setup.space,
            evaluator,
            trials=trials,
            sampler=sampler,
            ann_accuracy=evaluator.ann("search").accuracy.value,
            timeout=timeout or plan.timeout,
            on_trial=counted,
            states=states_in(artifacts_of(study, artifacts)),
        )
    click.echo(f"{own} trials by this worker; the study has run {len(rooms.passes(study))}")
