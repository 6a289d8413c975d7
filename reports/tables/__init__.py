"""Tables of fronts, trials and layers: for the console, as data frames, as JSON."""

from reports.tables._comparison import comparison_frame, comparison_table
from reports.tables._config_diff import config_diff_frame, config_diff_notes, config_diff_table
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
from reports.tables._points import TABLE_KINDS, TableKind, points_frame, table_text
from reports.tables._status import status_table
from reports.tables._targets import bits_table, violations_table

__all__ = [
    "TABLE_KINDS",
    "TableKind",
    "bits_table",
    "comparison_frame",
    "comparison_table",
    "config_diff_frame",
    "config_diff_notes",
    "config_diff_table",
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
    "points_frame",
    "profile_table",
    "sensitivity_table",
    "status_table",
    "summary",
    "table_text",
    "trials_frame",
    "violations_table",
]
