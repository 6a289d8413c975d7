"""Detectors: what a network gives, and how boxes are decoded from it, which stays analog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from conversion import Boxes
from evaluators._split import TaskError
from evaluators.tasks._images import IMAGENET, Statistics
from evaluators.tasks._models import conv_block

Detections = list[dict[str, Tensor]]


@runtime_checkable
class Detector(Protocol):
    """A network that returns scores and boxes of candidates, and decodes them.

    Attributes:
        outputs: How its outputs are interpreted.
        statistics: Means and standard deviations that normalise its images.
    """

    outputs: Boxes
    statistics: Statistics

    def prepare(self, size: tuple[int, int]) -> None:
        """Store the size of the images, H and W, which decoding may need."""

    def decode(self, answers: Mapping[str, Tensor]) -> Detections:
        """Decode outputs into boxes ``(D, 4)`` in pixels, scores ``(D,)`` and labels ``(D,)``."""


class YoloNet(nn.Module):
    """A compact one-stage detector on a grid with anchors, after YOLOv2.

    Redmon & Farhadi, CVPR 2017: centres within their cell by a sigmoid, sizes by an exponential of
    the anchor's.

    Args:
        classes: Number of classes.
        anchors: Widths and heights in pixels, ``(A, 2)``; kept with the weights.
        width: Channels of the first stage.
    """

    stride = 16
    outputs = Boxes()
    statistics = IMAGENET

    def __init__(
        self,
        *,
        classes: int,
        anchors: tuple[tuple[float, float], ...] = ((20, 20), (48, 48), (100, 100)),
        width: int = 16,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32))
        self.features = nn.Sequential(
            conv_block(3, width, stride=2),
            conv_block(width, 2 * width, stride=2),
            conv_block(2 * width, 4 * width, stride=2),
            conv_block(4 * width, 4 * width),
            conv_block(4 * width, 8 * width, stride=2),
            conv_block(8 * width, 8 * width),
            conv_block(8 * width, 8 * width),
        )
        self.head = nn.Conv2d(8 * width, len(anchors) * (classes + 4), 1)
        self._size = (0, 0)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits ``(N, cells·A, classes)`` and boxes ``(N, cells·A, 4)`` of images."""
        found = self.head(self.features(x)).permute(0, 2, 3, 1)
        rows = found.reshape(x.shape[0], -1, self.classes + 4)
        return {
            "cls_logits": rows[..., : self.classes],
            "bbox_regression": rows[..., self.classes :],
        }

    def prepare(self, size: tuple[int, int]) -> None:
        """Store the size of the images, H and W, which decoding needs."""
        self._size = size

    def cells(self) -> tuple[Tensor, Tensor]:
        """Cell (column, row) and anchor (width, height) of every candidate, ``(cells·A, 2)``."""
        rows, columns = (-(-side // self.stride) for side in self._size)
        anchors = cast(Tensor, self.anchors)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        grid = torch.stack([x, y], -1).reshape(-1, 1, 2).expand(-1, len(anchors), 2)
        return grid.reshape(-1, 2).to(anchors), anchors.repeat(rows * columns, 1)

    def boxes(self, regression: Tensor) -> Tensor:
        """Corners in pixels, ``(N, cells·A, 4)``."""
        cells, anchors = self.cells()
        centres = (regression[..., :2].sigmoid() + cells) * self.stride
        sizes = anchors * regression[..., 2:].clamp(-4, 4).exp()
        return torch.cat([centres - sizes / 2, centres + sizes / 2], -1)

    def decode(self, answers: Mapping[str, Tensor]) -> Detections:
        """Boxes with a score above 0.05, after non-maximum suppression per class at 0.5."""
        boxes = self.boxes(answers["bbox_regression"])
        scores, labels = answers["cls_logits"].sigmoid().max(-1)
        found = []
        for box, score, label in zip(boxes, scores, labels, strict=True):
            kept = score > 0.05
            b, s, c = box[kept], score[kept], label[kept]
            order = batched_nms(b, s, c, 0.5)[:100]
            found.append({"boxes": b[order], "scores": s[order], "labels": c[order]})
        return found


class TorchvisionDetector(nn.Module):
    """Backbone, neck and heads of one of torchvision's one-stage detectors.

    Args:
        name: Name of the model, such as ``retinanet_resnet50_fpn``, ``fcos_resnet50_fpn``,
            ``ssdlite320_mobilenet_v3_large``.
        classes: Number of classes, without the background, which is torchvision's class 0.
    """

    def __init__(self, name: str, classes: int) -> None:
        super().__init__()
        options = {"weights": None, "weights_backbone": None, "num_classes": classes + 1}
        self.model: Any = torchvision.models.get_model(name, **options)
        if not hasattr(self.model, "head"):
            raise TaskError(f"{name} has two stages; one-stage detectors convert: {_ONE_STAGE}")
        is_ssd = name.startswith("ssd")
        quality = "bbox_ctrness" if name.startswith("fcos") else None
        self.outputs = Boxes(activation="softmax" if is_ssd else "sigmoid", quality=quality)
        self.statistics = (
            tuple(self.model.transform.image_mean),
            tuple(self.model.transform.image_std),
        )
        self._size = (0, 0)
        self._blank: list[Tensor] | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """H and W of its images, if it accepts only one size."""
        fixed = self.model.transform.fixed_size
        return None if fixed is None else (fixed[1], fixed[0])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Outputs of the heads for images ``(N, 3, H, W)``."""
        found: dict[str, Tensor] = self.model.head(self._levels(x))
        return found

    def _levels(self, x: Tensor) -> list[Tensor]:
        features = self.model.backbone(x)
        return [features] if isinstance(features, Tensor) else list(features.values())

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load its own state, or that of torchvision's model."""
        own = {key.removeprefix("model."): value for key, value in state_dict.items()}
        return self.model.load_state_dict(own, strict=strict, assign=assign)

    def prepare(self, size: tuple[int, int]) -> None:
        """Store the size of the images, H and W, which decoding needs."""
        self._size, self._blank = size, None

    def _blank_levels(self) -> list[Tensor]:
        """The features of a blank image, for their shapes."""
        if self._blank is None:
            training = self.training
            with torch.no_grad():
                levels = self.eval()._levels(torch.zeros(1, 3, *self._size))
            self._blank = [torch.zeros_like(level) for level in levels]
            self.train(training)
        return self._blank

    @torch.no_grad()
    def decode(self, answers: Mapping[str, Tensor]) -> Detections:
        """Decode with torchvision's own post-processing."""
        first, levels = answers["cls_logits"], self._blank_levels()
        blank = torch.zeros(1, 3, *self._size)
        sizes = [self._size] * len(first)
        images = ImageList(blank.expand(len(first), -1, -1, -1), sizes)
        anchors = self.model.anchor_generator(images, levels)
        heads: Any = dict(answers)
        if self.outputs.activation == "sigmoid":  # RetinaNet and FCOS go level by level
            cells = [level.shape[2] * level.shape[3] for level in levels]
            each = first.shape[1] // sum(cells)
            counts = [count * each for count in cells]
            heads = {name: list(head.split(counts, dim=1)) for name, head in answers.items()}
            anchors = [list(anchor.split(counts)) for anchor in anchors]
        found: Detections = self.model.postprocess_detections(heads, anchors, sizes)
        return [_without_background(detections) for detections in found]


_ONE_STAGE = "RetinaNet, FCOS, SSD and SSDlite"


def _without_background(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = found["labels"] > 0
    return {
        "boxes": found["boxes"][kept],
        "scores": found["scores"][kept],
        "labels": found["labels"][kept] - 1,
    }
