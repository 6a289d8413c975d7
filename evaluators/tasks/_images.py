"""Image data sets on disk, in the layouts that torchvision reads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchvision import datasets, transforms

from evaluators._split import TaskError
from evaluators.tasks._divide import Counts, Splits, check_same_classes, divide

Transform = Callable[[Any], Any]
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]

_CIFAR10: Statistics = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100: Statistics = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def cifar_splits(name: str, root: Path, counts: Counts, seed: int) -> Splits:
    """Splits of CIFAR-10 or CIFAR-100 under ``root``.

    Either torchvision's own archive folder, or ``train/<class>/`` and ``val/<class>/`` images.
    """
    statistics = _CIFAR10 if name == "cifar10" else _CIFAR100
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*statistics)])
    if (root / "train").is_dir():
        return _folder_splits(root, transform, _varied(transform), counts, seed)
    loader = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        train = loader(str(root), train=True, transform=transform)
        held_out = loader(str(root), train=False, transform=transform)
    except (RuntimeError, OSError) as error:
        raise TaskError(
            f"no {name} in {root}: it has neither train/ and val/ image folders nor"
            f" torchvision's {loader.base_folder}/"
        ) from error
    varied = _with_transform(train, _varied(transform))
    return divide(train, held_out, None, varied, counts, seed)


def image_folder_splits(root: Path, size: int, counts: Counts, seed: int) -> Splits:
    """Splits of an ImageNet-like tree: ``train/<class>/``, ``val/<class>/``, maybe ``test/``."""
    transform = transforms.Compose(
        [
            transforms.Resize(round(size * 256 / 224)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    return _folder_splits(root, transform, _flipped(transform), counts, seed)


def _varied(transform: Transform) -> Transform:
    """As CIFAR networks are trained: shifted by up to four pixels, and flipped."""
    shift = transforms.RandomCrop(32, padding=4, padding_mode="reflect")
    varied: Transform = transforms.Compose([shift, transforms.RandomHorizontalFlip(), transform])
    return varied


def _flipped(transform: Transform) -> Transform:
    flipped: Transform = transforms.Compose([transforms.RandomHorizontalFlip(), transform])
    return flipped


def _with_transform(dataset: Any, transform: Transform) -> Any:
    """The same data set, seen through another transform."""
    other = copy.copy(dataset)
    other.transform = transform
    return other


def _folder_splits(
    root: Path, transform: Transform, varied: Transform, counts: Counts, seed: int
) -> Splits:
    def folder(name: str) -> datasets.ImageFolder:
        try:
            return datasets.ImageFolder(str(root / name), transform)
        except OSError as error:
            raise TaskError(f"cannot read images in {root / name}: {error}") from error

    folders = {name: folder(name) for name in ("train", "val")}
    if (root / "test").is_dir():
        folders["test"] = folder("test")
    check_same_classes(root, {name: set(images.classes) for name, images in folders.items()})
    train = _with_transform(folders["train"], varied)
    return divide(folders["train"], folders["val"], folders.get("test"), train, counts, seed)
