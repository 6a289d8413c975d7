"""The figures of a report, each a matplotlib ``Figure`` that needs no display."""

from collections.abc import Callable

from matplotlib.figure import Figure

from reports._front import ParetoFront
from reports.figures._classes import classes_figure
from reports.figures._diagnosis import diagnosis_figure
from reports.figures._energy import energy_figure
from reports.figures._exits import timesteps_figure
from reports.figures._front import front_figure
from reports.figures._layers import layers_figure
from reports.figures._models import models_figure
from reports.figures._progress import hypervolume_figure
from reports.figures._samples import samples_figure
from reports.figures._sensitivity import sensitivity_figure
from reports.figures._style import rendered, write_figure

__all__ = [
    "FIGURES",
    "classes_figure",
    "diagnosis_figure",
    "energy_figure",
    "front_figure",
    "hypervolume_figure",
    "layers_figure",
    "models_figure",
    "rendered",
    "samples_figure",
    "sensitivity_figure",
    "timesteps_figure",
    "write_figure",
]

FIGURES: dict[str, tuple[str, Callable[[ParetoFront], Figure]]] = {
    "front": ("What is kept against energy", front_figure),
    "hypervolume": ("Hypervolume over trials", hypervolume_figure),
    "layers": ("φ and ρ of the front by layer", layers_figure),
    "energy": ("Energy by layer", energy_figure),
    "timesteps": ("Timesteps under early exit", timesteps_figure),
}
