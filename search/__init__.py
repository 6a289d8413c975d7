"""The studies: samplers, storage, workers, resume."""

from search._additive import AdditiveSampler
from search._budget import Budget, is_feasible
from search._exits import measured_exits
from search._pareto_dp import Frontier, ParetoDP, ParetoSearch, frontier
from search._run import MakeEvaluator, OnTrial, run_study, run_worker
from search._samplers import SAMPLER_NAMES, make_sampler, warm_start_attrs
from search._sensitivity import PHIS, RHOS, Sensitivity, sensitivity
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
    baseline_of,
    check_evaluator,
    check_settings,
    enqueue,
    exit_of,
    finished,
    load_study,
    measurement_of,
    open_study,
    passes,
    reason_of,
    study_setup,
)
from search._tables import LayerTables, layer_tables

__all__ = [
    "DIRECTIONS",
    "JOURNAL_NAME",
    "METRICS",
    "PHIS",
    "RHOS",
    "SAMPLER_NAMES",
    "AdditiveSampler",
    "Budget",
    "Frontier",
    "LayerTables",
    "MakeEvaluator",
    "OnTrial",
    "ParetoDP",
    "ParetoSearch",
    "Sensitivity",
    "StudyError",
    "StudySetup",
    "baseline_of",
    "check_evaluator",
    "check_settings",
    "check_writable",
    "cut_torn_line",
    "enqueue",
    "exit_of",
    "finished",
    "frontier",
    "hold",
    "is_feasible",
    "layer_tables",
    "load_study",
    "make_sampler",
    "measured_exits",
    "measurement_of",
    "open_storage",
    "open_study",
    "passes",
    "reason_of",
    "run_study",
    "run_worker",
    "sensitivity",
    "study_setup",
    "warm_start_attrs",
]
