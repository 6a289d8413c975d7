"""Both networks by class."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluators import Comparison


def classes_figure(comparison: Comparison) -> Figure | None:
    """The metric class by class, and how often the two decide for different classes.

    Returns:
        None where the task has no classes.
    """
    per_class, confusion = comparison.per_class.numpy(), comparison.confusion.double().numpy()
    classes = per_class.shape[1]
    if not classes:
        return None
    figure = Figure(figsize=(7.2, max(2.8, 1.2 + 0.16 * min(classes, 40))), layout="constrained")
    both = figure.subplots(1, 2) if confusion.size else [figure.subplots()]
    bars: Axes = both[0]
    place = np.arange(classes)
    for i, (values, name, color) in enumerate(zip(per_class, _NAMES, _BARS, strict=True)):
        bars.barh(place + 0.4 * (i - 0.5), np.nan_to_num(values), 0.4, label=name, color=color)
    bars.set_yticks(*_ticks(classes), fontsize=7)
    bars.invert_yaxis()
    bars.set_xlabel(comparison.metric.removeprefix("m"))  # of one class, so no mean
    bars.set_ylabel("class")
    bars.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    bars.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False)
    if confusion.size:
        shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
        axes = both[1]
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xlabel("class of the spiking network")
        axes.set_ylabel("class of the ANN")
        axes.set_xticks(*_ticks(len(shares)), fontsize=7)
        axes.set_yticks(*_ticks(len(shares)), fontsize=7)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, format=mpl.ticker.PercentFormatter(1.0))
        bar.set_label("of the ANN's decisions", fontsize=7)
    return figure


_NAMES, _BARS = ("ANN", "spiking network"), ("#9aa5b1", "#0b5fa5")


def _ticks(classes: int) -> tuple[Sequence[int], Sequence[str]]:
    every = range(0, classes, max(1, -(-classes // 20)))
    return every, [str(i) for i in every]
