"""Splits: labelled samples of one purpose, from whatever a user has them in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from conversion import SpikefrontError


class TaskError(SpikefrontError, ValueError):
    """A task, its data or its weights cannot be loaded; the message says what is expected."""


@dataclass(frozen=True)
class Split:
    """Samples ``(input, target)`` for one purpose.

    Args:
        dataset: A map-style dataset of ``(input tensor, target)``.
        name: Name of the purpose, for messages.
        collate: Makes a batch of samples, like a ``DataLoader``'s ``collate_fn``.

    Raises:
        TaskError: The dataset is empty.
    """

    dataset: Dataset[Any]
    name: str = "given"
    collate: Callable[[list[Any]], Any] = default_collate

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise TaskError(f"the {self.name} split is empty; it needs at least one sample")

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> Split:
        """A split held in memory: inputs ``(N, ...)``, targets ``(N, ...)``."""
        if len(inputs) != len(targets):
            raise TaskError(f"there are {len(inputs)} inputs, but {len(targets)} targets")
        return cls(TensorDataset(inputs, targets))

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, place: int) -> Any:
        """One sample, so that a ``DataLoader`` takes a split, too.

        Raises:
            TaskError: It cannot be read, or is no pair.
        """
        return self._sample(place)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """Batches, so that ``conversion.profile`` takes a split, too."""
        return self.batches(256)

    def batches(self, size: int) -> Iterator[tuple[Any, Tensor]]:
        """Batches of at most ``size`` samples, always in the same order.

        Raises:
            TaskError: A sample cannot be read, or is not a pair.
        """
        tensors = self.dataset.tensors if isinstance(self.dataset, TensorDataset) else ()
        if len(tensors) == 2 and self.collate is default_collate:
            inputs, targets = tensors
            yield from zip(inputs.split(size), targets.split(size), strict=True)
            return
        for start in range(0, len(self), size):
            places = range(start, min(start + size, len(self)))
            batch = self.collate([self._sample(place) for place in places])
            yield batch[0], self._targets(batch[1], start)

    def _targets(self, given: Any, start: int) -> Tensor:
        try:
            return torch.as_tensor(given)
        except (RuntimeError, TypeError, ValueError) as error:
            raise TaskError(
                f"the targets of {self.place(start)} and others are no tensor, but a"
                f" {type(given).__name__}: give each sample's as one tensor of one shape (boxes:"
                " (G, 5) of x1, y1, x2, y2, class, padded with -1)"
            ) from error

    def _sample(self, place: int) -> Any:
        try:
            sample = self.dataset[place]
        except (SpikefrontError, MemoryError):  # a time limit, or what a smaller batch avoids
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise TaskError(f"{self.place(place)} cannot be read: {reason}") from error
        if not (isinstance(sample, (tuple, list)) and len(sample) == 2):
            kind = type(sample).__name__
            raise TaskError(f"{self.place(place)} is not a pair (input, target), but a {kind}")
        return sample

    def place(self, index: int) -> str:
        """Describe a sample, with its file if the dataset has one."""
        file = self._file(index)
        return f"sample {index} of the {self.name} split" + (f" ({file})" if file else "")

    def _file(self, index: int) -> Any:
        """The file of a sample, or None where the dataset does not say."""
        dataset: Any = self.dataset
        at = index
        while isinstance(dataset, Subset):
            dataset, at = dataset.dataset, dataset.indices[at]
        files: Any = getattr(dataset, "samples", None)  # as torchvision's folders have them
        return files[at][0] if isinstance(files, list) else None

    def shuffled(self, size: int) -> Iterable[Any]:
        """Batches of ``size`` samples in a new random order, from torch's random state."""
        return DataLoader(
            self.dataset,
            batch_size=min(size, len(self)),
            shuffle=True,
            drop_last=True,
            collate_fn=self.collate,
        )

    def in_memory(self) -> Split:
        """The whole split as one pair of tensors."""
        inputs, targets = zip(*self.batches(256), strict=True)
        kept = _InMemory(torch.cat(inputs), torch.cat(targets))
        kept.samples = [(self._file(index),) for index in range(len(self))]
        return Split(kept, self.name)


class _InMemory(TensorDataset):
    """Tensors that know the files they were read from."""

    samples: list[tuple[Any]]


def split_of(given: Any, name: str) -> Split:
    """Make a split from a loader, a dataset or tensors.

    Of a ``DataLoader`` only the dataset and the collate function are used: a split is always read
    in order, in batches of the evaluator's size.

    Args:
        given: A :class:`Split`, a ``DataLoader`` or a map-style ``Dataset`` of ``(input, target)``,
            or a pair of tensors.
        name: Name of the split.

    Raises:
        TaskError: The type is not supported.
    """
    if isinstance(given, Split):
        return replace(given, name=name)
    if isinstance(given, DataLoader):
        return Split(_dataset_of(given, name), name, given.collate_fn)
    if isinstance(given, (tuple, list)) and [isinstance(v, Tensor) for v in given] == [True, True]:
        return replace(Split.of(*given), name=name)
    if isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        return Split(given, name)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return Split(given, name)
    raise TaskError(
        f"the {name} split must be a Split, a DataLoader or a Dataset of (input, target), or a"
        f" pair of tensors, got {type(given).__name__}"
    )


def _dataset_of(loader: DataLoader[Any], name: str) -> Dataset[Any]:
    """What a loader goes through, in a fixed order."""
    sampler = loader.sampler
    if isinstance(loader.dataset, IterableDataset):
        raise TaskError(
            f"the {name} split needs a Dataset that can be indexed, not an iterable one"
        )
    if isinstance(sampler, SubsetRandomSampler):
        return Subset(loader.dataset, sorted(sampler.indices))
    if loader.batch_size is None:
        raise TaskError(
            f"the {name} split's DataLoader uses a batch_sampler or pre-batched data: pass a"
            " Dataset of single samples instead"
        )
    whole = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler)
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    if not whole:
        raise TaskError(
            f"the {name} split's DataLoader has a custom sampler, {type(sampler).__name__}:"
            " give the Dataset instead, or a torch.utils.data.Subset of it"
        )
    return loader.dataset
