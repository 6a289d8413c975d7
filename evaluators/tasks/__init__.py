"""The built-in tasks, their data and their networks."""

from evaluators.tasks._detectors import Detector, TorchvisionDetector, YoloNet
from evaluators.tasks._digits import digits
from evaluators.tasks._models import EventNet, PointNet, ResNetCifar, UNet, VoxelNet
from evaluators.tasks._spec import (
    BUILT_IN_TASKS,
    UNTRAINED,
    TaskSpec,
    build_model,
    import_source,
    load_model,
    load_state,
    load_task,
)

__all__ = [
    "BUILT_IN_TASKS",
    "UNTRAINED",
    "Detector",
    "EventNet",
    "PointNet",
    "ResNetCifar",
    "TaskSpec",
    "TorchvisionDetector",
    "UNet",
    "VoxelNet",
    "YoloNet",
    "build_model",
    "digits",
    "import_source",
    "load_model",
    "load_state",
    "load_task",
]
