"""The front, trials and layers as tables: for the console, as data frames, as JSON."""

from reports.tables._comparison import comparison_frame, comparison_table
from reports.tables._data import front_frame, front_rows, metric_column, summary, trials_frame
from reports.tables._front import front_table
from reports.tables._measurement import measurement_table
from reports.tables._models import models_frame
from reports.tables._network import (
    diagnosis_table,
    layer_rows,
    model_table,
    profile_table,
    sensitivity_table,
)
from reports.tables._paper import paper_rows, paper_table
from reports.tables._status import status_table
from reports.tables._targets import bits_table, violations_table

__all__ = [
    "bits_table",
    "comparison_frame",
    "comparison_table",
    "diagnosis_table",
    "front_frame",
    "front_rows",
    "front_table",
    "layer_rows",
    "measurement_table",
    "metric_column",
    "model_table",
    "models_frame",
    "paper_rows",
    "paper_table",
    "profile_table",
    "sensitivity_table",
    "status_table",
    "summary",
    "trials_frame",
    "violations_table",
]
