"""Train a compact detector on blood cells and search its spiking versions.

python -m examples.detection --data BCCD_Dataset/BCCD
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, sigmoid_focal_loss

from evaluators import Task, TaskSpec, YoloNet
from examples.running import options, run, train

SETTINGS: dict[str, Any] = {"image_size": 240, "calibration_samples": 32}

SURE, UNSURE = 0.5, 0.4


def loss_of(model: YoloNet, found: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Focal loss of the classes, distance of the boxes; per object.

    A candidate is for the object that it overlaps most at its anchor's size, if by half or more;
    every object has its best candidate. What overlaps by 0.4 to 0.5 plays no part.
    """
    cells, anchors = model.cells()
    centres = (cells + 0.5) * model.stride
    priors = torch.cat([centres - anchors / 2, centres + anchors / 2], 1)
    total = found["cls_logits"].new_zeros(())
    for logits, regression, rows in zip(*found.values(), targets, strict=True):
        objects = rows[rows[:, 4] >= 0]
        wanted, counts = torch.zeros_like(logits), torch.ones_like(logits)
        if len(objects):
            overlap, owner = box_iou(priors, objects[:, :4]).max(1)
            best = box_iou(priors, objects[:, :4]).argmax(0)
            overlap[best], owner[best] = 1.0, torch.arange(len(objects))
            counts[(overlap >= UNSURE) & (overlap < SURE)] = 0.0
            mine = (overlap >= SURE).nonzero().squeeze(1)
            wanted[mine, objects[owner[mine], 4].long()] = 1.0
            box, at = objects[owner[mine], :4], cells[mine] * model.stride
            place = ((box[:, :2] + box[:, 2:]) / 2 - at) / model.stride
            size = ((box[:, 2:] - box[:, :2]) / anchors[mine]).log()
            off = F.smooth_l1_loss(
                regression[mine, :2].sigmoid(), place.clamp(0, 1), reduction="sum"
            )
            off = off + F.smooth_l1_loss(regression[mine, 2:], size, reduction="sum")
            total = total + off / len(mine)
        losses = sigmoid_focal_loss(logits, wanted, reduction="none") * counts
        total = total + losses.sum() / max(1, int(wanted.sum()))
    return total / len(targets)


def train_ann(task: Task) -> nn.Module:
    """Scores begin low, as nearly all candidates are background (Lin et al., ICCV 2017)."""
    model = task.model
    assert isinstance(model, YoloNet)
    with torch.no_grad():
        bias = model.head.bias.view(len(model.anchors), -1)
        bias[:, : model.classes] = -4.0
    return train(
        task, lambda found, targets: loss_of(model, found, targets), epochs=40, batch_size=8
    )


@options("detection")
def main(data: Path, out: Path, trials: int) -> None:
    """Object detection in the images of DATA."""
    spec = TaskSpec(task="detection", data=str(data), **SETTINGS)
    run(spec, out, f"--trials {trials} --timesteps 1,2,4 --iterations 50,100", train_ann)


if __name__ == "__main__":
    main()
