"""Data that no network can be judged by, told of before anything is measured."""

from __future__ import annotations

import torch
from torch import Tensor

from conversion import Inputs
from evaluators._split import Split, TaskError


def checked_targets(split: Split, size: int = 1024) -> Tensor:
    """All targets of a split, ``(N, ...)``, once its inputs are seen to be finite.

    Args:
        split: Name of the split.
        size: Samples looked at together.

    Raises:
        TaskError: An input is not finite.
    """
    found: list[Tensor] = []
    start = 0
    for inputs, targets in split.batches(size):
        for tensor in Inputs.of(inputs).tensors:
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                whole = torch.isfinite(tensor.flatten(1)).all(1)
                place = split.place(start + int(whole.to(torch.uint8).argmin()))
                raise TaskError(f"{place} contains NaN or infinity")
        if found and targets.shape[1:] != found[0].shape[1:]:
            raise TaskError(
                f"{split.place(start)} has a target of another shape, {tuple(targets.shape[1:])},"
                f" than those before, {tuple(found[0].shape[1:])}: pad them all alike"
            )
        found.append(targets)
        start += len(targets)
    return torch.cat(found)
