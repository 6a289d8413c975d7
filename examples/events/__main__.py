"""Train a small CNN on frames of events and search its spiking versions.

    python -m examples.events --data N-MNIST

The folder holds ``Train/<digit>/*.bin`` and ``Test/<digit>/*.bin``, or recordings beside a list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import nn

from evaluators import Task, TaskSpec
from examples.running import options, run, train

SETTINGS: dict[str, Any] = {"frames_by": "count"}


def train_ann(task: Task) -> nn.Module:
    """The ANN sees the mean over the frames."""
    return train(task, F.cross_entropy, epochs=30, prepare=lambda x: x.float().mean(1))


@options("events")
def main(data: Path, out: Path, trials: int) -> None:
    """Event-driven classification of the recordings in DATA."""
    spec = TaskSpec(task="events", data=str(data), **SETTINGS)
    run(spec, out, f"--trials {trials}", train_ann)


if __name__ == "__main__":
    main()
