"""What a study is about: a model, three splits, and a score per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from conversion import ConfigError, SpikefrontError
from evaluators._estimate import correct

SplitName = Literal["calibration", "search", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


_LEARNING_BATCH = 32


class TaskError(SpikefrontError, ValueError):
    """A task, its data or its weights cannot be loaded; the message says what to give instead."""


@dataclass(frozen=True)
class Split:
    """Samples ``(input, target)`` of one purpose.

    Args:
        dataset: A map-style dataset of ``(input tensor, target)``.
    """

    dataset: Dataset[Any]

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise TaskError("a split is empty; every split needs at least one sample")

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> Split:
        """A split held in memory: inputs ``(N, ...)``, targets ``(N,)``."""
        return cls(TensorDataset(inputs, targets))

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of at most ``size`` samples, always in the same order."""
        if isinstance(self.dataset, TensorDataset):
            inputs, targets = self.dataset.tensors
            yield from zip(inputs.split(size), targets.split(size), strict=True)
            return
        for inputs, targets in DataLoader(self.dataset, batch_size=size, shuffle=False):
            yield inputs, torch.as_tensor(targets)

    def shuffled(self, size: int) -> Iterable[Any]:
        """Batches of ``size`` samples, in another order each time, by torch's random state."""
        size = min(size, len(self))
        return DataLoader(self.dataset, batch_size=size, shuffle=True, drop_last=True)

    def in_memory(self) -> Split:
        """This split as one pair of tensors."""
        inputs, targets = zip(*self.batches(256), strict=True)
        return Split.of(torch.cat(inputs), torch.cat(targets))


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained network and the data to judge its spiking versions on.

    Attributes:
        name: Shown in reports.
        model: The trained ANN.
        calibration: Inputs for thresholds and calibration; their targets are not looked at.
        search: What the search chooses by.
        test: Touched once, for the final report.
        train: What learning may see, with the augmentation that it has: a split, or an iterable of
            batches of inputs or ``(inputs, targets)`` such as a training loader. None takes the
            calibration split. Never images of ``search`` or ``test``.
        metric: ``(logits (N, classes), targets (N,)) -> scores (N,)`` in 0..1, higher is better.
    """

    name: str
    model: nn.Module
    calibration: Split
    search: Split
    test: Split
    metric: Callable[[Tensor, Tensor], Tensor] = correct
    train: Split | Iterable[Any] | None = None

    def batches_to_learn_from(self) -> Iterable[Any]:
        """Batches to learn from; they may be gone through again and again."""
        data = self.calibration if self.train is None else self.train
        return data.shuffled(_LEARNING_BATCH) if isinstance(data, Split) else data

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            ConfigError: There is no such split.
        """
        if name not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        found: Split = getattr(self, name)
        return found
