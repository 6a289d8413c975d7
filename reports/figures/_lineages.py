"""Learned points and what they continue from."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from conversion import make_calibration
from reports._front import ParetoFront
from reports.figures._style import (
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    energy_axis,
    legend_below,
    new_axes,
    styled,
)
from spaces import names


def lineages_frame(front: ParetoFront) -> pd.DataFrame:
    """Every learned trial and the trial whose state it continues.

    Returns:
        Columns ``trial``, ``parent`` (NaN for a root), ``segments`` (learned before its own),
        ``energy_weight``, ``energy_ratio``, ``points_lost``, ``on_front``
        (it, or an additional exit of its run).
    """
    on_front = {p.trial if p.exit_of is None else p.exit_of for p in front.points}
    rows = [
        {
            "trial": p.trial,
            "parent": p.goes_on_from if p.lineage else None,
            "segments": len(p.lineage),
            "energy_weight": p.params.get(names.ENERGY_WEIGHT),
            "energy_ratio": p.search.energy_ratio,
            "points_lost": 100 * front.lost(p.search),
            "on_front": p.trial in on_front,
        }
        for p in front.trials
        if p.exit_of is None and make_calibration(p.params[names.CALIBRATION]).learns
    ]
    columns = ["trial", "parent", "segments", "energy_weight", "energy_ratio", "points_lost",
               "on_front"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


@styled
def plot_lineages(front: ParetoFront, ax: Axes | None = None) -> Axes:
    """Plot learned points, each with a line to the one whose state it continues."""
    ax = new_axes(ax, 75)
    frame = lineages_frame(front)
    best = frame["points_lost"].min()
    places = dict(zip(frame["trial"], zip(frame["energy_ratio"], frame["points_lost"], strict=True),
                      strict=True))  # fmt: skip
    for trial, parent in zip(frame["trial"], frame["parent"], strict=True):
        if parent in places:
            ends = zip(places[parent], places[trial], strict=True)
            ax.plot(*ends, color=GREY, linewidth=0.6, zorder=1)
    roots, others = frame[frame["segments"] == 0], frame[frame["segments"] > 0]
    for rows, color, marker, label in (
        (roots, ORANGE, "s", "learned from the calibrated network"),
        (others, PURPLE, "o", "continued from another point"),
    ):
        ax.scatter(rows["energy_ratio"], rows["points_lost"], s=12, color=color, marker=marker,
                   label=label, zorder=2, linewidths=0)  # fmt: skip
    shown = frame[frame["on_front"]]
    ax.scatter(shown["energy_ratio"], shown["points_lost"], s=36, facecolors="none",
               edgecolors=BLUE, linewidths=0.9, label="on the front", zorder=3)  # fmt: skip
    energy_axis(ax, f"energy per inference, share of the ANN's ({front.energy_model.name})")
    ax.set_ylabel(f"{front.metric} lost, points, search split")
    worst = float(min(frame["points_lost"].max(), best + 15))
    margin = 0.05 * max(worst - best, 0.2)
    ax.set_ylim(worst + margin, best - margin)
    legend_below(ax, per_row=2)
    return ax
