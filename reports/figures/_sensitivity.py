"""How much each layer matters."""

from __future__ import annotations

import math
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports.figures._style import figure_of, new_axes, styled, width_of
from search import Sensitivity

Setting = Literal["phi", "rho"]
Effect = Literal["divergence", "energy"]


def sensitivity_frame(found: Sensitivity) -> pd.DataFrame:
    """Divergence and energy at the last step when only one layer's φ or ρ changes.

    Returns:
        Columns ``layer``, ``setting`` (``"phi"``, ``"rho"``), ``value``, ``divergence`` (nats),
        ``energy`` (share of the ANN's).
    """
    rows = []
    for setting, values in (("phi", found.phis), ("rho", found.rhos)):
        divergence = getattr(found, f"{setting}_divergence")
        energy = getattr(found, f"{setting}_energy")
        rows += [
            {
                "layer": layer, "setting": setting, "value": value,
                "divergence": float(divergence[i, j, -1]), "energy": float(energy[i, j, -1]),
            }
            for i, layer in enumerate(found.layers)
            for j, value in enumerate(values)
        ]  # fmt: skip
    return pd.DataFrame(rows)


@styled
def plot_sensitivity(
    found: Sensitivity,
    ax: Axes | None = None,
    *,
    setting: Setting = "phi",
    effect: Effect = "divergence",
) -> Axes:
    """Plot one effect of one setting by layer, as in Figure 3 of Wang et al."""
    ax = new_axes(ax, 70)
    subplot = ax.get_subplotspec()
    columns = 1 if subplot is None else subplot.get_gridspec().ncols
    frame = sensitivity_frame(found)
    frame = frame[frame["setting"] == setting]
    symbol = {"phi": "φ", "rho": "ρ"}[setting]
    values = sorted(frame["value"].unique())
    colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.9, len(values)))
    for value, color, marker in zip(values, colors, "osD^vPX*<>" * 9, strict=False):
        rows = frame[frame["value"] == value]
        ax.plot(range(len(rows)), rows[effect], color=color, marker=marker, markersize=2.5,
                linewidth=0.8, label=f"{symbol} = {value:g}")  # fmt: skip
    if effect == "divergence":
        ax.set_yscale("log")
        ax.set_ylabel("divergence from the ANN, nats")
    else:
        ax.set_ylabel("energy, share of the ANN's")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    # As many labels as the width has room for; the table lists all layers.
    every = max(1, math.ceil(3.2 * len(found.layers) / (width_of(ax) / columns - 18)))
    shown = range(0, len(found.layers), every)
    ax.set_xticks(shown, [found.layers[i] for i in shown], rotation=90, fontsize=6)
    most = max(found.phis)
    others = f"the others φ = {most}" if setting == "phi" else f"all φ = {most}"
    ax.set_title(f"{symbol} of one layer; {others}, ρ = 1")
    ax.legend(ncols=3, fontsize=6, loc="best", handlelength=1.4, columnspacing=0.8)
    return ax


@styled
def draw_sensitivity(found: Sensitivity, width_mm: float = 180.0) -> Figure:
    """Draw all four plots: φ above ρ, and divergence next to energy if there is room."""
    wide = width_mm >= 140
    figure = figure_of(width_mm, 140 if wide else 260)
    grid = figure.subplots(2 if wide else 4, 2 if wide else 1).ravel()
    pairs: list[tuple[Setting, Effect]] = [
        ("phi", "divergence"), ("phi", "energy"), ("rho", "divergence"), ("rho", "energy")
    ]  # fmt: skip
    for ax, (setting, effect) in zip(grid, pairs, strict=True):
        plot_sensitivity(found, ax, setting=setting, effect=effect)
    return figure
