"""Train a PointNet on point clouds and search its spiking versions.

python -m examples.pointcloud --data ModelNet10
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F

from evaluators import TaskSpec
from examples.running import options, run, train


@options("pointcloud")
def main(data: Path, out: Path, trials: int) -> None:
    """Classification of the shapes in DATA as point clouds."""
    run(
        TaskSpec(task="pointcloud", data=str(data), points=256),
        out,
        f"--trials {trials}",
        lambda task: train(task, F.cross_entropy, epochs=30),
    )


main()
