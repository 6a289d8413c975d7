"""The splits of a task from what a data set has: training samples, and others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from evaluators._split import Split, TaskError

_LOG = logging.getLogger("spikefront")

Splits = dict[str, Split]
Counts = tuple[int, int, int | None]
"""Samples asked for: calibration, search, test; None takes all that are left."""


def divide(
    train: Dataset[Any],
    held_out: Dataset[Any],
    test: Dataset[Any] | None,
    varied: Dataset[Any],
    counts: Counts,
    seed: int,
    *,
    in_memory: bool = True,
    **options: Any,
) -> Splits:
    """Calibration and learning from the training samples; search and test, disjoint, from others.

    Args:
        train: Training samples as they are.
        held_out: Samples that the network was not trained on.
        test: More of these; None takes a part of ``held_out``.
        varied: Training samples with the augmentation that learning sees.
        counts: Samples asked for.
        seed: Of the draw.
        in_memory: Whether to keep calibration and search samples in memory.
        **options: Of each :class:`Split`.
    """
    calibration = drawn(train, seed)[: counts[0]]
    order = drawn(held_out, seed)
    search = order[: counts[1]] if test is not None else order[: min(counts[1], len(order) // 2)]
    if test is None:
        rest = Subset(held_out, order[len(search) :][: counts[2]])
    else:
        rest = Subset(test, drawn(test, seed)[: counts[2]])
    sizes = {"calibration": len(calibration), "search": len(search), "test": len(rest)}
    for (name, size), asked in zip(sizes.items(), counts, strict=True):
        if asked not in _USUAL and asked is not None and size < asked:
            _LOG.warning("the %s split has %d samples, not the %d asked for", name, size, asked)
    found = {
        "calibration": Split(Subset(train, calibration), "calibration", **options),
        "search": Split(Subset(held_out, search), "search", **options),
        "test": Split(rest, "test", **options),
        "train": Split(varied, "train", **options),
    }
    if in_memory:
        found |= {name: found[name].in_memory() for name in ("calibration", "search")}
    return found


def check_same_classes(root: Path, splits: Mapping[str, set[str]]) -> None:
    """Raise :class:`TaskError` unless all splits have the classes of the training samples."""
    classes = splits["train"]
    for name, found in splits.items():
        if different := found ^ classes:
            raise TaskError(
                f"{root / name} and {root / 'train'} do not have the same classes: only one has"
                f" {sorted(different)[0]!r}"
            )


_USUAL = (256, 1000)
"""Samples that are asked for unless a user says otherwise: fewer will do."""


def drawn(dataset: Dataset[Any], seed: int) -> list[int]:
    """All places of a data set, shuffled."""
    size = len(dataset)  # type: ignore[arg-type]
    order: list[int] = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


_TRAIN, _HELD_OUT = 0.6, 0.2


def thirds(labels: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Places of a data set without splits: 60 % to train, 20 % held out, 20 % to test.

    The same for every seed, so that a network trained on the first part never saw the others; of
    each class alike.
    """
    parts: list[list[int]] = [[], [], []]
    for label in sorted(set(labels)):
        places = [place for place, found in enumerate(labels) if found == label]
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(label))
        mixed = [places[i] for i in order.tolist()]
        one, two = round(_TRAIN * len(mixed)), round((_TRAIN + _HELD_OUT) * len(mixed))
        for part, some in zip(parts, (mixed[:one], mixed[one:two], mixed[two:]), strict=True):
            part.extend(some)
    return parts[0], parts[1], parts[2]
