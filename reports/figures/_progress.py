"""The progress of a search: hypervolume over trials and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from reports._baselines import BASELINES
from reports._front import FrontPoint, ParetoFront, hypervolume
from reports.figures._style import (
    BLACK,
    BLUE,
    TWO_COLUMNS,
    figure_of,
    legend_below,
    new_axes,
    styled,
)

Against = Literal["minutes", "trials"]


def progress_frame(front: ParetoFront) -> pd.DataFrame:
    """The hypervolume after each trial, scaled to the front.

    Energy is logarithmic, from the front's cheapest point to the ANN or the front's most expensive
    point; accuracy runs from the front's worst point to its best. The maximum, 1, is the best
    accuracy at the lowest energy. Trials outside the budget do not count.

    Returns:
        Columns ``trial``, ``trials`` (passes so far), ``minutes`` since the first trial began,
        ``baseline``, ``hypervolume``.
    """
    scaled, kept = _scales(front), _kept(front)
    starts = [p.started for p in front.trials if p.started is not None]
    rows, seen, passes = [], [], 0
    for point in sorted(front.trials, key=_when):
        seen += [scaled(point)] if kept(point) else []
        passes += point.exit_of is None
        minutes = math.nan
        if point.finished is not None and starts:
            minutes = (point.finished - min(starts)).total_seconds() / 60
        rows.append(
            {
                "trial": point.trial,
                "trials": passes,
                "minutes": minutes,
                "baseline": point.baseline,
                "hypervolume": hypervolume(seen),
            }
        )
    return pd.DataFrame(rows)


def _when(point: FrontPoint) -> tuple[bool, datetime, int]:
    """Sort key: the time at which a trial ended, if known."""
    return point.finished is None, point.finished or datetime.min, point.trial


def _scales(front: ParetoFront) -> Callable[[FrontPoint], tuple[float, float]]:
    """Scales (accuracy, energy) of a point to 0..1 over the front, clipping worse values."""
    accuracies = [p.search.accuracy.value for p in front.points]
    ratios = [p.search.energy_ratio for p in front.points]
    best, worst = max(accuracies), min(accuracies)
    if best - worst < _NARROW:  # a front of one point, or of equally accurate ones
        worst = best - 10 * _NARROW
    least, most = min(ratios), max(1.0, *ratios)
    wide = math.log(most / least) or math.log(10)

    def scaled(point: FrontPoint) -> tuple[float, float]:
        m = point.search
        accuracy = min(max((m.accuracy.value - worst) / (best - worst), 0.0), 1.0)
        energy = math.log(max(m.energy_ratio, least) / least) / wide
        return accuracy, energy

    return scaled


_NARROW = 0.005
_SHORT = 2.0
"""Minutes below which the axis has seconds."""


def _kept(front: ParetoFront) -> Callable[[FrontPoint], bool]:
    """Whether a trial counts: it is within the budget and better than chance."""
    numbers = {p.trial for p in front.candidates}
    return lambda point: point.trial in numbers


@styled
def plot_progress(
    front: ParetoFront, ax: Axes | None = None, *, against: Against = "trials"
) -> Axes:
    """Plot the hypervolume over trials or minutes, with a line for each kind of baseline alone."""
    ax = new_axes(ax, 60)
    frame = progress_frame(front)
    ax.step(frame[against], frame["hypervolume"], where="post", color=BLUE, label="search")
    scaled, kept = _scales(front), _kept(front)
    for name, kind in BASELINES.items():
        found = [scaled(p) for p in front.trials if p.baseline == name and kept(p)]
        if found:
            ax.axhline(hypervolume(found), color=kind.color, linestyle=kind.line,
                       label=f"only {kind.label}")  # fmt: skip
    ends = frame[frame["baseline"].isna()]
    if len(ends) and len(ends) < len(frame):
        ax.axvline(ends[against].iloc[0], color=BLACK, linewidth=0.7, linestyle=(0, (1, 2)),
                   label="baselines end")  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.set_xlabel({"trials": "trials run", "minutes": "minutes since the first trial"}[against])
    if against == "minutes" and frame["minutes"].max() < _SHORT:
        seconds = MaxNLocator(nbins=6).tick_values(0, 60 * frame["minutes"].max())
        ax.xaxis.set_major_locator(FixedLocator([s / 60 for s in seconds]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda minutes, _: f"{60 * minutes:g}"))
        ax.set_xlabel("seconds since the first trial")
    ax.set_ylabel("hypervolume (log energy)")
    ax.set_ylim(0, 1.02)
    legend_below(ax)
    return ax


@styled
def draw_progress(front: ParetoFront, width_mm: float) -> Figure:
    """Draw it over trials and, if times are known, over minutes."""
    kinds: Sequence[Against] = ("trials", "minutes")
    if progress_frame(front)["minutes"].isna().all():
        kinds = kinds[:1]
    wide = width_mm >= TWO_COLUMNS * 0.8
    columns = len(kinds) if wide else 1
    rows = -(-len(kinds) // columns)
    figure = figure_of(width_mm, 58 * rows + 12)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, kind in zip(grid, kinds, strict=True):
        plot_progress(front, ax, against=kind)
    for ax in grid:
        ax.get_legend().remove()
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside lower center", frameon=False,
        ncols=max(2, int(width_mm / 44)),
    )  # fmt: skip
    return figure
