"""Accuracy against energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from evaluators import Measurement
from reports._front import FrontPoint, ParetoFront
from reports.figures._style import ANN, FRONT, LEARNED, OTHER, PAPER, TEST, UNIFORM, axes_of


def front_figure(front: ParetoFront) -> Figure:
    """Accuracy against energy: every trial, the uniform baselines, the front on both splits."""
    figure, axes = axes_of(7.2, 4.6)
    others = [p for p in front.trials if not p.baseline]
    uniform = [p for p in front.trials if p.baseline == "uniform"]
    learned = [p for p in front.trials if p.baseline == "learned"]
    paper = [p for p in front.trials if p.baseline == "pareto_dp"]
    _scatter(axes, others, color=OTHER, marker=".", s=22, label="searched", zorder=1)
    _scatter(
        axes, uniform, color=UNIFORM, marker="s", s=24, label="baselines: uniform φ, ρ", zorder=2
    )
    _scatter(
        axes, paper, color=PAPER, marker="^", s=24, label="baselines: the paper's search", zorder=2
    )
    _line(axes, front.points, lambda p: p.search, FRONT, "front, search split")
    named = "baselines: uniform, learned"
    _scatter(axes, learned, color=LEARNED, marker="D", s=20, label=named, zorder=2)
    if any(p.test for p in front.points):
        _line(axes, front.points, lambda p: p.test, TEST, "the same, test split")
    _ann_lines(axes, front)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{100 * ratio:g}%"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom, top = _accuracy_range(front)
    axes.set_ylim(bottom, top)
    found = [m for p in front.points for m in (p.search, p.test) if m is not None]
    below = sum(m.accuracy.value < bottom for m in found)
    if below:
        axes.annotate(
            f"↓ {below} more of the front below",
            (0.25, 0.02),
            xycoords="axes fraction",
            color=FRONT,
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
            zorder=10,
        )
    model = front.energy_model.name
    axes.set_xlabel(f"energy per inference, share of the ANN's ({model})")
    axes.set_ylabel(f"{front.metric}; bars: 95 % interval of what is lost")
    axes.legend(loc="lower right", fontsize=8, framealpha=0.95)
    return figure


def _scatter(axes: Axes, points: Sequence[FrontPoint], **style: object) -> None:
    ratios = [p.search.energy_ratio for p in points]
    accuracies = [p.search.accuracy.value for p in points]
    if points:
        axes.scatter(ratios, accuracies, **style)  # type: ignore[arg-type]


def _line(
    axes: Axes,
    points: Sequence[FrontPoint],
    measurement_of: Callable[[FrontPoint], Measurement | None],
    color: str,
    label: str,
) -> None:
    found = [m for m in map(measurement_of, points) if m is not None]
    found.sort(key=lambda m: m.energy_ratio)
    accuracy = np.array([m.accuracy.value for m in found])
    low, high = np.array([_bars(m) for m in found]).T
    axes.errorbar(
        [m.energy_ratio for m in found],
        accuracy,
        yerr=np.maximum([low, high], 0),
        color=color,
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=0.6,
        alpha=0.9,
        label=label,
        zorder=3,
    )


def _bars(m: Measurement) -> tuple[float, float]:
    """Below and above an accuracy: the paired interval of its difference from the ANN's."""
    if m.drop is None:
        return m.accuracy.value - m.accuracy.low, m.accuracy.high - m.accuracy.value
    low, high = m.drop.interval()
    return high - m.drop.mean, m.drop.mean - low


def _ann_lines(axes: Axes, front: ParetoFront) -> None:
    styles = {"search": ("-", FRONT), "test": ("--", TEST)}
    for split, (style, color) in styles.items():
        if split in front.ann and (split == "search" or any(p.test for p in front.points)):
            value = front.ann[split].accuracy.value
            axes.axhline(
                value,
                color=color,
                linestyle=style,
                linewidth=0.8,
                alpha=0.7,
                zorder=0,
                label=f"ANN, {split}: {value:.1%}",
            )
    ratio = front.ann["search"].energy_int8_pj / front.ann["search"].energy_pj
    if ratio < 1:
        axes.axvline(
            ratio,
            color=ANN,
            linestyle=":",
            linewidth=1,
            label="the ANN in int8",
        )


def _accuracy_range(front: ParetoFront) -> tuple[float, float]:
    """From a little under the front's worst point to a little over the best interval."""
    found = [m for p in front.points for m in (p.search, p.test) if m is not None]
    top = max([m.accuracy.high for m in found] + [a.accuracy.value for a in front.ann.values()])
    best = max(m.accuracy.value for m in found)
    bottom = max(min(m.accuracy.low for m in found), best - 0.15)
    bottom = min(bottom, *(ann.accuracy.value for ann in front.ann.values()))
    margin = 0.05 * (top - bottom)
    return bottom - margin, min(top + margin, 1.0 + margin)
