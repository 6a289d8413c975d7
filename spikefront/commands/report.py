"""``spikefront report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikefront.options import (
    artifacts_option,
    energy_option,
    run_options,
    study_options,
    task_options,
)
from spikefront.shared import (
    evaluator_of,
    named_again,
    open_existing,
    print_table,
    progress_bar,
    provenance_of,
)

if TYPE_CHECKING:
    pass


@click.command()
@study_options
@task_options
@run_options
@artifacts_option
@energy_option(None, "Price the finished trials by another model, without running them again")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--no-test", is_flag=True, help="Leave the test split alone.")
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
    """Write front.csv, trials.csv, figures and report.html; re-measure the front on test.

    Each point is measured on the test split once; the study keeps the result.
    """
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
    if as_json:
        click.echo(json.dumps(summary(front), allow_nan=False))
        return
    print_table(front_table(front))
    click.echo(f"\n{len(files)} files in {out}; open {files[-1]}")
