"""Data that no network can be judged by, told of before anything is measured."""

from __future__ import annotations

import torch
from torch import Tensor

from conversion import Inputs
from evaluators._split import Split, TaskError


def checked_targets(split: Split) -> Tensor:
    """All targets of a split, ``(N, ...)``, once its inputs are seen to be finite.

    Raises:
        TaskError: An input is not finite.
    """
    found, start = [], 0
    for inputs, targets in split.batches(1024):
        for tensor in Inputs.of(inputs).tensors:
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                whole = torch.isfinite(tensor.flatten(1)).all(1)
                place = split.place(start + int(whole.to(torch.uint8).argmin()))
                raise TaskError(f"{place} contains NaN or infinity")
        found.append(targets)
        start += len(targets)
    return torch.cat(found)
