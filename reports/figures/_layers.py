"""φ and ρ along the front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports._front import FrontPoint, ParetoFront
from spaces import names


def layers_figure(front: ParetoFront) -> Figure:
    """φ and ρ of the front's points, layer by layer."""
    layers = _layers(front)
    points = _of_different_layers(front.points)
    figure = Figure(figsize=(7.2, 1.6 + 0.22 * len(layers)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, symbol, name in ((left, "φ", names.phi), (right, "ρ", names.rho)):
        values = np.array([[p.params[name(layer)] for p in points] for layer in layers])
        most = values.max()
        whole = symbol == "φ"
        image = axes.imshow(
            values,
            aspect="auto",
            cmap=mpl.colormaps["viridis"].resampled(int(most) if whole else 256),
            vmin=0.5 if whole else 1.0,
            vmax=most + 0.5 if whole else max(most, 2.0),
            interpolation="nearest",
        )
        axes.set_title(f"{symbol}, {'spikes per step' if whole else 'threshold factor'}")
        axes.set_xlabel("trial, by rising energy; equal ones once")
        _label_points(axes, points)
        figure.colorbar(image, ax=axes, shrink=0.9, ticks=MaxNLocator(integer=whole))
    left.set_yticks(range(len(layers)), layers, fontsize=7)
    return figure


def _layers(front: ParetoFront) -> list[str]:
    return names.layers_of(front.points[0].params)


def _of_different_layers(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Without those that differ from the point before in T, exit or calibration alone."""
    found: list[FrontPoint] = []
    for point in points:
        if not found or _layers_of(point) != _layers_of(found[-1]):
            found.append(point)
    return found


def _layers_of(point: FrontPoint) -> dict[str, Any]:
    return {k: v for k, v in point.params.items() if names.is_per_layer(k)}


def _label_points(axes: Axes, points: Sequence[FrontPoint]) -> None:
    numbers = [str(p.trial) for p in points]
    every = max(1, len(numbers) // 12)
    axes.set_xticks(range(0, len(numbers), every), numbers[::every], rotation=90, fontsize=7)
