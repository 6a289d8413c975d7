"""Train a PointNet on point clouds and search its spiking versions.

python -m examples.pointcloud --data ModelNet10
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import nn

from evaluators import Task, TaskSpec
from examples.running import options, run, train

SETTINGS: dict[str, Any] = {"points": 256}


def train_ann(task: Task) -> nn.Module:
    """Cross-entropy."""
    return train(task, F.cross_entropy, epochs=30)


@options("pointcloud")
def main(data: Path, out: Path, trials: int) -> None:
    """Classification of the shapes in DATA as point clouds."""
    spec = TaskSpec(task="pointcloud", data=str(data), **SETTINGS)
    run(spec, out, f"--trials {trials}", train_ann)


if __name__ == "__main__":
    main()
