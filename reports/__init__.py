"""What a person sees: the front, tables, figures, one HTML page, and choosing a point."""

from reports._figures import FIGURES
from reports._front import (
    FrontPoint,
    ParetoFront,
    hypervolume,
    knee,
    non_dominated,
    non_dominated_trials,
    pareto_front,
    select,
)
from reports._report import measure_front, write_report
from reports._tables import front_frame, front_rows, summary, trials_frame

__all__ = [
    "FIGURES",
    "FrontPoint",
    "ParetoFront",
    "front_frame",
    "front_rows",
    "hypervolume",
    "knee",
    "measure_front",
    "non_dominated",
    "non_dominated_trials",
    "pareto_front",
    "select",
    "summary",
    "trials_frame",
    "write_report",
]
