"""The ANN and the spiking network by class."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from evaluators import Comparison
from reports.figures._style import (
    BLUE,
    GREY,
    TWO_COLUMNS,
    figure_of,
    legend_below,
    new_axes,
    styled,
)

_NETWORKS, _COLORS = ("ANN", "spiking network"), (GREY, BLUE)


def classes_frame(comparison: Comparison) -> pd.DataFrame:
    """The metric of each class for both networks.

    Returns:
        Columns ``class``, ``ANN``, ``spiking network``; empty if the task has no classes.
    """
    values = comparison.per_class.numpy()
    columns = dict(zip(_NETWORKS, values, strict=True))
    return pd.DataFrame({"class": np.arange(values.shape[1]), **columns})


@styled
def plot_classes(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Plot the metric by class for both networks."""
    frame = classes_frame(comparison)
    ax = new_axes(ax, 30 + 4.2 * min(len(frame), 40))
    for i, (name, color) in enumerate(zip(_NETWORKS, _COLORS, strict=True)):
        values = frame[name].fillna(0)
        ax.barh(frame["class"] + 0.4 * (i - 0.5), values, 0.4, label=name, color=color)
    ax.set_yticks(*_ticks(len(frame)))
    ax.set_ylim(len(frame) - 0.4, -0.6)
    ax.set_xlabel(re.sub("^m(?=IoU|AP)", "", comparison.metric))  # of one class, so no mean
    ax.set_ylabel("class")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    legend_below(ax, per_row=2)
    return ax


def confusion_frame(comparison: Comparison) -> pd.DataFrame:
    """Counts of samples by the ANN's class (row) and the spiking network's class (column)."""
    return pd.DataFrame(comparison.confusion.numpy())


@styled
def plot_confusion(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Plot these counts as shares of the ANN's decisions."""
    counts = confusion_frame(comparison).to_numpy(float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax = new_axes(ax, 80)
    ax.grid(False)
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.set_xlabel("class of the spiking network")
    ax.set_ylabel("class of the ANN")
    ax.set_xticks(*_ticks(len(shares)))
    ax.set_yticks(*_ticks(len(shares)))
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, format=PercentFormatter(1.0))
    bar.set_label("of the ANN's decisions")
    return ax


def _ticks(classes: int) -> tuple[Sequence[int], Sequence[str]]:
    every = range(0, classes, max(1, -(-classes // 20)))
    return every, [str(i) for i in every]


@styled
def draw_classes(comparison: Comparison, width_mm: float) -> Figure | None:
    """Draw both plots, side by side or stacked; None if the task has no classes."""
    classes = comparison.per_class.shape[1]
    if not classes:
        return None
    panels = 2 if comparison.confusion.numel() else 1
    columns = panels if width_mm >= TWO_COLUMNS * 0.8 else 1
    rows = panels // columns
    height = max(72.0, 30 + 4.2 * min(classes, 40))
    figure = figure_of(width_mm, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    plot_classes(comparison, grid[0])
    if panels == 2:
        plot_confusion(comparison, grid[1])
    return figure
