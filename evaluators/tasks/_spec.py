"""A task by reference: what a command line, a study or a deployed config can name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError
from torch import nn

from conversion import Classes
from evaluators._split import TaskError
from evaluators._task import Task
from evaluators.metrics import MeanAveragePrecision, MeanIoU
from evaluators.tasks._detection import box_classes, box_splits
from evaluators.tasks._detectors import Detector, TorchvisionDetector, YoloNet
from evaluators.tasks._digits import digits
from evaluators.tasks._divide import Counts, Splits
from evaluators.tasks._events import FRAMES_BY, FramesBy, event_splits
from evaluators.tasks._images import cifar_splits, image_folder_splits
from evaluators.tasks._models import COMPACT
from evaluators.tasks._segmentation import mask_splits
from evaluators.tasks._shapes import part_splits, shape_splits


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What to load, as JSON-serialisable values.

    Attributes:
        task: A built-in name, or ``path/to/file.py:function``.
        data: Folder of the data set.
        model: One of our compact networks by name, a torchvision model name, or
            ``module:function``.
        weights: ``.safetensors`` or ``.pt`` file with the model's state dict.
        calibration_samples: Size of the calibration split.
        search_samples: Size of the search split.
        test_samples: Size of the test split; None uses all remaining samples.
        image_size: In pixels: side of the crop of ``imagefolder`` (None: 224), shorter side of the
            images of ``segmentation`` (None: original size) and ``detection`` (None: 320).
        classes: Number of classes of ``segmentation``; None: one more than the largest label of the
            training masks.
        ignore_label: Label of pixels to ignore in ``segmentation``.
        frames: Frames per recording of ``events``.
        frames_by: Whether frames have equal duration, ``"time"``, or equal numbers of events,
            ``"count"``.
        points: Points per cloud of ``pointcloud`` and ``parts``.
        seed: Seed of the random splits.
    """

    task: str = "digits"
    data: str | None = None
    model: str | None = None
    weights: str | None = None
    calibration_samples: int = 256
    search_samples: int = 1000
    test_samples: int | None = None
    image_size: int | None = None
    classes: int | None = None
    ignore_label: int = 255
    frames: int = 8
    frames_by: FramesBy = "time"
    points: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = ("calibration_samples", "search_samples", "test_samples", "image_size", "frames")
        for name in (*sizes, "points", "classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TaskError(f"{name} must be >= 1, got {value}")
        if self.frames_by not in FRAMES_BY:
            raise TaskError(
                f"frames_by must be one of {', '.join(FRAMES_BY)}, got {self.frames_by!r}"
            )

    @property
    def names_user_code(self) -> bool:
        """Whether loading it imports code from outside spikefront and torchvision."""
        return self.task not in TASKS or ":" in (self.model or "")

    def effective(self) -> TaskSpec:
        """Without the settings that its task has itself: early versions recorded them."""
        own = self.task == "digits" or ":" in self.task
        return TaskSpec(task=self.task, seed=self.seed) if own else self

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskSpec:
        """Rebuild from :meth:`to_dict`; raises :class:`TaskError` on unknown fields."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise TaskError(f"unknown task setting {sorted(unknown)[0]!r}")
        return cls(**values)


def load_task(spec: TaskSpec) -> Task:
    """Load the model and the splits that a spec names.

    Raises:
        TaskError: Something that the spec names is missing or does not fit.
    """
    if spec.task in TASKS:
        return TASKS[spec.task](spec)
    if ":" in spec.task:
        return _user_task(spec)
    raise TaskError(
        f"task {spec.task!r} is unknown; give one of {', '.join(TASKS)},"
        " or path/to/file.py:function"
    )


def _digits(spec: TaskSpec) -> Task:
    _check_nothing_given(spec)
    return digits(seed=spec.seed)


def _check_nothing_given(spec: TaskSpec) -> None:
    """Refuse what a task with its own data, model and splits would silently ignore."""
    for field in fields(spec):
        if field.name not in ("task", "seed") and getattr(spec, field.name) != field.default:
            option = field.name.replace("_", "-")
            raise TaskError(
                f"--{option} does not apply to {spec.task}, which has its own data, model and"
                " splits"
            )


def _cifar(spec: TaskSpec) -> Task:
    splits = cifar_splits(spec.task, _root(spec), _counts(spec), spec.seed)
    return _task(spec, splits, {"cifar10": 10, "cifar100": 100}[spec.task], "resnet20")


def _image_folder(spec: TaskSpec) -> Task:
    root = _root(spec)
    splits = image_folder_splits(root, spec.image_size or 224, _counts(spec), spec.seed)
    return _task(spec, splits, sum(1 for entry in (root / "val").iterdir() if entry.is_dir()))


def _segmentation(spec: TaskSpec) -> Task:
    counts, ignored = _counts(spec), spec.ignore_label
    splits, classes = mask_splits(_root(spec), spec.image_size, ignored, counts, spec.seed)
    options = {"metric": MeanIoU(ignore=ignored), "outputs": Classes(ignore=ignored)}
    return _task(spec, splits, spec.classes or classes, "unet", **options)


def _detection(spec: TaskSpec) -> Task:
    root = _root(spec)
    classes = len(box_classes(root))
    model = load_model(spec, classes, "yolonet")
    if not isinstance(model, Detector):
        raise TaskError(
            f"the model {spec.model} detects nothing: it needs the attributes outputs and"
            " statistics and the methods prepare and decode, as evaluators.YoloNet has them"
        )
    size = getattr(model, "size", None) or spec.image_size or 320
    splits, shape = box_splits(root, size, _counts(spec), spec.seed, model.statistics)
    model.prepare(shape)
    metric = MeanAveragePrecision(model.decode, classes)
    given: dict[str, Any] = {**splits, "metric": metric, "outputs": model.outputs}
    return Task(name=spec.task, model=model, **given)


def _events(spec: TaskSpec) -> Task:
    given = (_root(spec), spec.frames, spec.frames_by, _counts(spec), spec.seed)
    splits, classes = event_splits(*given)
    return _task(spec, splits, classes, "eventnet", feed="events")


def _shapes(spec: TaskSpec) -> Task:
    kind: Any = spec.task
    splits, classes = shape_splits(_root(spec), kind, spec.points, _counts(spec), spec.seed)
    return _task(spec, splits, classes, {"voxels": "voxelnet", "pointcloud": "pointnet"}[kind])


def _parts(spec: TaskSpec) -> Task:
    splits, classes = part_splits(_root(spec), spec.points, _counts(spec), spec.seed)
    return _task(spec, splits, classes, "pointnet-parts", metric=MeanIoU())


TASKS: dict[str, Callable[[TaskSpec], Task]] = {
    "digits": _digits,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "imagefolder": _image_folder,
    "segmentation": _segmentation,
    "detection": _detection,
    "events": _events,
    "voxels": _shapes,
    "pointcloud": _shapes,
    "parts": _parts,
}
"""What the command line offers by name."""

BUILT_IN_TASKS = tuple(TASKS)

UNTRAINED = ""
"""The weights of a model that is to be trained."""


def _root(spec: TaskSpec) -> Path:
    if spec.data is None:
        raise TaskError(f"the task {spec.task} needs --data DIR")
    root = Path(spec.data)
    if not root.is_dir():
        raise TaskError(f"the data folder {root} does not exist")
    return root


def _counts(spec: TaskSpec) -> Counts:
    return spec.calibration_samples, spec.search_samples, spec.test_samples


def _task(
    spec: TaskSpec, splits: Splits, classes: int, usual: str | None = None, **options: Any
) -> Task:
    given: dict[str, Any] = {**splits, **options}
    return Task(name=spec.task, model=load_model(spec, classes, usual), **given)


def load_model(spec: TaskSpec, classes: int, usual: str | None = None) -> nn.Module:
    """Load the model that a spec names, with its weights, in evaluation mode.

    Args:
        spec: What to load.
        classes: Number of outputs of a built-in model.
        usual: The model to use if the spec names none.

    Raises:
        TaskError: The model is unknown, or its weights are missing or do not fit.
    """
    name = spec.model or usual
    if name is not None and spec.weights == UNTRAINED:
        return build_model(name, classes)
    if name is None:
        raise TaskError(f"the task {spec.task} needs --model NAME, a torchvision model")
    if spec.classes is not None and ":" in name:
        raise TaskError(f"--classes does not apply to {name}, which sets the number itself")
    if spec.weights is None:
        raise TaskError(f"the model {name} needs --weights FILE, its trained state dict")
    model = build_model(name, classes)
    state = load_state(Path(spec.weights))
    if not any(key.startswith(_AUXILIARY) for key in model.state_dict()):
        state = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise TaskError(
            f"{spec.weights} does not fit the model {name}: {_misfit(model, state, error)}"
        ) from error
    return model.eval()


MODELS: dict[str, Callable[..., nn.Module]] = {**COMPACT, "yolonet": YoloNet}
"""By the names that the command line knows; each takes ``classes``."""


def _misfit(model: nn.Module, state: Mapping[str, Any], error: RuntimeError) -> str:
    wanted = model.state_dict()
    missing, unknown = [k for k in wanted if k not in state], [k for k in state if k not in wanted]
    if not missing and not unknown:
        return str(error).split("\n\t")[1:2][0] if "\n\t" in str(error) else str(error)
    found = f"{len(missing)} of its {len(wanted)} tensors are missing"
    found += f", the first {missing[0]}" if missing else ""
    return found + (
        f"; the file has {len(unknown)} others, such as {unknown[0]}" if unknown else ""
    )


_AUXILIARY = "aux_classifier."
"""Torchvision's heads that only training uses."""


def build_model(name: str, classes: int) -> nn.Module:
    """Build an untrained model by name.

    Raises:
        TaskError: The name is unknown, or its function does not return a module.
    """
    if name in MODELS:
        return MODELS[name](classes=classes)
    if ":" in name:
        built = _call(_import_function(name), name)
        if not isinstance(built, nn.Module):
            raise TaskError(f"{name} must return an nn.Module, got {type(built).__name__}")
        return built
    if name not in torchvision.models.list_models():
        raise TaskError(
            f"model {name!r} is unknown; give {', '.join(MODELS)}, a torchvision model, or"
            " module:function"
        )
    if name in torchvision.models.list_models(module=torchvision.models.detection):
        return TorchvisionDetector(name, classes)
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False}
    if name in torchvision.models.list_models(module=torchvision.models.segmentation):
        options = {"weights_backbone": None}
    model: nn.Module = torchvision.models.get_model(name, num_classes=classes, **options)
    return model


