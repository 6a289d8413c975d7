"""Images with a mask of classes beside each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as transforms

from evaluators._split import TaskError
from evaluators.tasks._divide import Counts, Splits, divide
from evaluators.tasks._images import IMAGENET

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_MASKS = (".png", ".bmp", ".gif", ".tif")

_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation"),
    "test": ("test", "testing"),
}
_PLACES = (
    ("{split}", "{split}annot"),
    ("{split}", "{split}_labels"),
    ("{split}", "{split}_masks"),
    ("images/{split}", "masks/{split}"),
    ("images/{split}", "annotations/{split}"),
    ("images/{split}", "labels/{split}"),
)
"""Where images and masks lie: as CamVid, ADE20K and others have them."""


class Masks(Dataset[tuple[Tensor, Tensor]]):
    """Images ``(3, H, W)``, normalised as ImageNet's, and their masks of classes ``(H, W)``.

    Args:
        pairs: Files of images and masks.
        size: H and W to which both are resized; None leaves them as they are.
        flip: Whether half of them, by torch's random state, are mirrored.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        size: tuple[int, int] | None = None,
        *,
        flip: bool = False,
    ) -> None:
        self.samples = list(pairs)
        self._size, self._flip = size, flip

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        image, mask = (self._opened(path) for path in self.samples[place])
        if image.size != mask.size:
            paths = [str(path) for path in self.samples[place]]
            raise TaskError(
                f"the mask {paths[1]} has {mask.size[0]}x{mask.size[1]} pixels, its image"
                f" {image.size[0]}x{image.size[1]}"
            )
        if mask.mode not in ("L", "P", "I", "1"):
            raise TaskError(
                f"{self.samples[place][1]} is not a mask of class indices, but a {mask.mode} image"
            )
        image = image.convert("RGB")
        if self._size is not None:
            height, width = self._size
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            mask = mask.resize((width, height), Image.Resampling.NEAREST)
        x = transforms.normalize(transforms.to_tensor(image), *IMAGENET)
        y = torch.from_numpy(np.asarray(mask).astype(np.int64))
        if self._flip and bool(torch.rand(()) < 0.5):
            x, y = x.flip(-1), y.flip(-1)
        return x, y

    @staticmethod
    def _opened(path: Path) -> Image.Image:
        return Image.open(path)


def mask_splits(
    root: Path, size: int | None, ignored: int, counts: Counts, seed: int
) -> tuple[Splits, int]:
    """The splits of a folder of images and masks, and its number of classes.

    Args:
        root: ``train/`` and ``trainannot/``, ``images/train/`` and ``masks/train/``, and the like;
            ``val`` and maybe ``test`` beside ``train``; or Pascal VOC's ``JPEGImages/``,
            ``SegmentationClass/`` and ``ImageSets/Segmentation/``.
        size: Shorter side of the images; None takes them as they are.
        ignored: Label that is no class.
        counts: Samples asked for.
        seed: Of the draw.

    Raises:
        TaskError: There are no images with masks in one of these layouts, or an image has none.
    """
    found = _voc(root) or {split: _pairs(root, split) for split in _SPLITS}
    if not found["train"] or not found["val"]:
        raise TaskError(
            f"{root} has no images with masks: give a folder with train/ and trainannot/, val/ and"
            " valannot/, or images/train/ and masks/train/, or in Pascal VOC's layout"
        )
    every = [pair for pairs in found.values() for pair in pairs]
    shape = _shape(every, size)
    train = Masks(found["train"], shape)
    varied = Masks(found["train"], shape, flip=True)
    test = Masks(found["test"], shape) if found["test"] else None
    splits = divide(train, Masks(found["val"], shape), test, varied, counts, seed, in_memory=False)
    return splits, _classes(found["train"], ignored)


def _pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    for name in _SPLITS[split]:
        for images, masks in _PLACES:
            here, there = root / images.format(split=name), root / masks.format(split=name)
            if here.is_dir() and there.is_dir():
                return _paired(here, there)
    return []


def _paired(images: Path, masks: Path, names: Sequence[str] | None = None) -> list[Any]:
    known = {path.stem: path for path in sorted(masks.iterdir()) if path.suffix.lower() in _MASKS}
    found = []
    for path in sorted(images.iterdir()):
        if path.suffix.lower() not in _IMAGES or (names is not None and path.stem not in names):
            continue
        if path.stem not in known:
            raise TaskError(f"the image {path} has no mask {path.stem}.png in {masks}")
        found.append((path, known[path.stem]))
    return found


def _voc(root: Path) -> dict[str, list[tuple[Path, Path]]] | None:
    lists = root / "ImageSets" / "Segmentation"
    if not lists.is_dir():
        return None

    def of(split: str) -> list[tuple[Path, Path]]:
        listing = lists / f"{split}.txt"
        names = listing.read_text("utf-8").split() if listing.is_file() else []
        return _paired(root / "JPEGImages", root / "SegmentationClass", names) if names else []

    return {split: of(split) for split in _SPLITS}


def _shape(pairs: Sequence[tuple[Path, Path]], size: int | None) -> tuple[int, int] | None:
    """H and W of all images: that of the first, scaled so that the shorter side is ``size``.

    Raises:
        TaskError: They differ, and nothing says what they are to be.
    """
    shapes = {Image.open(image).size for image, _ in pairs} if size is None else set()
    if len(shapes) > 1:
        raise TaskError(
            f"the images have {len(shapes)} different sizes, such as"
            f" {' and '.join(f'{w}x{h}' for w, h in sorted(shapes)[:2])}: give --image-size"
        )
    if size is None:
        return None
    width, height = Image.open(pairs[0][0]).size
    scale = size / min(width, height)
    return round(height * scale), round(width * scale)


def _classes(pairs: Sequence[tuple[Path, Path]], ignored: int) -> int:
    """One more than the largest label of the masks."""
    labels: set[int] = set()
    for _, mask in pairs:
        labels |= set(np.unique(np.asarray(Image.open(mask))).tolist())
    most = max(labels - {ignored}, default=0)
    if most < 1:
        raise TaskError(
            f"the training masks hold the labels {sorted(labels)}, and {ignored} is ignored:"
            " there is nothing to classify; use another --ignore-label, or masks of 0, 1, 2, …"
        )
    return 1 + most
