"""The front under several energy models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from reports._models import UnderModel

_FRONT, _OTHER, _RIVAL, _FALLEN = "#0b5fa5", "#9aa5b1", "#7b4fa3", "#e8a33d"


def models_figure(found: Sequence[UnderModel]) -> Figure:
    """Accuracy against energy under each model, each with its own ANN as the unit."""
    columns = 3
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(10.2, 0.7 + 2.9 * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for axes, under in zip(grid, found, strict=False):
        _panel(axes, under)
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    for axes in grid[max(0, len(found) - columns) : len(found)]:
        axes.set_xlabel("energy, share of the ANN's", fontsize=9)
    for axes in grid[::columns]:
        axes.set_ylabel(f"{found[0].front.metric}, search split", fontsize=9)
    return figure


def _panel(axes: Axes, under: UnderModel) -> None:
    front = under.front
    trials = [(p.search.energy_ratio, p.search.accuracy.value) for p in front.trials]
    fallen = [(p.search.energy_ratio, p.search.accuracy.value) for p in under.fallen]
    rivals = [
        (ratio, front.rivals[p.trial].accuracy.value)
        for p in front.trials
        if (ratio := under.rival_ratio(p)) is not None
    ]
    _dots(axes, trials, "trials (less accurate ones are cut off)", color=_OTHER, marker=".", s=14)
    hollow = {"facecolors": "none", "edgecolors": _FALLEN, "marker": "o", "s": 30}
    _dots(axes, fallen, "on the study's own front only", **hollow)
    _dots(axes, rivals, "quantised ANN of as many levels", color=_RIVAL, marker="x", s=24)
    line = [(p.search.energy_ratio, p.search.accuracy.value) for p in front.points]
    axes.plot(
        *zip(*line, strict=True), color=_FRONT, marker=".", drawstyle="steps-post", zorder=3,
        label="front",
    )  # fmt: skip
    ann = front.ann["search"]
    axes.axvline(
        ann.energy_int8_pj / ann.energy_pj, color="#333333", linestyle=":", label="ANN in int8"
    )
    axes.axvline(1.0, color="#333333", linewidth=0.8, label="ANN's energy")
    axes.axhline(ann.accuracy.value, color=_FRONT, linewidth=0.7, alpha=0.6, label="ANN's accuracy")
    _dress(axes, under)


def _dots(axes: Axes, points: Sequence[tuple[float, float]], label: str, **style: Any) -> None:
    x, y = zip(*points, strict=True) if points else ((), ())
    axes.scatter(x, y, label=label, zorder=2, **style)


def _dress(axes: Axes, under: UnderModel) -> None:
    found = [p.search.accuracy.value for p in under.front.points]
    ratios = [p.search.energy_ratio for p in under.front.trials]
    wide = max(*ratios, 1.0) / min(*ratios, 0.05) > 1e3
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(_share))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    top = max(*found, under.front.ann["search"].accuracy.value)
    bottom = max(min(found), top - 0.08)
    axes.set_ylim(bottom - 0.1 * (top - bottom) - 0.002, top + 0.1 * (top - bottom) + 0.002)
    axes.tick_params(labelsize=8)
    axes.set_title(under.energy.name, fontsize=9)


def _share(ratio: float, _: object) -> str:
    return f"{100 * ratio:g}%" if ratio < 9 else f"{ratio:g}×"
