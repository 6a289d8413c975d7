"""Errors by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from conversion import PARTS, LayerDiagnosis
from reports.figures._style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    legend_below,
    new_axes,
    styled,
)

_COLORS = (VERMILION, ORANGE, BLUE, GREY)


def diagnosis_frame(diagnoses: Sequence[LayerDiagnosis]) -> pd.DataFrame:
    """Errors of each layer relative to the ANN's activations, one column per kind."""
    return pd.DataFrame([asdict(d) for d in diagnoses])


@styled
def plot_diagnosis(diagnoses: Sequence[LayerDiagnosis], ax: Axes | None = None) -> Axes:
    """Plot them as bars, with the total error."""
    frame = diagnosis_frame(diagnoses)
    ax = new_axes(ax, 26 + 4.2 * len(frame))
    places, height = np.arange(len(frame)), 0.8 / len(PARTS)
    for i, (part, color) in enumerate(zip(PARTS, _COLORS, strict=True)):
        ax.barh(places + (i + 0.5) * height, frame[part], height, label=part, color=color)
    ax.plot(frame["total"], places + 0.4, color=BLACK, marker="|", markersize=6, linestyle="",
            label="total")  # fmt: skip
    ax.set_yticks(places + 0.4, frame["layer"], fontsize=6)
    ax.set_ylim(len(frame), -0.2)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("error over the ANN's activations, root mean squares")
    legend_below(ax, per_row=3)
    return ax
