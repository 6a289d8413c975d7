"""Early exits: when samples exit, and the metric at each step."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from evaluators import Comparison
from reports._front import ParetoFront
from reports.figures._style import (
    BLACK,
    BLUE,
    SKY,
    THREE,
    TWO_COLUMNS,
    figure_of,
    legend_below,
    new_axes,
    styled,
    three_points,
)


def exits_frame(front: ParetoFront) -> pd.DataFrame:
    """Share of samples that exit at each step for three points of the front, search split.

    Returns:
        Columns ``point``, ``trial``, ``step``, ``share``.
    """
    return pd.DataFrame(
        [
            {"point": label, "trial": point.trial, "step": step, "share": share}
            for label, point in three_points(front)
            for step, share in enumerate(point.search.exits, 1)
        ]
    )


@styled
def plot_exits(front: ParetoFront, ax: Axes | None = None) -> Axes:
    """Plot these shares as bars."""
    ax = new_axes(ax, 60)
    frame = exits_frame(front)
    points = list(dict.fromkeys(frame["point"]))
    width = 0.8 / len(points)
    for i, (name, color) in enumerate(zip(points, THREE, strict=False)):
        rows = frame[frame["point"] == name]
        mean = float((rows["step"] * rows["share"]).sum())
        place = rows["step"] + (i - (len(points) - 1) / 2) * width
        ax.bar(place, rows["share"], width, color=color, label=f"{name}: mean {mean:.2f}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("step at which a sample leaves")
    ax.set_ylabel("samples, search split")
    legend_below(ax, per_row=1)
    return ax


def steps_frame(comparison: Comparison) -> pd.DataFrame:
    """The metric if all samples stopped after each step, and the share that actually exits.

    Returns:
        Columns ``step``, ``score``, ``share_leaving``.
    """
    steps = np.arange(1, len(comparison.step_scores) + 1)
    columns = {
        "step": steps, "score": comparison.step_scores, "share_leaving": comparison.exits
    }  # fmt: skip
    return pd.DataFrame(columns)


@styled
def plot_steps(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Plot the metric over steps with the ANN's, and the share of exits as bars."""
    ax = new_axes(ax, 60)
    frame = steps_frame(comparison)
    ax.bar(frame["step"], frame["share_leaving"], 0.6, color=SKY, label="samples that leave there")
    ax.plot(
        frame["step"], frame["score"], color=BLUE, marker="o", label="knee, if all stopped there"
    )
    if comparison.ann_score is not None:
        ax.axhline(comparison.ann_score, color=BLACK, linewidth=0.8, label="ANN")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("step")
    ax.set_ylabel(f"{comparison.metric}, {comparison.split} split")
    legend_below(ax, per_row=1)
    return ax


@styled
def draw_exits(front: ParetoFront, comparison: Comparison | None, width_mm: float) -> Figure:
    """Draw both plots, side by side or stacked."""
    both = comparison is not None and bool(comparison.step_scores)
    wide = width_mm >= TWO_COLUMNS * 0.8
    columns = 2 if both and wide else 1
    rows = 2 if both and not wide else 1
    figure = figure_of(width_mm, 68 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    plot_exits(front, grid[0])
    if both and comparison is not None:
        plot_steps(comparison, grid[1])
    return figure
