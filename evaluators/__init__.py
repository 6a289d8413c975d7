"""What a choice is worth: tasks, and honest measurement of accuracy, energy and time."""

from evaluators._digits import digits
from evaluators._estimate import (
    Estimate,
    PairedDrop,
    estimate_mean,
    estimate_score,
    normal_quantile,
)
from evaluators._evaluator import AnnReference, Evaluator, StateStore
from evaluators._measurement import ANN_INT8_MAC_PJ, ExitPoint, Measurement
from evaluators._models import ResNetCifar
from evaluators._recording import Recording
from evaluators._spec import (
    BUILT_IN_TASKS,
    TaskSpec,
    import_source,
    load_model,
    load_state,
    load_task,
)
from evaluators._split import Split, TaskError, split_of
from evaluators._task import SPLITS, Task
from evaluators.metrics import R2, MeanIoU, MeanScore, Metric, Scores, TopK

__all__ = [
    "ANN_INT8_MAC_PJ",
    "BUILT_IN_TASKS",
    "R2",
    "SPLITS",
    "AnnReference",
    "Estimate",
    "Evaluator",
    "ExitPoint",
    "MeanIoU",
    "MeanScore",
    "Measurement",
    "Metric",
    "PairedDrop",
    "Recording",
    "ResNetCifar",
    "Scores",
    "Split",
    "StateStore",
    "Task",
    "TaskError",
    "TaskSpec",
    "TopK",
    "digits",
    "estimate_mean",
    "estimate_score",
    "import_source",
    "load_model",
    "load_state",
    "load_task",
    "normal_quantile",
    "split_of",
]
