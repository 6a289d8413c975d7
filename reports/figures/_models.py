"""The front under several energy models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports._models import UnderModel
from reports.figures._style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    energy_axis,
    figure_of,
    new_axes,
    styled,
)


@styled
def plot_model(under: UnderModel, ax: Axes | None = None) -> Axes:
    """Plot the metric over energy under one model, as a share of the ANN's energy.

    The data frame is :func:`models_frame`.
    """
    ax = new_axes(ax, 70)
    front = under.front
    trials = [(p.search.energy_ratio, p.search.accuracy.value) for p in front.trials]
    fallen = [(p.search.energy_ratio, p.search.accuracy.value) for p in under.fallen]
    rivals = [
        (ratio, front.rivals[p.trial].accuracy.value)
        for p in front.trials
        if (ratio := under.rival_ratio(p)) is not None
    ]
    _dots(ax, trials, "trials", color=GREY, marker=".", s=6, linewidths=0)
    hollow = {"facecolors": "none", "edgecolors": ORANGE, "marker": "o", "s": 18}
    _dots(ax, fallen, "on the study's own front only", linewidths=0.9, **hollow)
    _dots(ax, rivals, "quantised ANN, as many levels", color=PURPLE, marker="x", s=13,
          linewidths=0.8)  # fmt: skip
    line = [(p.search.energy_ratio, p.search.accuracy.value) for p in front.points]
    ax.plot(
        *zip(*line, strict=True), color=BLUE, marker=".", drawstyle="steps-post", zorder=3,
        label="front",
    )  # fmt: skip
    ann = front.ann["search"]
    int8 = ann.energy_int8_pj / ann.energy_pj
    ax.axvline(int8, color=BLACK, linestyle=":", linewidth=0.9, label="ANN in int8")
    ax.axvline(1.0, color=BLACK, linewidth=0.7, label="ANN's energy")
    ax.axhline(ann.accuracy.value, color=BLUE, linewidth=0.6, alpha=0.6, label="ANN's score")
    energy_axis(ax, "energy, share of the ANN's")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    found = [p.search.accuracy.value for p in front.points]
    top = max(*found, ann.accuracy.value)
    bottom = max(min(found), top - 0.08)
    ax.set_ylim(bottom - 0.1 * (top - bottom) - 0.002, top + 0.1 * (top - bottom) + 0.002)
    ax.set_ylabel(f"{front.metric}, search split")
    ax.set_title(under.energy.name)
    return ax


def _dots(ax: Axes, points: Sequence[tuple[float, float]], label: str, **style: Any) -> None:
    x, y = zip(*points, strict=True) if points else ((), ())
    ax.scatter(x, y, label=label, zorder=2, **style)


@styled
def draw_models(found: Sequence[UnderModel], width_mm: float) -> Figure:
    """Draw one panel per model, with a common legend."""
    columns = max(1, min(3, int(width_mm / 58)))
    rows = -(-len(found) // columns)
    figure = figure_of(width_mm, 14 + 48 * rows)
    grid = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for ax, under in zip(grid, found, strict=False):
        plot_model(under, ax)
    for ax in grid[len(found) :]:
        ax.set_visible(False)
    for i, ax in enumerate(grid[: len(found)]):
        if i + columns < len(found):
            ax.set_xlabel("")
        if i % columns:
            ax.set_ylabel("")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False,
                  ncols=max(2, int(width_mm / 44)))  # fmt: skip
    return figure
