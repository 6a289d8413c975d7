"""The studies: samplers, storage, workers, resume."""

from search._additive import AdditiveSampler, LayerTables, layer_tables
from search._run import MakeEvaluator, OnTrial, run_study
from search._samplers import SAMPLER_NAMES, make_sampler, warm_start_attrs
from search._storage import (
    JOURNAL_NAME,
    StudyError,
    check_writable,
    cut_torn_line,
    hold,
    open_storage,
)
from search._study import (
    DIRECTIONS,
    METRICS,
    StudySetup,
    check_evaluator,
    check_settings,
    enqueue,
    finished,
    is_baseline,
    load_study,
    measurement_of,
    open_study,
    reason_of,
    study_setup,
)

__all__ = [
    "DIRECTIONS",
    "JOURNAL_NAME",
    "METRICS",
    "SAMPLER_NAMES",
    "AdditiveSampler",
    "LayerTables",
    "MakeEvaluator",
    "OnTrial",
    "StudyError",
    "StudySetup",
    "check_evaluator",
    "check_settings",
    "check_writable",
    "cut_torn_line",
    "enqueue",
    "finished",
    "hold",
    "is_baseline",
    "layer_tables",
    "load_study",
    "make_sampler",
    "measurement_of",
    "open_storage",
    "open_study",
    "reason_of",
    "run_study",
    "study_setup",
    "warm_start_attrs",
]
