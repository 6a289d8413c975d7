"""Early exits."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reports._front import ParetoFront
from reports.figures._style import THREE, axes_of, three_points


def timesteps_figure(front: ParetoFront) -> Figure:
    """Share of samples that leave at each step under the early exit, for three points."""
    figure, axes = axes_of(7.2, 3.2)
    chosen = three_points(front)
    width = 0.8 / len(chosen)
    for i, (label, point) in enumerate(chosen):
        exits = np.array(point.search.exits)
        mean = point.search.timesteps.value
        axes.bar(
            np.arange(1, len(exits) + 1) + (i - (len(chosen) - 1) / 2) * width,
            exits,
            width,
            label=f"{label}: mean {mean:.2f}",
            color=THREE[i],
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("step at which a sample leaves, search split")
    axes.set_ylabel("samples")
    axes.legend(fontsize=8)
    return figure
