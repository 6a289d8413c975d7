"""The studies: samplers, storage, workers, resume."""

from search._additive import AdditiveSampler
from search._budget import Budget, is_feasible
from search._exits import measured_exits
from search._measure import MakeEvaluator
from search._pareto_dp import Frontier, ParetoDP, ParetoSearch, frontier
from search._run import OnTrial, run_study, run_worker
from search._samplers import SAMPLER_NAMES, make_sampler, warm_start_attrs
from search._sensitivity import PHIS, RHOS, Sensitivity, sensitivity
from search._status import StudyStatus, Worker, study_status
from search._storage import (
    JOURNAL_NAME,
    StudyError,
    check_writable,
    cut_torn_line,
    hold,
    open_storage,
    serve_storage,
    without_password,
)
from search._study import (
    DIRECTIONS,
    METRICS,
    Plan,
    StudySetup,
    baseline_of,
    check_evaluator,
    check_settings,
    check_setup,
    enqueue,
    exit_of,
    finished,
    load_study,
    measurement_of,
    open_study,
    passes,
    plan_of,
    reason_of,
    set_plan,
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
    "Plan",
    "Sensitivity",
    "StudyError",
    "StudySetup",
    "StudyStatus",
    "Worker",
    "baseline_of",
    "check_evaluator",
    "check_settings",
    "check_setup",
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
    "plan_of",
    "reason_of",
    "run_study",
    "run_worker",
    "sensitivity",
    "serve_storage",
    "set_plan",
    "study_setup",
    "study_status",
    "warm_start_attrs",
    "without_password",
]
