"""Reliability: whether confidence equals accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from evaluators import Comparison
from reports.figures._style import (
    BLACK,
    BLUE,
    VERMILION,
    legend_below,
    new_axes,
    styled,
)

_BINS = 10


def reliability_frame(comparison: Comparison) -> pd.DataFrame:
    """Accuracy by confidence for both networks, in bins of equal width.

    Returns:
        Columns ``network``, ``confidence`` (mean of the bin), ``accuracy``, ``n``; the spiking
        network's are those at its exit. The expected calibration error (Guo et al., ICML 2017) is
        the mean of ``|accuracy − confidence|``, weighted by ``n``.
    """
    rows = []
    for name, sure, right in zip(_NETWORKS, comparison.confidence, comparison.correct, strict=True):
        bins = np.minimum((sure.numpy() * _BINS).astype(int), _BINS - 1)
        for i in range(_BINS):
            chosen = bins == i
            if chosen.any():
                rows.append(
                    {
                        "network": name,
                        "confidence": float(sure.numpy()[chosen].mean()),
                        "accuracy": float(right.numpy()[chosen].mean()),
                        "n": int(chosen.sum()),
                    }
                )
    return pd.DataFrame(rows, columns=["network", "confidence", "accuracy", "n"])


_NETWORKS = ("ANN", "spiking network, at its exit")


@styled
def plot_reliability(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Plot accuracy against confidence; the diagonal is perfect calibration, areas show samples."""
    ax = new_axes(ax, 75)
    frame = reliability_frame(comparison)
    ax.plot([0, 1], [0, 1], color=BLACK, linewidth=0.7, label="perfectly calibrated")
    for name, color, marker in zip(_NETWORKS, (VERMILION, BLUE), "so", strict=True):
        rows = frame[frame["network"] == name]
        error = (rows["n"] * (rows["accuracy"] - rows["confidence"]).abs()).sum() / rows["n"].sum()
        label = f"{name}: calibration error {100 * error:.1f} points"
        ax.plot(rows["confidence"], rows["accuracy"], color=color, linewidth=0.8, marker=marker,
                label=label)  # fmt: skip
        ax.scatter(
            rows["confidence"], rows["accuracy"], s=8 + 90 * rows["n"] / rows["n"].sum(),
            color=color, marker=marker, alpha=0.5, linewidths=0,
        )  # fmt: skip
    ax.set_xlim(0, 1.02)
    ax.set_ylim(0, 1.02)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("probability of the decided class")
    ax.set_ylabel(f"decisions that are right, {comparison.split} split")
    legend_below(ax, per_row=1)
    return ax
