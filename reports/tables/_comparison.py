"""Several studies side by side."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.table import Table

from reports._front import FrontPoint, ParetoFront, hypervolume, is_promised

_LIMITS = (0.5, 1.0, 2.0)
"""Points lost at most, for the cheapest trial that keeps it."""


def comparison_frame(fronts: Sequence[ParetoFront]) -> pd.DataFrame:
    """Results of each study.

    Energies are comparable only under the same energy model, and losses only on the same task;
    check the columns ``metric``, ``energy model`` and ``ANN, search, %``.
    """
    return pd.DataFrame([_row(front) for front in fronts])


def _row(front: ParetoFront) -> dict[str, object]:
    pairs = [(p.search.accuracy.value, p.search.energy_ratio) for p in front.points]
    row: dict[str, object] = {
        "study": front.study,
        "metric": front.metric,
        "energy model": front.energy_model.name,
        "ANN, search, %": round(100 * front.ann["search"].accuracy.value, 2),
        "trials": front.passes,
        "points": len(front.points),
        "hypervolume": round(hypervolume(pairs), 4),
    }
    for limit in _LIMITS:
        found = _cheapest(front, limit / 100)
        row[f"energy at {limit:g} lost, %"] = (
            "–" if found is None else round(100 * found.search.energy_ratio, 2)
        )
    found = _cheapest(front, _LIMITS[-1] / 100)
    tested = {point.trial: point.test for point in front.points}
    test = (found.test or tested.get(found.trial)) if found else None
    row["its loss on test"] = (
        "–" if test is None or test.drop is None else round(100 * test.drop.mean, 2)
    )
    return row


def _cheapest(front: ParetoFront, limit: float) -> FrontPoint | None:
    """The cheapest trial whose loss is promised to stay within a limit, as in ``select``."""
    kept = [p for p in front.within or front.trials if is_promised(p, limit, front.confidence)]
    return min(kept, key=lambda p: p.search.energy_ratio, default=None)


def comparison_table(fronts: Sequence[ParetoFront]) -> Table:
    """The same table for the console."""
    frame = comparison_frame(fronts)
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
        caption="hypervolume: of accuracy and energy saved, 1 at most. Energy at n lost: of the"
        " cheapest point that loses at most n points with the study's confidence, share of the"
        " ANN's; –: there is none. Its loss on test: of the last of these",
    )  # fmt: skip
    for i, column in enumerate(frame.columns):
        table.add_column(column, justify="left" if i < 3 else "right", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(str(value) for value in row))
    return table
