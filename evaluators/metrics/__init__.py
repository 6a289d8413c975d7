"""What a task is judged by: statistics per sample, and how they become one number."""

from evaluators.metrics._ap import MeanAveragePrecision
from evaluators.metrics._base import Metric, metric_of
from evaluators.metrics._iou import MeanIoU
from evaluators.metrics._r2 import R2
from evaluators.metrics._scores import MeanScore, Scores, TopK, is_classes

__all__ = [
    "R2",
    "MeanAveragePrecision",
    "MeanIoU",
    "MeanScore",
    "Metric",
    "Scores",
    "TopK",
    "is_classes",
    "metric_of",
]
