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
    write_files,
)
from spikefront.options import (
    OUTPUT,
    SETTING,
    TABLE,
    artifacts_option,
    command,
    energy_option,
    figure_endings,
    json_option,
    option,
    read_by,
    run_options,
    study_options,
    table_option,
    task_options,
)
from spikefront.output import progress_bar, show, working


@command()
@study_options
@energy_option(None, "Price the finished trials by another model, without running them again")
@option(SETTING, "--no-test", is_flag=True, help="Leave the test split alone.")
@option(
    OUTPUT,
    "--figures",
    "figure_kinds",
    default="svg,png",
    show_default=True,
    metavar="KIND,KIND",
    callback=read_by(figure_endings),
    help="File types of the figures: svg, png, pdf.",
)
@option(
    OUTPUT,
    "--figure-width",
    type=click.FloatRange(60, 400),
    default=180.0,
    show_default=True,
    metavar="MM",
    help="Width of the figure files; 88 is one column of a paper.",
)
@task_options
@run_options
@artifacts_option
@table_option
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
    table: str,
    no_test: bool,
    figure_kinds: tuple[str, ...],
    figure_width: float,
    **task: Any,
) -> None:
    """Measure the front on the test split; write tables, figures and report.html.

    Each point is measured on the test split once; the study keeps the result.

    \b
    spikefront report
    spikefront report --energy-model loihi --json
    spikefront report --figures pdf --figure-width 88 --table latex
    """  # noqa: D301 - click wants the control character
    from conversion import energy_model
    from reports import findings, front_table, measure_front, points_frame, summary, table_text

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
    with working("looking at the knee and drawing"):
        found = findings(study, evaluator, front)
        provenance = provenance_of(study, evaluator, spec)
        files = write_files(
            study, found, out, storage, provenance, named_again(task),
            figure_kinds=figure_kinds, width_mm=figure_width,
        )  # fmt: skip
    if table != TABLE:
        click.echo(table_text(points_frame(found.front), table), nl=False)  # type: ignore[arg-type]
        return
    show(as_json, lambda: summary(front), lambda: front_table(front))
    if not as_json:
        click.echo(f"\n{len(files)} files in {files[-1].parent}; open {files[-1]}")
        if files[0].suffix == ".toml":
            click.echo(f"To search again with these options: spikefront search --config {files[0]}")
