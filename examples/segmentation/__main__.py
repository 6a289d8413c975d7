"""Train a small U-Net on CamVid and search its spiking versions.

python -m examples.segmentation --data CamVid
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluators import TaskSpec
from examples.running import options, run, train

UNLABELLED = 11


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, rare classes weighted by the root of their rarity within the batch."""
    counts = torch.bincount(labels.flatten(), minlength=UNLABELLED + 1)[: logits.shape[1]]
    weights = (counts.sum() / counts.clamp_min(1)).sqrt().clamp_max(10.0)
    return F.cross_entropy(logits, labels, weight=weights.float(), ignore_index=UNLABELLED)


@options("segmentation")
def main(data: Path, out: Path, trials: int) -> None:
    """Semantic segmentation of the road scenes in DATA."""
    run(
        TaskSpec(
            task="segmentation", data=str(data), ignore_label=UNLABELLED, calibration_samples=32
        ),
        out,
        f"--trials {trials} --timesteps 1,2,4",
        lambda task: train(task, loss_of, epochs=30, batch_size=8),
    )


main()
