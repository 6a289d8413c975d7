"""φ, ρ and thresholds along the front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports._front import FrontPoint, ParetoFront
from reports.figures._style import figure_of, new_axes, styled
from spaces import names

What = Literal["phi", "rho", "threshold"]

_TITLES: dict[What, str] = {
    "phi": "φ, spikes per step",
    "rho": "ρ, factor on the threshold",
    "threshold": "threshold, share of the largest activation",
}


def layers_frame(front: ParetoFront) -> pd.DataFrame:
    """φ, ρ and threshold of every layer, for every point of the front.

    Returns:
        Columns ``trial``, ``layer``, ``phi``, ``rho``, ``threshold``: the mean threshold, including
        ρ and learned factors, ÷ the layer's largest activation; NaN if not computed.
    """
    layers = names.layers_of(front.points[0].params)
    return pd.DataFrame(
        [
            {
                "trial": p.trial,
                "layer": layer,
                "phi": p.params[names.phi(layer)],
                "rho": p.params[names.rho(layer)],
                "threshold": p.thresholds.get(layer, float("nan")),
            }
            for p in front.points
            for layer in layers
        ]
    )


@styled
def plot_layers(front: ParetoFront, ax: Axes | None = None, *, what: What = "phi") -> Axes:
    """Plot a heat map of layers (rows) and points of the front (columns), by rising energy.

    Neighbouring points with equal values share a column, whose label counts them. If there are more
    columns than fit, some are omitted, and the axis label says so.
    """
    frame = layers_frame(front)
    layers = list(dict.fromkeys(frame["layer"]))
    if ax is None:
        ax = new_axes(None, 24 + 3.2 * len(layers))
    ax.grid(False)
    table = frame.pivot(index="layer", columns="trial", values=what).reindex(layers)
    columns = _different(table, [p.trial for p in front.points])
    shown = _spread(columns, _room(ax))
    values = table[[trial for trial, _ in shown]].to_numpy(float)
    whole, most = what == "phi", float(values.max())
    low, high = (0.5, most + 0.5) if whole else (float(values.min()), most)
    same = not whole and high - low < 1e-9  # a scale of one value
    low, high = (low - 0.5, high + 0.5) if same else (low, high)
    image = ax.imshow(
        values, aspect="auto", interpolation="nearest",
        cmap=mpl.colormaps["viridis"].resampled(int(most) if whole else 256),
        vmin=low, vmax=high,
    )  # fmt: skip
    bins = min(8, max(1, round(0.7 * len(layers))))
    labels = [f"{trial} +{more}" if more else str(trial) for trial, more in shown]
    ax.set_xticks(range(len(shown)), labels, rotation=90, fontsize=6)
    ax.set_yticks(range(len(layers)), layers, fontsize=6)
    ax.set_title(_TITLES[what])
    left_out = f"; {len(shown)} of {len(columns)} shown" if len(shown) < len(columns) else ""
    ax.set_xlabel(f"trial, by rising energy (+n equal ones){left_out}")
    ax.figure.colorbar(
        image, ax=ax, pad=0.01, ticks=[most] if same else MaxNLocator(integer=whole, nbins=bins)
    )
    return ax


def _different(table: pd.DataFrame, trials: Sequence[int]) -> list[tuple[int, int]]:
    """Trials that differ from the previous one, each with the number of equal ones after it."""
    found: list[tuple[int, int]] = []
    for trial in trials:
        if found and table[trial].equals(table[found[-1][0]]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((trial, 0))
    return found


def _room(ax: Axes) -> int:
    """Number of 6 pt column labels that fit the width."""
    figure = ax.get_figure(root=True)
    millimetres = 60.0 if figure is None else 25.4 * figure.get_figwidth() - 38
    return max(4, int(millimetres / 2.9))


def _spread(columns: list[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    """At most ``room`` evenly spaced columns, including the first and the last."""
    if len(columns) <= room:
        return columns
    return [columns[round(i * (len(columns) - 1) / (room - 1))] for i in range(room)]


@styled
def draw_layers(front: ParetoFront, width_mm: float) -> Figure:
    """Draw φ, ρ and, if known, thresholds as stacked heat maps."""
    layers = names.layers_of(front.points[0].params)
    kinds: list[What] = ["phi", "rho"]
    kinds += ["threshold"] if any(p.thresholds for p in front.points) else []
    figure = figure_of(width_mm, len(kinds) * (18 + max(12, 2.9 * len(layers))))
    for ax, what in zip(figure.subplots(len(kinds), 1), kinds, strict=True):
        plot_layers(front, ax, what=what)
    return figure


def shows_layers(points: Sequence[FrontPoint]) -> bool:
    """Whether the points have any layers."""
    return bool(names.layers_of(points[0].params))