def load_state(path: Path) -> dict[str, Any]:
    """Read a state dict from safetensors, or from a PyTorch file without unpickling objects."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TaskError(f"the weights file {path} does not exist") from error
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise TaskError(f"cannot read weights from {path}: {error}") from error
    except Exception as error:  # weights_only refuses with pickle.UnpicklingError
        raise TaskError(
            f"{path} contains more than tensors and was not loaded; save model.state_dict()"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise TaskError(f"{path} holds no state dict, but {type(state).__name__}")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _user_task(spec: TaskSpec) -> Task:
    _check_nothing_given(spec)
    made = _call(_import_function(spec.task), spec.task)
    if isinstance(made, Task):
        return made
    try:
        model, given, metric = made
        return Task(name=spec.task, model=model, metric=metric, **given)
    except TaskError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise TaskError(
            f"{spec.task} must return an evaluators.Task, or (model, splits, metric) with splits"
            f" a dict of calibration, search, test and maybe train: {error}"
        ) from error


def _call(function: Callable[[], Any], name: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise TaskError(f"{name} raised {type(error).__name__}: {error}") from error


def import_source(source: str) -> Any:
    """Import a module that the user named, by ``path/to/file.py`` or module name.

    Raises:
        TaskError: The module does not exist or fails to import.
    """
    if source.endswith(".py") and not Path(source).is_file():
        raise TaskError(f"there is no file {source}")
    try:
        return _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    except Exception as error:
        raise TaskError(f"cannot import {source}: {type(error).__name__}: {error}") from error


def _import_function(reference: str) -> Callable[[], Any]:
    """The function ``path/to/file.py:name`` or ``package.module:name`` that the user named."""
    source, _, name = reference.rpartition(":")
    module = import_source(source)
    function = getattr(module, name, None)
    if not callable(function):
        raise TaskError(f"{source} has no function {name!r}")
    found: Callable[[], Any] = function
    return found


def _import_module(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"spikefront_task_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
