"""Errors by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from conversion import PARTS, LayerDiagnosis
from reports.figures._style import ANN, axes_of


def diagnosis_figure(diagnoses: Sequence[LayerDiagnosis]) -> Figure:
    """What kind of error each layer makes, and how large all of it is."""
    figure, axes = axes_of(7.2, 1.4 + 0.26 * len(diagnoses))
    places = np.arange(len(diagnoses))
    height = 0.8 / len(PARTS)
    for i, (part, color) in enumerate(zip(PARTS, _PARTS, strict=True)):
        values = [getattr(d, part) for d in diagnoses]
        axes.barh(places + i * height, values, height, label=part, color=color)
    middle = places + 0.4 - height / 2
    totals = [d.total for d in diagnoses]
    axes.plot(totals, middle, color=ANN, marker="|", markersize=9, linestyle="", label="total")
    axes.set_yticks(middle, [d.layer for d in diagnoses], fontsize=7)
    axes.invert_yaxis()
    axes.set_ylim(len(diagnoses) - 0.1, -0.3)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("error over the ANN's activations, root mean squares")
    axes.legend(fontsize=8, framealpha=0.95)
    return figure


_PARTS = ("#d1495b", "#e8a33d", "#0b5fa5", "#9aa5b1")
