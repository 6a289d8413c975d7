"""The embedded task for any commit's tree: ``--task benchmarks/shared_digits.py:make_task``.

An earlier commit trained a network of its own; so that two commits are compared on the same one,
this file loads the weights beside it into whichever ``evaluators`` imports it.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from sklearn.datasets import load_digits

from evaluators import Split, Task
from evaluators.tasks._models import ResNetCifar

_HERE = Path(__file__).resolve().parents[1]


def make_task() -> Task:
    """Network and splits of ``evaluators.digits()`` at seed 0."""
    bundle = load_digits()
    order = torch.randperm(len(bundle.target), generator=torch.Generator().manual_seed(0))
    images = (torch.tensor(bundle.images, dtype=torch.float32).unsqueeze(1) / 16)[order]
    labels = torch.tensor(bundle.target)[order]
    rest = 797 + torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    model = ResNetCifar(in_channels=1)
    model.load_state_dict(
        safetensors.torch.load_file(_HERE / "evaluators" / "tasks" / "digits.safetensors")
    )
    parts = (rest[:100], rest[100:550], rest[550:])
    calibration, search, test = (Split.of(images[p], labels[p]) for p in parts)
    return Task(
        name="digits",
        model=model.eval(),
        calibration=calibration,
        search=search,
        test=test,
        **_train(images[:797], labels[:797]),
    )


def _train(images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """The images to learn from, where tasks have them."""
    if "train" not in {f.name for f in fields(Task)}:
        return {}
    from evaluators.tasks._digits import WarpedBatches  # an earlier commit has none

    return {"train": WarpedBatches(images, labels)}
