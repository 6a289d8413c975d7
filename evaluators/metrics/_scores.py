"""Metrics that are the mean of one score per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from conversion import ConfigError, decisions
from evaluators._estimate import Estimate, PairedDrop, estimate_score
from evaluators._split import TaskError
from evaluators.metrics._base import Metric


class MeanScore(Metric):
    """The mean of scores ``(N,)`` in 0..1, whose intervals have a closed form."""

    def values(self, statistics: Tensor, weights: Tensor) -> Tensor:
        """Weighted means."""
        return (weights.double() @ statistics.double()) / weights.sum(1)

    def value(self, statistics: Tensor) -> float:
        """The mean."""
        return float(statistics.double().mean())

    def estimate(self, statistics: Tensor) -> Estimate:
        """The mean with Wilson's interval, or the normal one unless all scores are 0 or 1."""
        return estimate_score(statistics)

    def drop(self, ann: Tensor, statistics: Tensor) -> PairedDrop:
        """The loss against the ANN with the interval of Agresti & Min."""
        return PairedDrop.of(ann, statistics)


class Scores(MeanScore):
    """The mean of a scoring function.

    Args:
        function: ``(answer (N, ...), targets (N, ...)) -> scores (N,)``, each in 0..1.
        name: Its name in reports; None uses the function's.
    """

    def __init__(self, function: Callable[[Any, Tensor], Tensor], name: str | None = None) -> None:
        self.function = function
        given = str(getattr(function, "__name__", "score")).replace("_", " ").strip()
        self.name = name or ("score" if given == "<lambda>" else given)

    def statistics(self, answer: Any, targets: Tensor) -> Tensor:
        """The scores.

        Raises:
            ConfigError: The function did not return one number in 0..1 per sample.
        """
        scores = self.function(answer, targets)
        whole = isinstance(scores, Tensor) and scores.shape == (len(targets),)
        if not whole or not bool(((scores >= 0) & (scores <= 1)).all()):
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ConfigError(
                f"the metric must give one score within 0..1 per sample, got {shape}"
                + (f", values {float(scores.min()):g} to {float(scores.max()):g}" if whole else "")
            )
        return scores.double()


class TopK(MeanScore):
    """Share of samples, or positions, whose class is among the k most probable.

    Args:
        k: Number of classes to consider.
    """

    def __init__(self, k: int = 1) -> None:
        if k < 1:
            raise ConfigError(f"top-k needs k >= 1, got {k!r}")
        self.k = k
        self.name = "accuracy" if k == 1 else f"top-{k} accuracy"

    def statistics(self, answer: Tensor, targets: Tensor) -> Tensor:
        """1 if the class is among them, else 0."""
        wanted = targets.reshape(len(targets), -1)
        if self.k == 1:
            return (decisions(answer, 1) == wanted).to(torch.float64).mean(-1)
        best = answer.topk(min(self.k, answer.shape[1]), dim=1).indices.reshape(
            len(answer), -1, wanted.shape[1]
        )
        return (best == wanted[:, None]).any(1).to(torch.float64).mean(-1)

    def per_class(self, statistics: Tensor, targets: Tensor) -> Tensor:
        """Top-k accuracy within each class."""
        if not is_classes(targets):
            return super().per_class(statistics, targets)
        right = torch.bincount(targets.long(), weights=statistics.double())
        return right / torch.bincount(targets.long())

    def chance(self, targets: Tensor) -> float:
        """The score of always predicting the k most common classes."""
        if not is_classes(targets):
            return 0.0
        counts = targets.unique(return_counts=True)[1]
        return float(counts.topk(min(self.k, len(counts))).values.sum()) / len(targets)

    def check(self, targets: Tensor, answer: Tensor, place: Callable[[int], str]) -> None:
        """Check that targets are valid class indices."""
        check_classes(targets, answer, place)


def is_classes(targets: Tensor) -> bool:
    """Whether they are one class for each sample, ``(N,)``."""
    return targets.dim() == 1 and not targets.is_floating_point()


def check_classes(
    targets: Tensor,
    logits: Tensor,
    place: Callable[[int], str],
    *,
    ignored: int | None = None,
) -> None:
    """Refuse targets that are no classes of the network's outputs.

    Args:
        targets: ``(N, ...)``.
        logits: Of the ANN, ``(N, classes, ...)``.
        place: Describes a sample, given its number.
        ignored: A label that stands for none.

    Raises:
        TaskError: They have another shape, are not whole numbers, or name a class that the outputs
            do not have.
    """
    classes = max(logits.shape[1], 2) if logits.dim() > 1 else 2  # one output: two classes
    one = logits[0].numel() == 1 and targets[0].numel() == 1
    if targets.shape[1:] == logits.shape[1:] and targets.dim() == 2 and logits.shape[1] > 1:
        raise TaskError(
            f"{place(0)} and others have targets of the shape of the outputs,"
            f" {tuple(logits.shape[1:])}: give the index of each sample's class, targets.argmax(1)"
        )
    if targets.shape[1:] != logits.shape[2:] and not one:
        raise TaskError(
            f"the targets of {place(0)} and others have the shape {tuple(targets.shape[1:])}, but"
            f" the network answers for {tuple(logits.shape[2:])} positions"
        )
    fractions = targets.is_floating_point() and bool((targets != targets.round()).any())
    if fractions or targets.is_complex():
        raise TaskError(
            f"the targets of {place(0)} and others are not classes, but fractions; a task that"
            " does not classify needs outputs=Values() or a metric of its own"
        )
    rows = targets.flatten(1) if targets.dim() > 1 else targets[:, None]
    outside = (rows >= classes) | (rows < 0)
    if ignored is not None:
        outside &= rows != ignored
    if bool(outside.any()):
        index = int(outside.any(1).to(torch.uint8).argmax())
        label = int(rows[index, outside[index].to(torch.uint8).argmax()])
        raise TaskError(
            f"{place(index)} has the class {label}, but the network tells {classes} classes"
            f" apart, 0 to {classes - 1}"
        )
