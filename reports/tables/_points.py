"""The front for a paper, and tables as text for other programs."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pandas as pd

from conversion import ConfigError
from reports._front import FrontPoint, ParetoFront
from spaces import names

TableKind = Literal["csv", "markdown", "latex", "json"]
TABLE_KINDS: tuple[TableKind, ...] = get_args(TableKind)


def points_frame(front: ParetoFront) -> pd.DataFrame:
    """One row per point: loss and energy on each split, and its settings.

    Losses are in points, with their 95 % intervals; energies in percent of the ANN's.
    """
    return pd.DataFrame([_row(front, point) for point in front.points])


def _row(front: ParetoFront, point: FrontPoint) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": point.trial}
    for split in front.ann:
        m = getattr(point, split)
        row[f"{front.metric}, {split} (%)"] = round(100 * m.accuracy.value, 2)
        if m.drop is not None:
            low, high = m.drop.interval()
            row[f"lost, {split}"] = round(100 * m.drop.mean, 2)
            row[f"95 %, {split}"] = f"{100 * low:.2f} to {100 * high:.2f}"
        row[f"energy / ANN, {split} (%)"] = round(100 * m.energy_ratio, 2)
        row[f"energy / int8 ANN, {split} (%)"] = round(100 * m.energy_ratio_int8, 1)
    last = getattr(point, list(front.ann)[-1])
    row["mean steps"] = round(last.timesteps.value, 2)
    for objective in front.objectives:
        if objective == "synops" and last.latency_synops is not None:
            row["synops on the path"] = round(last.latency_synops.value)
        if objective == "memory" and last.memory_bytes is not None:
            row["memory (bytes)"] = last.memory_bytes
    row["T"] = point.params[names.TIMESTEPS]
    row["neuron, calibration"] = point.how
    return row


def table_text(frame: pd.DataFrame, kind: TableKind) -> str:
    """A data frame as CSV, Markdown, LaTeX (booktabs) or JSON.

    Raises:
        ConfigError: The kind is unknown.
    """
    if kind == "csv":
        return frame.to_csv(index=False)
    if kind == "markdown":
        return frame.to_markdown(index=False, floatfmt=".2f") + "\n"
    if kind == "latex":
        return frame.to_latex(index=False, escape=True, float_format="%.2f")
    if kind == "json":
        return frame.to_json(orient="records", indent=1, force_ascii=False) + "\n"
    raise ConfigError(f"a table format must be one of {', '.join(TABLE_KINDS)}, got {kind!r}")
