"""The embedded task: scikit-learn's handwritten digits and a residual network trained on them."""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from platformdirs import user_cache_path
from torch import Tensor

from conversion import write_file
from evaluators import _models
from evaluators._models import ResNetCifar
from evaluators._task import Split, Task

_LOG = logging.getLogger("spikefront")

TRAIN, CALIBRATION, SEARCH = 797, 100, 450
"""Samples per split; the remaining 450 of the 1,797 are the test split."""

_EPOCHS, _BATCH, _RATE = 60, 64, 0.1


def digits(*, seed: int = 0, cache: Path | None = None) -> Task:
    """The default task: 1,797 real 8×8 images, ten classes, a ResNet of 20 layers.

    The network is trained on first use (about ten seconds on two cores), always from the same
    seed, and kept in the user's cache directory.

    Args:
        seed: Seed of the split; the network of each seed is its own.
        cache: Where trained networks are kept.
    """
    images, labels = _load()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    ends = (0, TRAIN, TRAIN + CALIBRATION, TRAIN + CALIBRATION + SEARCH, len(images))
    parts = [(images[a:b], labels[a:b]) for a, b in pairwise(ends)]
    model = _untrained(seed)
    path = (cache or user_cache_path("spikefront")) / f"digits-{_recipe()}-{seed}.safetensors"
    if path.exists():
        model.load_state_dict(safetensors.torch.load_file(path))
    else:
        with _one_thread():
            _train(model, *parts[0], seed=seed)
        write_file(path, safetensors.torch.save(model.state_dict()))
    return Task(
        name="digits",
        model=model.eval(),
        calibration=Split.of(*parts[1]),
        search=Split.of(*parts[2]),
        test=Split.of(*parts[3]),
    )


def _load() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    bundle = load_digits()
    images = torch.tensor(bundle.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(bundle.target)


def _recipe() -> str:
    """Short hash of everything that shapes the trained network."""
    parts = (_train, _warped, _models, _one_thread)
    sources = "".join(inspect.getsource(part) for part in parts)
    text = f"{sources}{TRAIN},{_EPOCHS},{_BATCH},{_RATE},{torch.__version__}"
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _untrained(seed: int) -> ResNetCifar:
    with torch.random.fork_rng(devices=[]):  # the caller's random state is the caller's
        torch.manual_seed(seed)
        return ResNetCifar(in_channels=1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same network for any number of cores; and threads gain little on 8×8 images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(model: ResNetCifar, images: Tensor, labels: Tensor, *, seed: int) -> None:
    """SGD with one-cycle rate, label smoothing and small random warps."""
    _LOG.info("training the digits network once, about ten seconds on two cores")
    random = torch.Generator().manual_seed(seed)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    rounds = len(images) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_EPOCHS * rounds)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(images), generator=random)
        for index in order[: rounds * _BATCH].split(_BATCH):
            x = _warped(images[index], random).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(x), labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.to(memory_format=torch.contiguous_format)


def _warped(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image turned by up to 10°, scaled by up to 10 % and shifted by up to 0.7 pixels."""
    turn, scale, right, down = torch.rand((4, len(images)), generator=random) * 2 - 1
    cosine = (turn * math.radians(10)).cos() * (1 + 0.1 * scale)
    sine = (turn * math.radians(10)).sin() * (1 + 0.1 * scale)
    pixel = 2 / images.shape[-1]
    first = torch.stack([cosine, -sine, 0.7 * pixel * right], 1)
    second = torch.stack([sine, cosine, 0.7 * pixel * down], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
