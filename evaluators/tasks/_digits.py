"""The embedded task: scikit-learn's handwritten digits and a residual network trained on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluators._split import Split
from evaluators._task import Task
from evaluators.tasks._models import ResNetCifar

TRAIN, CALIBRATION, SEARCH = 797, 100, 450
"""Samples per split; the remaining 450 of the 1,797 are the test split."""

WEIGHTS = Path(__file__).with_name("digits.safetensors")
"""Of the network, in half precision; ``python -m benchmarks.digits_network`` made them."""

_BATCH = 32


def digits(*, seed: int = 0) -> Task:
    """The default task: 1,797 real 8×8 images, ten classes, a trained ResNet of 20 layers.

    The network is identical on every machine. Learned calibrations use the 797 images it was
    trained on, with small random warps.

    Args:
        seed: Seed of the random calibration, search and test splits of the 1,000 images that the
            network was not trained on.
    """
    images, labels = _load()
    rest, targets = images[TRAIN:], labels[TRAIN:]
    order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))
    rest, targets = rest[order], targets[order]
    ends = (0, CALIBRATION, CALIBRATION + SEARCH, len(rest))
    calibration, search, test = (Split.of(rest[a:b], targets[a:b]) for a, b in pairwise(ends))
    model = ResNetCifar(in_channels=1)
    model.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    return Task(
        name="digits",
        model=model.eval(),
        calibration=calibration,
        search=search,
        test=test,
        train=WarpedBatches(*training_images()),
    )


def training_images() -> tuple[Tensor, Tensor]:
    """The images that the network was trained on, ``(797, 1, 8, 8)``, and their classes."""
    images, labels = _load()
    return images[:TRAIN], labels[:TRAIN]


def _load() -> tuple[Tensor, Tensor]:
    """All images and classes, in an order that no seed changes."""
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    bundle = load_digits()
    order = torch.randperm(len(bundle.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(bundle.images, dtype=torch.float32).unsqueeze(1) / 16
    return images[order], torch.tensor(bundle.target)[order]


@dataclass(frozen=True)
class WarpedBatches:
    """Training images in another order each time, warped anew, by torch's random state."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images) // _BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images))[: len(self) * _BATCH]
        for index in order.split(_BATCH):
            yield warped(self.images[index]), self.labels[index]


def warped(images: Tensor, random: torch.Generator | None = None) -> Tensor:
    """Each image turned by up to 10°, scaled by up to 10 % and shifted by up to 0.7 pixels."""
    turn, scale, right, down = torch.rand((4, len(images)), generator=random) * 2 - 1
    cosine = (turn * math.radians(10)).cos() * (1 + 0.1 * scale)
    sine = (turn * math.radians(10)).sin() * (1 + 0.1 * scale)
    pixel = 2 / images.shape[-1]
    first = torch.stack([cosine, -sine, 0.7 * pixel * right], 1)
    second = torch.stack([sine, cosine, 0.7 * pixel * down], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
