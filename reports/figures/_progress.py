"""What the search gained, when."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports._front import ParetoFront, hypervolume
from reports.figures._style import FRONT, UNIFORM, axes_of


def hypervolume_figure(front: ParetoFront) -> Figure:
    """Hypervolume of the finished trials so far."""
    figure, axes = axes_of(7.2, 3.4)
    pairs = [(p.search.accuracy.value, p.search.energy_ratio) for p in front.trials]
    values = [hypervolume(pairs[: i + 1]) for i in range(len(pairs))]
    axes.step(range(1, len(values) + 1), values, where="post", color=FRONT)
    baselines = next((i for i, p in enumerate(front.trials) if p.baseline is None), 0)
    if baselines:
        axes.axvline(baselines, color=UNIFORM, linestyle=":")
        axes.annotate(
            " baselines end",
            (baselines, values[0]),
            color=UNIFORM,
            fontsize=8,
            va="bottom",
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trials and additional exits, as they came")
    axes.set_ylabel(f"hypervolume\n({front.metric} × energy saved)")
    return figure
