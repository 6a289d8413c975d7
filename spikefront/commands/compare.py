"""``spikefront compare``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from spikefront.loading import open_study, study_named
from spikefront.options import OUTPUT, TABLE, command, option, table_option
from spikefront.output import LOG, print_table

if TYPE_CHECKING:
    import optuna

    from reports import ParetoFront


@command()
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...")
@option(
    OUTPUT,
    "--to",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Also write a page on which the fronts lie over each other.",
)
@table_option
def compare(studies: tuple[str, ...], to: Path | None, table: str) -> None:
    """Compare finished studies: what each reached, side by side.

    A STUDY is the folder of a search (its --out) or an Optuna storage URL; with #NAME for one of
    several studies there. Only the storages are read: no model and no data are loaded.

    \b
    spikefront compare runs/a runs/b --to compare.html
    spikefront compare sqlite:///all.db#tpe sqlite:///all.db#ours --table latex
    """  # noqa: D301 - click wants the control character
    opened = [_opened(text) for text in studies]
    from reports import Findings, comparison_frame, comparison_table, kept_front, table_text
    from reports import write_comparison as write

    fronts = [kept_front(study) for study, _, _ in opened]
    if len({front.study for front in fronts}) < len(fronts):  # told apart by where they are
        fronts = [replace(f, study=place) for f, place in zip(fronts, studies, strict=True)]
    _warn(fronts)
    if to is not None:
        exports = (f"spikefront export{study_named(*one)} --trial" for one in opened)
        write([(Findings(front=f), e) for f, e in zip(fronts, exports, strict=True)], to)
    if table == TABLE:
        print_table(comparison_table(fronts))
    else:
        click.echo(table_text(comparison_frame(fronts), table), nl=False)  # type: ignore[arg-type]
    if to is not None:
        click.echo(f"\nOpen {to}", err=True)


def _opened(text: str) -> tuple[optuna.Study, Path, str | None]:
    place, _, name = text.partition("#")
    storage = place if "://" in place else None
    out = Path(place) if storage is None else Path("spikefront-out")
    how = f"name one as {place}#NAME"
    return open_study(out, storage, name or None, how), out, storage


def _warn(fronts: list[ParetoFront]) -> None:
    """Say what makes the columns incomparable."""
    models = {front.energy_model.name for front in fronts}
    if len(models) > 1:
        LOG.warning("the studies have different energy models: %s", ", ".join(sorted(models)))
    scores = {round(front.ann["search"].accuracy.value, 6) for front in fronts}
    if len(scores) > 1:
        LOG.warning("the ANNs differ on the search split: other models, data or splits")
