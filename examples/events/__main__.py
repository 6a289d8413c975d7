"""Train a small CNN on frames of events and search its spiking versions.

    python -m examples.events --data N-MNIST

The folder holds ``Train/<digit>/*.bin`` and ``Test/<digit>/*.bin``, or recordings beside a list.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F

from evaluators import TaskSpec
from examples.running import options, run, train


@options("events")
def main(data: Path, out: Path, trials: int) -> None:
    """Event-driven classification of the recordings in DATA."""
    run(
        TaskSpec(task="events", data=str(data)),
        out,
        f"--trials {trials}",
        lambda task: train(task, F.cross_entropy, epochs=30, prepare=lambda x: x.float().mean(1)),
    )


main()
