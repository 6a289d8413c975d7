"""What a choice is worth: tasks, and honest measurement of accuracy, energy and time."""

from evaluators._comparison import Comparison, Pair
from evaluators._estimate import (
    Estimate,
    PairedDrop,
    estimate_mean,
    estimate_score,
    normal_quantile,
)
from evaluators._evaluator import Evaluator, StateStore
from evaluators._measurement import ExitPoint, Measurement
from evaluators._recording import Recording
from evaluators._references import AnnReference, QuantisedAnn
from evaluators._split import Split, TaskError, split_of
from evaluators._task import SPLITS, Task
from evaluators.metrics import R2, MeanAveragePrecision, MeanIoU, MeanScore, Metric, Scores, TopK
from evaluators.tasks import (
    BUILT_IN_TASKS,
    UNTRAINED,
    Detector,
    EventNet,
    PointNet,
    ResNetCifar,
    TaskSpec,
    TorchvisionDetector,
    UNet,
    VoxelNet,
    YoloNet,
    build_model,
    digits,
    import_source,
    load_model,
    load_state,
    load_task,
)

__all__ = [
    "BUILT_IN_TASKS",
    "R2",
    "SPLITS",
    "UNTRAINED",
    "AnnReference",
    "Comparison",
    "Detector",
    "Estimate",
    "Evaluator",
    "EventNet",
    "ExitPoint",
    "MeanAveragePrecision",
    "MeanIoU",
    "MeanScore",
    "Measurement",
    "Metric",
    "Pair",
    "PairedDrop",
    "PointNet",
    "QuantisedAnn",
    "Recording",
    "ResNetCifar",
    "Scores",
    "Split",
    "StateStore",
    "Task",
    "TaskError",
    "TaskSpec",
    "TopK",
    "TorchvisionDetector",
    "UNet",
    "VoxelNet",
    "YoloNet",
    "build_model",
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
