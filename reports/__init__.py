"""What a person sees: the front, tables, figures, one HTML page, and choosing a point."""

from reports._console import (
    diagnosis_table,
    front_table,
    layer_rows,
    measurement_table,
    model_table,
    paper_rows,
    paper_table,
    profile_table,
    sensitivity_table,
    status_table,
)
from reports._figures import FIGURES, diagnosis_figure, sensitivity_figure
from reports._front import (
    FrontPoint,
    ParetoFront,
    front_of,
    front_so_far,
    hypervolume,
    knee,
    pareto_front,
    select,
)
from reports._models import UnderModel, models_figure, models_frame, repriced, under_models
from reports._pictures import classes_figure, samples_figure
from reports._report import (
    ann_on_test,
    compare_knee,
    measure_front,
    tested,
    write_figure,
    write_report,
)
from reports._tables import front_frame, front_rows, summary, trials_frame
from reports._targets import bits_table, violations_table

__all__ = [
    "FIGURES",
    "FrontPoint",
    "ParetoFront",
    "UnderModel",
    "ann_on_test",
    "bits_table",
    "classes_figure",
    "compare_knee",
    "diagnosis_figure",
    "diagnosis_table",
    "front_frame",
    "front_of",
    "front_rows",
    "front_so_far",
    "front_table",
    "hypervolume",
    "knee",
    "layer_rows",
    "measure_front",
    "measurement_table",
    "model_table",
    "models_figure",
    "models_frame",
    "paper_rows",
    "paper_table",
    "pareto_front",
    "profile_table",
    "repriced",
    "samples_figure",
    "select",
    "sensitivity_figure",
    "sensitivity_table",
    "status_table",
    "summary",
    "tested",
    "trials_frame",
    "under_models",
    "violations_table",
    "write_figure",
    "write_report",
]
