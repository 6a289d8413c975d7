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


def check_classes(targets: Tensor, logits: Tensor, split: Split) -> None:
    """Refuse targets that are no classes of the network's outputs.

    Args:
        targets: ``(N, ...)``.
        logits: Of the ANN, ``(N, classes, ...)``.
        split: Whose they are.

    Raises:
        TaskError: They have another shape, are not whole numbers, or name a class that the outputs
            do not have.
    """
    classes = max(logits.shape[1], 2) if logits.dim() > 1 else 2  # one output: two classes
    if targets.shape == logits.shape and targets.dim() == 2 and logits.shape[1] > 1:
        raise TaskError(
            f"the targets of the {split.name} split have the shape of the outputs,"
            f" {tuple(targets.shape)}: give the index of each sample's class, targets.argmax(1)"
        )
    fractions = targets.is_floating_point() and bool((targets != targets.round()).any())
    if fractions or targets.is_complex():
        raise TaskError(
            f"the targets of the {split.name} split are not classes, but fractions; a task that"
            " does not classify needs a metric of its own"
        )
    outside = (targets.flatten(1) if targets.dim() > 1 else targets[:, None]) >= classes
    outside |= (targets.flatten(1) if targets.dim() > 1 else targets[:, None]) < 0
    if bool(outside.any()):
        index = int(outside.any(1).to(torch.uint8).argmax())
        label = int(targets[index].flatten()[outside[index].to(torch.uint8).argmax()])
        raise TaskError(
            f"{split.place(index)} has the class {label}, but the network tells {classes} classes"
            f" apart, 0 to {classes - 1}"
        )
