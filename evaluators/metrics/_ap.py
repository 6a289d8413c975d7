"""Mean average precision of detections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from conversion import ConfigError
from evaluators._split import TaskError
from evaluators.metrics._base import Metric

Decode = Callable[[Mapping[str, Tensor]], Sequence[Mapping[str, Tensor]]]
"""Outputs of a network to the detections of each sample: ``boxes`` ``(D, 4)`` as x1, y1, x2, y2 in
pixels, ``scores`` ``(D,)`` in 0..1 and ``labels`` ``(D,)``."""

_MOST = 100
_OBJECT = -1.0
"""In place of a score: the row is an object of the targets."""

_RECALLS = 101


class MeanAveragePrecision(Metric):
    """Mean over classes and overlaps of the area under the precision-recall curve.

    As COCO defines it (Lin et al., ECCV 2014, and its evaluation server), for the 100 best
    detections of each sample: in order of score, each is matched to the unmatched object of its
    class that it overlaps most; precision is made monotone and sampled at 101 recalls. Classes
    without objects are skipped.

    Args:
        decode: Turns outputs into detections.
        classes: Number of classes.
        overlaps: Thresholds on intersection over union; (0.5,) is mAP@50.
    """

    def __init__(self, decode: Decode, classes: int, overlaps: Sequence[float] = (0.5,)) -> None:
        if not overlaps or not all(0 < overlap <= 1 for overlap in overlaps):
            raise ConfigError(f"overlaps must be within 0..1, got {overlaps!r}")
        self.decode = decode
        self.classes = classes
        self.overlaps = tuple(overlaps)
        one = f"@{100 * self.overlaps[0]:.0f}" if len(self.overlaps) == 1 else ""
        self.name = f"mAP{one}"

    def statistics(self, answer: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Detections and objects of each sample, ``(N, 100 + G, 2 + overlaps)``.

        A row holds a score, a class, and for each overlap whether it matched; for an object the
        score is -1. Rows of class -1 are padding.

        Args:
            answer: Outputs of the network by name.
            targets: Objects, ``(N, G, 5)``: x1, y1, x2, y2, class; class -1 is padding.
        """
        rows = torch.full((len(targets), _MOST + targets.shape[1], 2 + len(self.overlaps)), -1.0)
        here = {name: value.cpu() for name, value in answer.items()}  # where the task's model is
        for row, found, objects in zip(rows, self.decode(here), targets.cpu(), strict=True):
            objects = objects[objects[:, 4] >= 0]  # noqa: PLW2901
            order = found["scores"].argsort(descending=True, stable=True)[:_MOST]
            boxes, scores, labels = (found[k][order].cpu() for k in ("boxes", "scores", "labels"))
            row[: len(order), 0], row[: len(order), 1] = scores, labels.to(row)
            hits = matched(boxes, labels, objects, self.overlaps)
            row[: len(order), 2:] = torch.from_numpy(hits).to(row)
            row[_MOST : _MOST + len(objects), 1] = objects[:, 4].to(row)
        return rows.to(targets.device)

    def values(self, statistics: Tensor, weights: Tensor) -> Tensor:
        """Mean average precision of weighted samples."""
        table = self._by_class(statistics.cpu().numpy(), weights.cpu().numpy())
        there = ~np.isnan(table)
        mean = np.where(there, table, 0).sum(1) / np.maximum(there.sum(1), 1)
        return torch.from_numpy(mean).to(weights)

    def per_class(self, statistics: Tensor, targets: Tensor) -> Tensor:
        """Average precision of each class."""
        rows = statistics.cpu().numpy()
        return torch.from_numpy(self._by_class(rows, np.ones((1, len(rows))))[0])

    def _by_class(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """``(B, classes)``."""
        found = []
        for label in range(self.classes):
            of_class = rows[..., 1] == label
            objects = counts @ (of_class & (rows[..., 0] == _OBJECT)).sum(1)
            sample, place = np.nonzero(of_class & (rows[..., 0] >= 0))
            order = np.argsort(-rows[sample, place, 0], kind="stable")
            sample, place = sample[order], place[order]
            hits = rows[sample, place, 2:]
            found.append(average_precision(hits, counts[:, sample], objects))
        return np.stack(found, 1)

    def check(self, targets: Tensor, answer: Any, place: Callable[[int], str]) -> None:
        """Check that targets are padded boxes with valid classes."""
        if targets.dim() != 3 or targets.shape[2] != 5:
            raise TaskError(
                f"the targets of {place(0)} and others must be boxes (G, 5): x1, y1, x2, y2, class"
                f" (-1: padding), got {tuple(targets.shape[1:])}"
            )
        outside = (targets[..., 4] >= self.classes).sum(1) > 0
        if bool(outside.any()):
            raise TaskError(
                f"{place(int(outside.to(torch.uint8).argmax()))} has an object of a class above"
                f" {self.classes - 1}"
            )


def matched(
    boxes: Tensor, labels: Tensor, objects: Tensor, overlaps: Sequence[float]
) -> np.ndarray:
    """Which detections, in the order of their scores, hit an object, ``(D, overlaps)``."""
    hits = np.zeros((len(boxes), len(overlaps)), dtype=bool)
    if not len(boxes) or not len(objects):
        return hits
    table = box_iou(boxes.double(), objects[:, :4].double()).numpy()
    table[labels.numpy()[:, None] != objects[:, 4].numpy()[None]] = -1.0
    for column, overlap in enumerate(overlaps):
        free = np.ones(len(objects), dtype=bool)
        for place, row in enumerate(table):
            best = int(np.where(free, row, -1.0).argmax())
            if free[best] and row[best] >= min(overlap, 1 - 1e-10):
                free[best] = False
                hits[place, column] = True
    return hits


def average_precision(hits: np.ndarray, counts: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Area under the curve of precision and recall, mean over overlaps, ``(B,)``.

    Args:
        hits: Of detections by falling score, ``(D, overlaps)``.
        counts: How often each counts, ``(B, D)``.
        objects: How many there are, ``(B,)``; NaN comes out where there are none.
    """
    recalls = np.linspace(0, 1, _RECALLS)
    areas = np.full((len(objects), hits.shape[1]), np.nan)
    for column in range(hits.shape[1]):
        right = (counts * hits[:, column]).cumsum(1)
        precision = right / np.maximum(counts.cumsum(1), 1e-12)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for b in np.flatnonzero(objects > 0):
            at = np.searchsorted(right[b] / objects[b], recalls, side="left")
            known = at < len(hits)
            areas[b, column] = precision[b, at[known]].sum() / _RECALLS
    mean: np.ndarray = areas.mean(1)
    return mean
