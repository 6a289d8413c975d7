"""Endless batches to learn from, always in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from conversion._errors import ConfigError
from conversion._profile import Profile
from conversion.graph import Inputs, labelled_batches

Batches = Iterable[Any]
"""Of inputs ``(N, ...)``, or of ``(inputs, labels)``."""

Batch = tuple[Inputs, Tensor | None]
"""Inputs, and their labels where there are any."""

_BATCH = 32


def endless(
    data: Tensor | Inputs | Batches | None, profile: Profile, *, seed: int = 0
) -> Iterator[Batch]:
    """Batches without end: of ``data`` again and again, or drawn from the calibration inputs.

    Raises:
        ConfigError: ``data`` is empty.
        ConversionError: Its inputs have another shape than the network takes.
    """
    network = profile.network
    if data is None or isinstance(data, (Tensor, Inputs)):
        inputs = profile.inputs if data is None else network.take(Inputs.of(data))
        yield from ((x, None) for x in _shuffled(inputs.to(profile.device), seed))
        return
    while True:
        batch = None
        for batch in labelled_batches(data):
            x, labels = batch
            yield network.take(x).to(profile.device), _on(labels, profile.device)
        if batch is None:
            raise ConfigError("the data to learn from is empty, or can be iterated only once")


def _on(labels: Any, device: torch.device) -> Tensor | None:
    return labels.to(device) if isinstance(labels, Tensor) else None


def _shuffled(x: Inputs, seed: int) -> Iterator[Inputs]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for indices in order.split(_BATCH):
            if len(indices) == min(_BATCH, len(x)):
                yield x[indices].simulated()
