"""The figures of a report, at paper sizes; no display is needed.

``plot_…(data, ax=None)`` draws into axes and returns them; ``…_frame(data)`` returns its data as a
frame. ``draw_…(data, width_mm)`` combines several plots in one figure.
"""

from reports.figures._all import FIGURES, FigureKind
from reports.figures._classes import (
    classes_frame,
    confusion_frame,
    draw_classes,
    plot_classes,
    plot_confusion,
)
from reports.figures._diagnosis import diagnosis_frame, plot_diagnosis
from reports.figures._energy import energy_frame, plot_energy
from reports.figures._exits import (
    draw_exits,
    exits_frame,
    plot_exits,
    plot_steps,
    steps_frame,
)
from reports.figures._front import plot_front
from reports.figures._layers import draw_layers, layers_frame, plot_layers
from reports.figures._lineages import lineages_frame, plot_lineages
from reports.figures._models import draw_models, plot_model
from reports.figures._progress import draw_progress, plot_progress, progress_frame
from reports.figures._reliability import plot_reliability, reliability_frame
from reports.figures._samples import draw_samples
from reports.figures._sensitivity import draw_sensitivity, plot_sensitivity, sensitivity_frame
from reports.figures._style import KINDS, ONE_COLUMN, TWO_COLUMNS, rendered, write_figure

__all__ = [
    "FIGURES",
    "KINDS",
    "ONE_COLUMN",
    "TWO_COLUMNS",
    "FigureKind",
    "classes_frame",
    "confusion_frame",
    "diagnosis_frame",
    "draw_classes",
    "draw_exits",
    "draw_layers",
    "draw_models",
    "draw_progress",
    "draw_samples",
    "draw_sensitivity",
    "energy_frame",
    "exits_frame",
    "layers_frame",
    "lineages_frame",
    "plot_classes",
    "plot_confusion",
    "plot_diagnosis",
    "plot_energy",
    "plot_exits",
    "plot_front",
    "plot_layers",
    "plot_lineages",
    "plot_model",
    "plot_progress",
    "plot_reliability",
    "plot_sensitivity",
    "plot_steps",
    "progress_frame",
    "reliability_frame",
    "rendered",
    "sensitivity_frame",
    "steps_frame",
    "write_figure",
]
