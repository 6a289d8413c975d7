"""Train a small 3-d CNN on occupancy grids and search its spiking versions.

python -m examples.voxels --data ModelNet10
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F

from evaluators import TaskSpec
from examples.running import options, run, train


@options("voxels")
def main(data: Path, out: Path, trials: int) -> None:
    """Classification of the shapes in DATA as occupancy grids."""
    run(
        TaskSpec(task="voxels", data=str(data)),
        out,
        f"--trials {trials}",
        lambda task: train(task, F.cross_entropy, epochs=20),
    )


main()
