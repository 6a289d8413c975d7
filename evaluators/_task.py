"""What a study is about: a model, three splits, and a score per sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from conversion import ConfigError, Feed, Outputs, outputs_of
from evaluators._split import Split, TaskError, split_of
from evaluators.metrics import Metric, metric_of

SplitName = Literal["calibration", "search", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained network and the data to evaluate its spiking versions on.

    A split may be given as a ``DataLoader`` or a ``Dataset`` of ``(input, target)``, or as a pair
    of tensors; see :func:`split_of`.

    Attributes:
        name: Name in reports.
        model: The trained ANN.
        calibration: Inputs for thresholds and calibration; targets are not used.
        search: Samples that the search optimises on.
        test: Samples used once, for the final report.
        train: Data for learned calibrations, with its augmentation: a split, or an iterable of
            batches of inputs or ``(inputs, targets)`` such as a training loader. None uses the
            calibration split. It must not contain samples of ``search`` or ``test``.
        metric: A :class:`Metric`, or a function ``(outputs (N, ...), targets (N, ...)) -> scores
            (N,)``, each in 0..1, higher is better. None uses top-1 accuracy for classes, R² for
            values.
        outputs: How the network's outputs are interpreted: :class:`conversion.Classes` per sample
            or per pixel, :class:`conversion.Values`, or a kind of your own; the name or position of
            an output stands for its classes.
        feed: How inputs arrive over time: ``"static"``; or ``(N, T, ...)``, frames of values
            (``"frames"``) or of spike counts (``"events"``).

    Raises:
        TaskError: A split has an unsupported type, or two splits share samples.
    """

    name: str
    model: nn.Module
    calibration: Split
    search: Split
    test: Split
    metric: Metric = None  # type: ignore[assignment]
    train: Split | Iterable[Any] | None = None
    outputs: Outputs = None  # type: ignore[assignment]
    feed: Feed = "static"

    def __post_init__(self) -> None:
        for name in SPLITS:
            object.__setattr__(self, name, split_of(getattr(self, name), name))
        if _is_split(self.train):
            object.__setattr__(self, "train", split_of(self.train, "train"))
        object.__setattr__(self, "outputs", outputs_of(self.outputs))
        object.__setattr__(self, "metric", metric_of(self.metric, self.outputs))
        for one, other in combinations((*SPLITS, "train"), 2):
            if "search" in (one, other) or "test" in (one, other):
                _check_apart(getattr(self, one), getattr(self, other), one, other)

    def batches_to_learn_from(self, size: int = 32) -> Iterable[Any]:
        """Batches to learn from, as an iterable that can be restarted.

        Args:
            size: Batch size, unless the user's loader sets it.
        """
        data = self.calibration if self.train is None else self.train
        return data.shuffled(size) if isinstance(data, Split) else data

    def split(self, name: str) -> Split:
        """Look up a split by name.

        Raises:
            ConfigError: There is no such split.
        """
        if name not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        found: Split = getattr(self, name)
        return found


def _is_split(given: Any) -> bool:
    """Whether it holds samples; an iterable of batches is something else."""
    if isinstance(given, tuple):
        return [isinstance(v, Tensor) for v in given] == [True, True]
    return isinstance(given, (Split, Dataset)) and not isinstance(given, IterableDataset)


def _check_apart(first: Any, second: Any, one: str, other: str) -> None:
    """What is chosen by, or tested on, must be nothing else; as far as it can be seen."""
    if not (_has_dataset(first) and _has_dataset(second)):
        return
    (data, places), (others, there) = _source(first), _source(second)
    shared = set(places) & set(there) if data is others else set()
    if shared or (data is not others and _same_tensors(data, others)):
        raise TaskError(f"the splits {one} and {other} share samples; each needs its own")


def _has_dataset(given: Any) -> bool:
    """A split, or a loader of a dataset with an index."""
    return isinstance(given, Split) or (
        isinstance(given, DataLoader) and not isinstance(given.dataset, IterableDataset)
    )


def _source(given: Split | DataLoader[Any]) -> tuple[Any, Iterable[int]]:
    """The dataset behind subsets, and which of its samples."""
    dataset: Any = given.dataset
    places: Iterable[int] = range(len(dataset))
    if isinstance(given, DataLoader) and isinstance(given.sampler, SubsetRandomSampler):
        places = [int(place) for place in given.sampler.indices]
    while isinstance(dataset, Subset):
        places, dataset = [int(dataset.indices[place]) for place in places], dataset.dataset
    return dataset, places


def _same_tensors(one: Any, other: Any) -> bool:
    if not (isinstance(one, TensorDataset) and isinstance(other, TensorDataset)):
        return False
    first, second = one.tensors[0], other.tensors[0]
    return first.shape == second.shape and torch.equal(first, second)
