"""Images with boxes: Pascal VOC's and COCO's layouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as transforms

from evaluators._split import TaskError
from evaluators.tasks._divide import Counts, Splits, divide
from evaluators.tasks._images import IMAGENET, Statistics


@dataclass(frozen=True)
class Annotated:
    """An image file and its objects: x1, y1, x2, y2 in its own pixels, and a class."""

    image: Path
    size: tuple[int, int]
    objects: tuple[tuple[float, float, float, float, int], ...]


class BoxedImages(Dataset[tuple[Tensor, Tensor]]):
    """Images ``(3, H, W)`` and their objects ``(G, 5)``: x1, y1, x2, y2, class; -1: padding.

    Args:
        samples: Images and objects.
        size: H and W to which images and boxes are resized.
        most: G.
        statistics: Means and spreads that images are normalised by.
        flip: Whether half of them, by torch's random state, are mirrored.
    """

    def __init__(
        self,
        samples: Sequence[Annotated],
        size: tuple[int, int],
        most: int,
        statistics: Statistics = IMAGENET,
        *,
        flip: bool = False,
    ) -> None:
        self._annotated = list(samples)
        self.samples = [(sample.image, sample.objects) for sample in samples]
        self._size, self._most, self._statistics, self._flip = size, most, statistics, flip

    def __len__(self) -> int:
        return len(self._annotated)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        sample, (height, width) = self._annotated[place], self._size
        image = Image.open(sample.image).convert("RGB")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        x = transforms.normalize(transforms.to_tensor(image), *self._statistics)
        objects = torch.full((self._most, 5), -1.0)
        if sample.objects:
            found = torch.tensor(sample.objects, dtype=torch.float32)
            across, down = width / sample.size[0], height / sample.size[1]
            objects[: len(found)] = found * torch.tensor([across, down, across, down, 1.0])
        if self._flip and bool(torch.rand(()) < 0.5):
            x = x.flip(-1)
            there = objects[:, 4] >= 0
            objects[there] = objects[there][:, [2, 1, 0, 3, 4]]
            objects[there, 0], objects[there, 2] = (
                width - objects[there, 0],
                width - objects[there, 2],
            )
        return x, objects


def box_classes(root: Path) -> list[str]:
    """The names of the classes of a folder of images with boxes; as of :func:`box_splits`."""
    return _found(root)[1]


def box_splits(
    root: Path, size: int | tuple[int, int], counts: Counts, seed: int, statistics: Statistics
) -> tuple[Splits, tuple[int, int]]:
    """The splits of a folder of images with boxes, and their H and W.

    Args:
        root: Pascal VOC's ``JPEGImages/``, ``Annotations/`` and ``ImageSets/Main/``; or COCO's
            ``annotations/instances_train*.json`` and ``…_val*.json`` with the folders of images
            that they are called after. VOC's difficult objects and COCO's crowds are left out: what
            is detected there counts as wrong.
        size: Shorter side of the images, in the proportions of the first; or H and W.
        counts: Samples asked for.
        seed: Of the draw.
        statistics: Means and spreads that images are normalised by.

    Raises:
        TaskError: There are no images with boxes in one of these layouts.
    """
    found, _ = _found(root)
    width, height = found["train"][0].size
    if isinstance(size, int):
        scale = size / min(width, height)
        size = (round(height * scale), round(width * scale))
    most = max(1, *(len(sample.objects) for samples in found.values() for sample in samples))
    sets = {k: BoxedImages(v, size, most, statistics) for k, v in found.items() if v}
    varied = BoxedImages(found["train"], size, most, statistics, flip=True)
    test = sets.get("test")
    splits = divide(sets["train"], sets["val"], test, varied, counts, seed, in_memory=False)
    return splits, size


Found = tuple[dict[str, list[Annotated]], list[str]]


@lru_cache(maxsize=4)
def _found(root: Path) -> Found:
    lists = root / "ImageSets" / "Main"
    found, names = _voc(root, lists) if lists.is_dir() else _coco(root)
    if not names or not found["train"] or not found["val"]:
        raise TaskError(
            f"{root} has no images with boxes: give a folder in Pascal VOC's layout"
            " (ImageSets/Main/train.txt, val.txt) or COCO's (annotations/instances_train….json)"
        )
    return found, names


def _voc(root: Path, lists: Path) -> Found:
    listed = {
        split: (lists / f"{split}.txt").read_text("utf-8").split()
        if (lists / f"{split}.txt").is_file()
        else []
        for split in ("train", "val", "test")
    }
    raw = {split: [_xml(root, name) for name in stems] for split, stems in listed.items()}
    names = sorted({o[4] for rows in raw.values() for _, _, objects in rows for o in objects})
    found = {
        split: [
            Annotated(image, size, tuple((*o[:4], names.index(o[4])) for o in objects))
            for image, size, objects in rows
        ]
        for split, rows in raw.items()
    }
    return found, names


def _xml(root: Path, name: str) -> tuple[Path, tuple[int, int], list[Any]]:
    path = root / "Annotations" / f"{name}.xml"
    try:
        tree = ElementTree.parse(path).getroot()
        objects = []
        for item in tree.iter("object"):
            if item.findtext("difficult") == "1":
                continue
            corners = [float(item.findtext(f"bndbox/{c}") or "") for c in _CORNERS]
            if corners[2] > corners[0] and corners[3] > corners[1]:
                objects.append((*corners, (item.findtext("name") or "").strip()))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise TaskError(f"{path} holds no boxes: {error}") from error
    image = next((root / "JPEGImages").glob(f"{name}.*"), None)
    if image is None:
        raise TaskError(f"{root / 'JPEGImages'} has no image {name}")
    return image, Image.open(image).size, objects


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _coco(root: Path) -> Found:
    found: dict[str, list[Annotated]] = {"train": [], "val": [], "test": []}
    names: list[str] = []
    for split in found:
        for path in sorted((root / "annotations").glob(f"instances_{split}*.json")):
            folder = root / path.stem.removeprefix("instances_")
            images = folder if folder.is_dir() else root / "images" / folder.name
            try:
                samples, here = _instances(json.loads(path.read_text("utf-8")), images)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise TaskError(f"{path} is not in COCO's format: {error!r}") from error
            if names and here != names:
                raise TaskError(f"{path} has other categories than the split before it")
            names = here
            found[split] += samples
    return found, names


def _instances(body: Any, images: Path) -> tuple[list[Annotated], list[str]]:
    categories = {c["id"]: c["name"] for c in sorted(body["categories"], key=lambda c: c["id"])}
    place = {key: label for label, key in enumerate(categories)}
    objects: dict[int, list[Any]] = {}
    for item in body["annotations"]:
        x, y, w, h = map(float, item["bbox"])
        if w > 0 and h > 0 and not item.get("iscrowd"):
            row = (x, y, x + w, y + h, place[item["category_id"]])
            objects.setdefault(item["image_id"], []).append(row)
    samples = [
        Annotated(
            images / image["file_name"],
            (int(image["width"]), int(image["height"])),
            tuple(objects.get(image["id"], ())),
        )
        for image in body["images"]
    ]
    return samples, list(categories.values())
