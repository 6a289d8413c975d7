"""``spikefront report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from spikefront.loading import (
    evaluator_of,
    named_again,
    open_existing,
    provenance_of,
    write_settings,
)
from spikefront.options import (
    SETTING,
    artifacts_option,
    command,
    energy_option,
    json_option,
    option,
    run_options,
    study_options,
    task_options,
)
from spikefront.output import progress_bar, show


@command()
@study_options
@energy_option(None, "Price the finished trials by another model, without running them again")
@option(SETTING, "--no-test", is_flag=True, help="Leave the test split alone.")
@task_options
@run_options
@artifacts_option
@json_option
def report(
    out: Path,
    storage: str | None,
    study_name: str | None,
    device: str,
    batch_size: int | None,
    artifacts: str | None,
    prices: str | None,
    as_json: bool,
    no_test: bool,
    **task: Any,
) -> None:
    """Measure the front on the test split; write tables, figures and report.html.

    Each point is measured on the test split once; the study keeps the result.

    \b
    spikefront report
    spikefront report --energy-model loihi --json
    """  # noqa: D301 - click wants the control character
    from conversion import energy_model
    from reports import compare_knee, front_table, measure_front, summary, write_report

    study, spec = open_existing(out, storage, study_name, task)
    evaluator = evaluator_of(study, spec, device, batch_size, artifacts=artifacts, out=out)
    with progress_bar() as progress:
        bar = progress.add_task("measuring the front on the test split", total=None, front="")
        front = measure_front(
            study,
            evaluator,
            test=not no_test,
            rivals=True,
            energy=energy_model(prices) if prices else None,
            on_point=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    costs = evaluator.profile.costs
    files = write_report(
        front,
        out,
        costs=costs,
        provenance=provenance_of(study, evaluator, spec),
        comparison=compare_knee(study, evaluator, front),
        task=evaluator.task,
        again=named_again(task),
    )
    show(as_json, lambda: summary(front), lambda: front_table(front))
    if not as_json:
        again = write_settings(study, out)
        click.echo(f"\n{len(files) + len(again)} files in {out}; open {files[-1]}")
        if again:
            click.echo(f"The same study again: spikefront search --config {again[0]}")
