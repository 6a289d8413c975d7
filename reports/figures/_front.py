"""Accuracy against energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from conversion import Costs
from evaluators import Measurement
from reports._baselines import BASELINES
from reports._front import FrontPoint, ParetoFront, knee
from reports._models import UnderModel
from reports.figures._style import (
    BLACK,
    BLUE,
    GREY,
    VERMILION,
    energy_axis,
    legend_below,
    new_axes,
    styled,
)


@styled
def plot_front(front: ParetoFront, ax: Axes | None = None, *, costs: Costs | None = None) -> Axes:
    """Plot the loss against the ANN over energy: trials, baselines, the front on both splits.

    Losses and their 95 % intervals are paired: both networks see the same samples. The data frames
    are :func:`front_frame`, :func:`trials_frame`.

    Args:
        front: The front of a study.
        ax: Axes to draw into; None creates a figure.
        costs: Costs of the network; with them, the quantised ANNs of as many levels are drawn.
    """
    ax = new_axes(ax, 85)
    searched = [p for p in front.trials if p.baseline is None]
    _dots(ax, front, searched, "trials", color=GREY, marker=".", s=6, zorder=1, alpha=0.6)
    for name, kind in BASELINES.items():
        found = [p for p in front.trials if p.baseline == name]
        _dots(ax, front, found, f"baselines: {kind.label}", color=kind.color, marker=kind.marker,
              s=11, zorder=2, linewidths=0)  # fmt: skip
    _line(ax, front, lambda p: p.search, "search", color=BLUE, marker="o")
    if any(p.test for p in front.points):
        style = {"color": VERMILION, "marker": "s", "linestyle": "--"}
        _line(ax, front, lambda p: p.test, "test", **style)
    best = knee(front.points)
    ax.scatter(
        best.search.energy_ratio, 100 * front.lost(best.search), s=55, facecolors="none",
        edgecolors=BLACK, linewidths=0.9, zorder=4, label=f"knee (trial {best.trial})",
    )  # fmt: skip
    if costs is not None:
        _rivals(ax, front, costs)
    _limits(ax, front)
    ann = front.ann["search"]
    ax.axhline(0, color=BLACK, linewidth=0.7, label="ANN")
    int8 = ann.energy_int8_pj / ann.energy_pj
    if int8 < 1:
        ax.axvline(int8, color=BLACK, linestyle=":", linewidth=0.9, label="ANN in int8")
    energy_axis(ax, f"energy per inference, share of the ANN's ({front.energy_model.name})")
    ax.set_ylabel(f"{front.metric} lost, points (bars: 95 %)")
    _frame(ax, front)
    legend_below(ax)
    return ax


def _dots(
    ax: Axes, front: ParetoFront, points: Sequence[FrontPoint], label: str, **style: Any
) -> None:
    if points:
        x = [p.search.energy_ratio for p in points]
        y = [100 * front.lost(p.search) for p in points]
        ax.scatter(x, y, label=label, **style)


def _line(
    ax: Axes,
    front: ParetoFront,
    measurement_of: Callable[[FrontPoint], Measurement | None],
    split: str,
    **style: Any,
) -> None:
    found = [m for m in map(measurement_of, front.points) if m is not None]
    found.sort(key=lambda m: m.energy_ratio)
    lost = np.array([100 * front.lost(m) for m in found])
    ends = np.array([_interval(m) for m in found])
    ax.errorbar(
        [m.energy_ratio for m in found], lost, yerr=np.maximum(ends.T, 0),
        markersize=3, linewidth=1.1, elinewidth=0.5, zorder=3,
        label=f"front, {split} split (n = {found[0].n:,})", **style,
    )  # fmt: skip


def _interval(m: Measurement) -> tuple[float, float]:
    """Extent of the interval below and above the loss, in points."""
    if m.drop is None:
        below, above = m.accuracy.high - m.accuracy.value, m.accuracy.value - m.accuracy.low
        return 100 * below, 100 * above
    low, high = m.drop.interval()
    return 100 * (m.drop.mean - low), 100 * (high - m.drop.mean)


def _rivals(ax: Axes, front: ParetoFront, costs: Costs) -> None:
    under = UnderModel(front=front, costs=costs, studied=frozenset())
    pairs = [
        (ratio, 100 * front.rivals[p.trial].drop.mean)
        for p in front.points
        if (ratio := under.rival_ratio(p)) is not None
    ]
    if pairs:
        x, y = zip(*pairs, strict=True)
        ax.scatter(x, y, color=BLACK, marker="x", s=14, linewidths=0.8, zorder=2,
                   label="quantised ANNs, as many levels")  # fmt: skip


def _limits(ax: Axes, front: ParetoFront) -> None:
    budget = front.budget
    style: dict[str, Any] = {"color": VERMILION, "linewidth": 0.8, "linestyle": "-."}
    if budget.max_energy is not None:
        ax.axvline(budget.max_energy, label="budget", **style)
    if budget.max_accuracy_drop is not None:
        label = "budget" if budget.max_energy is None else None
        ax.axhline(100 * budget.max_accuracy_drop, label=label, **style)


def _frame(ax: Axes, front: ParetoFront) -> None:
    """Limit the axis to the best interval's end and the front's worst point, at most 15 points."""
    found = [m for p in front.points for m in (p.search, p.test) if m is not None]
    top = min([0.0, *(100 * front.lost(m) - _interval(m)[0] for m in found)])
    worst = max(100 * front.lost(m) + _interval(m)[1] for m in found)
    bottom = max(min(worst, min(100 * front.lost(m) for m in found) + 15.0), 1.0)
    margin = 0.06 * (bottom - top)
    ax.set_ylim(bottom + margin, top - margin)  # smaller losses are better, so they are at the top
    below = sum(100 * front.lost(m) > bottom + margin for m in found)
    if below:
        ax.annotate(
            f"↓ {below} more of the front", (0.02, 0.03), xycoords="axes fraction", color=BLUE,
            fontsize=6.5,
        )  # fmt: skip
