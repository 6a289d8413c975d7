"""How much each layer matters."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from search import Sensitivity


def sensitivity_figure(found: Sensitivity) -> Figure:
    """S and E of each layer, as in Figure 3 of Wang et al.: over φ at ρ = 1, over ρ at most φ."""
    figure = Figure(figsize=(3.4 + 0.3 * len(found.layers), 6.6), layout="constrained")
    rows = figure.subplots(2, 2, sharex=True)
    lines = (
        ("φ", found.phis, found.phi_divergence, found.phi_energy),
        ("ρ", found.rhos, found.rho_divergence, found.rho_energy),
    )
    places = np.arange(len(found.layers))
    for (losses, energies), (symbol, values, divergence, energy) in zip(rows, lines, strict=True):
        colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.9, len(values)))
        for i, (value, color) in enumerate(zip(values, colors, strict=True)):
            style = {"color": color, "marker": "o", "markersize": 3, "linewidth": 1}
            losses.plot(places, divergence[:, i, -1], label=f"{symbol} = {value:g}", **style)
            energies.plot(places, energy[:, i, -1], **style)
        losses.set_yscale("log")
        losses.set_ylabel("divergence from the ANN, nats")
        energies.set_ylabel("energy, share of the ANN's")
        energies.yaxis.set_major_formatter(PercentFormatter(1.0))
        figure.legend(
            *losses.get_legend_handles_labels(),
            loc="outside right upper" if symbol == "φ" else "outside right lower",
            fontsize=8,
        )
        other = f"ρ = 1, the others φ = {max(found.phis)}" if symbol == "φ" else (
            f"φ = {max(found.phis)} everywhere, the others ρ = 1"
        )  # fmt: skip
        for axes in (losses, energies):
            axes.set_title(f"{symbol} of one layer; {other}", fontsize=8)
            axes.grid(alpha=0.25)
    for axes in rows[1]:
        axes.set_xticks(places, found.layers, rotation=90, fontsize=7)
    return figure
