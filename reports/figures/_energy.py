"""Energy by layer."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from reports._front import ParetoFront
from reports.figures._style import THREE, axes_of, three_points


def energy_figure(front: ParetoFront) -> Figure:
    """Mean energy by the layer whose spikes cause it, for three points of the front."""
    chosen = three_points(front)
    sources = max((list(p.search.layer_energy_pj) for _, p in chosen), key=len)
    figure, axes = axes_of(7.2, 1.4 + 0.24 * len(sources))
    height = 0.8 / len(chosen)
    largest = max(max(point.search.layer_energy_pj.values()) for _, point in chosen)
    size, unit = next((s, u) for s, u in _UNITS if largest >= s or u == "pJ")
    for i, (label, point) in enumerate(chosen):
        values = [point.search.layer_energy_pj.get(source, 0.0) / size for source in sources]
        axes.barh(np.arange(len(sources)) + i * height, values, height, label=label, color=THREE[i])
    axes.set_yticks(np.arange(len(sources)) + 0.4 - height / 2, sources, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(f"energy per inference, search split, {unit}")
    axes.legend(fontsize=8)
    return figure


_UNITS = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
