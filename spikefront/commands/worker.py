"""``spikefront worker``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from spikefront.loading import artifacts_of, evaluator_of, open_existing, states_in
from spikefront.options import (
    MACHINE,
    STUDY,
    artifacts_option,
    command,
    log_option,
    option,
    run_options,
    task_options,
    timeout_option,
)
from spikefront.output import counted, trial_bar

if TYPE_CHECKING:
    import optuna


@command()
@option(
    STUDY,
    "--storage",
    envvar="SPIKEFRONT_STORAGE",
    required=True,
    metavar="URL",
    help="Where the study is: an Optuna URL, or a journal; or $SPIKEFRONT_STORAGE.",
)
@option(STUDY, "--study", "study_name", metavar="NAME", help="Default: the only study there.")
@option(
    STUDY,
    "--trials",
    type=click.IntRange(1),
    metavar="N",
    help="Default: as many as the search asked for.",
)
@task_options
@run_options
@option(
    MACHINE,
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="CPU threads. Default: torch's, usually all cores.",
)
@artifacts_option
@timeout_option
@log_option
def worker(
    storage: str,
    study_name: str | None,
    device: str,
    batch_size: int | None,
    trials: int | None,
    threads: int | None,
    timeout: float | None,
    artifacts: str | None,
    log_every: int,
    **task: Any,
) -> None:
    """Join a study from any machine that reaches its storage, until it is done.

    `spikefront search --storage URL --workers 0` makes the study. What to load, the sampler and
    the number of trials are in it; --data and --weights give the paths on this machine if they
    differ. A different model or different data is refused. Workers may come, go and be killed at
    any time: the trial of a lost worker runs again.

    \b
    spikefront worker --storage postgresql+psycopg://user@host/db --study digits
    """  # noqa: D301 - click wants the control character
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
    planned, run = trials or plan.trials, len(rooms.passes(study))
    with trial_bar(evaluator, planned, run, log_every) as on_trial:

        def counting(study: optuna.Study, count: int, reason: str | None) -> None:
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
            on_trial=counting,
            states=states_in(artifacts_of(study, artifacts)),
        )
    done = len(rooms.passes(study))
    click.echo(f"{counted(own, 'trial')} by this worker; the study has run {done}")
