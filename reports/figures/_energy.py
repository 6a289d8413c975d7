"""Energy by layer, of the spiking network and of the ANN."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from conversion import Costs
from reports._front import ParetoFront
from reports.figures._style import (
    BLACK,
    THREE,
    legend_below,
    new_axes,
    styled,
    three_points,
    width_of,
)

_UNITS = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))


def energy_frame(front: ParetoFront, costs: Costs) -> pd.DataFrame:
    """Mean energy per inference by operator, on the search split.

    The energy of spikes is divided among the operators they reach, in the proportions for one spike
    of every neuron. Energy of the neurons themselves is included.

    Returns:
        Columns ``network`` (``"ANN"``, or which point of the front), ``trial`` (None for the ANN),
        ``operator``, ``energy_pj``.
    """
    model = front.energy_model
    rows = [
        {"network": "ANN", "trial": None, "operator": name, "energy_pj": pj}
        for name, pj in model.ann_by_operator(costs).items()
    ]
    for label, point in three_points(front):
        bits = point.search.counts.weight_bits if point.search.counts else None
        paid = model if bits is None else model.in_integers(bits)
        found = costs.by_operator(
            point.search.layer_energy_pj,
            paid.once_by_operator(costs),
            paid.step_by_operator(costs),
        )
        rows += [
            {"network": label, "trial": point.trial, "operator": name, "energy_pj": pj}
            for name, pj in found.items()
        ]
    return pd.DataFrame(rows)


@styled
def plot_energy(front: ParetoFront, costs: Costs, ax: Axes | None = None) -> Axes:
    """Plot energy by operator on a logarithmic axis, for the ANN and three points of the front."""
    frame = energy_frame(front, costs)
    table = frame.pivot_table(index="operator", columns="network", values="energy_pj", sort=False)
    operators = list(table.index)
    ax = new_axes(ax, 28 + 4.6 * len(operators))
    largest = float(table.max().max())
    size, unit = next((s, u) for s, u in _UNITS if largest >= s or u == "pJ")
    places = np.arange(len(operators))
    ax.plot(table["ANN"] / size, places, color=BLACK, linestyle="", marker="|", markersize=6,
            markeredgewidth=1.2, label=f"ANN ({front.energy_model.name})")  # fmt: skip
    points = [name for name in table.columns if name != "ANN"]
    for name, color, marker in zip(points, THREE, "so^", strict=False):
        ax.plot(table[name] / size, places, color=color, linestyle="", marker=marker, label=name)
    ax.set_xscale("log")
    ax.set_yticks(places, operators, fontsize=6)
    ax.set_ylim(len(operators) - 0.4, -0.6)
    ax.set_xlabel(f"energy per inference, search split, {unit}")
    legend_below(ax, per_row=4 if width_of(ax) > 140 else 1)
    return ax
