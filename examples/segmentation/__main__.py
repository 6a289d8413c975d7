"""Train a small U-Net on CamVid and search its spiking versions.

python -m examples.segmentation --data CamVid
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluators import Task, TaskSpec
from examples.running import options, run, train

UNLABELLED = 11


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, rare classes weighted by the root of their rarity within the batch."""
    counts = torch.bincount(labels.flatten(), minlength=UNLABELLED + 1)[: logits.shape[1]]
    weights = (counts.sum() / counts.clamp_min(1)).sqrt().clamp_max(10.0)
    return F.cross_entropy(logits, labels, weight=weights.float(), ignore_index=UNLABELLED)


SETTINGS: dict[str, Any] = {"ignore_label": UNLABELLED, "calibration_samples": 32}


def train_ann(task: Task) -> nn.Module:
    """Mirrored images, in batches of eight."""
    return train(task, loss_of, epochs=24, batch_size=8)


@options("segmentation")
def main(data: Path, out: Path, trials: int) -> None:
    """Semantic segmentation of the road scenes in DATA."""
    spec = TaskSpec(task="segmentation", data=str(data), **SETTINGS)
    run(spec, out, f"--trials {trials} --timesteps 1,2,4 --iterations 50,100", train_ann)


if __name__ == "__main__":
    main()
