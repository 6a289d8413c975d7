"""The ANN and a spiking network on the same samples: where they differ, class by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from conversion import Answers, Inputs, Outputs, decisions, log_probabilities
from evaluators.metrics import Metric, TopK, is_classes


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One sample and the answers of both networks.

    Attributes:
        place: Its index in the split.
        inputs: The ANN's inputs, without the sample dimension.
        target: Its target.
        ann: The ANN's answer.
        spiking: The spiking network's, at its exit.
        divergence: Divergence between the two.
        steps: Steps that the spiking network ran.
    """

    place: int
    inputs: Sequence[Tensor]
    target: Tensor
    ann: Any
    spiking: Any
    divergence: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both networks on one split.

    Attributes:
        split: Name of the split.
        n: Number of samples.
        metric: Name of the task's metric.
        per_class: The metric of each class for the ANN and the spiking network, ``(2, classes)``;
            empty if it has no classes.
        confusion: How often the ANN decides for one class (row) and the spiking network for another
            (column), over samples and positions, ``(classes, classes)``; empty without classes.
        top5: Top-5 accuracy of both networks; None below ten classes.
        pairs: The samples on which the two differ most, by falling divergence.
        easiest: Samples that exit earliest with the highest confidence.
        hardest: Samples that run longest with the lowest confidence.
        confidence: Probability of the predicted class for the ANN and for the spiking network at
            its exit, ``(2, N)``; empty unless a sample has a single class.
        correct: Whether that class is the target, in the same form.
        step_scores: The metric of the spiking network if all samples stopped after each step.
        exits: Share of samples that exit at each step.
        ann_score: The metric of the ANN.
    """

    split: str
    n: int
    metric: str
    per_class: Tensor
    confusion: Tensor
    top5: tuple[float, float] | None
    pairs: tuple[Pair, ...]
    easiest: tuple[Pair, ...] = ()
    hardest: tuple[Pair, ...] = ()
    confidence: Tensor = field(default_factory=lambda: torch.zeros(2, 0))
    correct: Tensor = field(default_factory=lambda: torch.zeros(2, 0, dtype=torch.bool))
    step_scores: tuple[float, ...] = ()
    exits: tuple[float, ...] = ()
    ann_score: float | None = None


class Comparing:
    """Collects a comparison batch by batch.

    Args:
        outputs: How outputs are read.
        metric: The task's.
        pairs: How many samples to keep.
    """

    def __init__(self, outputs: Outputs, metric: Metric, pairs: int) -> None:
        self._outputs, self._metric, self._most = outputs, metric, pairs
        self._statistics: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._top: list[Tensor] = []
        self._confusion = torch.zeros(0, 0, dtype=torch.long)
        self._differing: list[tuple[float, Pair]] = []
        self._easy: list[tuple[float, Pair]] = []
        self._hard: list[tuple[float, Pair]] = []
        self._confidence: list[Tensor] = []
        self._correct: list[Tensor] = []
        self._n = 0

    def add(
        self, inputs: Inputs, targets: Tensor, ann: Answers, spiking: Answers, steps: Tensor
    ) -> None:
        """One batch: what both answer, and the steps that each sample ran, ``(N,)``."""
        both = [self._outputs.answer(answers) for answers in (ann, spiking)]
        self._statistics.append(torch.stack([self._metric.statistics(a, targets) for a in both]))
        self._targets.append(targets)
        decided = [self._outputs.decisions(answers) for answers in (ann, spiking)]
        if decided[0] is not None and decided[1] is not None:
            self._decided(decided[0], decided[1])
        if isinstance(both[0], Tensor) and both[0].dim() == 2 and is_classes(targets):
            self._five(both, targets)
            self._certainty(both, targets)
        divergences = self._outputs.divergence(spiking, ann)

        def pair(i: int) -> Pair:
            return Pair(
                place=self._n + i,
                inputs=[x[i].cpu() for x in inputs.tensors],
                target=targets[i].cpu(),
                ann=_one(both[0], i),
                spiking=_one(both[1], i),
                divergence=float(divergences[i]),
                steps=int(steps[i]),
            )

        self._keep(self._differing, divergences, self._most, pair)
        if self._outputs.score is not None:
            certain = self._outputs.confidence(spiking, self._outputs.score)
            ease = certain - steps.to(certain)  # the confidence lies in 0..1
            self._keep(self._easy, ease, _EXAMPLES, pair)
            self._keep(self._hard, -ease, _EXAMPLES, pair)
        self._n += len(targets)

    def _keep(
        self,
        kept: list[tuple[float, Pair]],
        ranks: Tensor,
        most: int,
        pair: Callable[[int], Pair],
    ) -> None:
        """Keep the samples of the highest ranks."""
        best = ranks.argsort(descending=True, stable=True)[:most].tolist()
        kept += [(float(ranks[i]), pair(i)) for i in best]
        kept.sort(key=lambda ranked: -ranked[0])
        del kept[most:]

    def _certainty(self, both: Sequence[Tensor], targets: Tensor) -> None:
        logs = [log_probabilities(x.double(), 1) for x in both]  # one logit is two classes
        self._confidence.append(torch.stack([x.exp().amax(-1).view(-1) for x in logs]).cpu())
        decided = torch.stack([decisions(x, 1).view(-1) for x in both])
        self._correct.append((decided == targets).cpu())

    def _decided(self, ann: Tensor, spiking: Tensor) -> None:
        classes = max(2, 1 + int(torch.maximum(ann.max(), spiking.max())), len(self._confusion))
        pairs = (ann * classes + spiking).flatten()
        counts = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        known = len(self._confusion)
        counts[:known, :known] += self._confusion
        self._confusion = counts

    def _five(self, both: Sequence[Tensor], targets: Tensor) -> None:
        if both[0].shape[1] >= _MANY:
            top = TopK(5)
            self._top.append(torch.stack([top.statistics(x, targets) for x in both]))

    def found(
        self, split: str, step_scores: Sequence[float] = (), exits: Sequence[float] = ()
    ) -> Comparison:
        """The comparison of all that was added, with what a recording of the split says."""
        statistics, targets = torch.cat(self._statistics, 1), torch.cat(self._targets)
        rows = [self._metric.per_class(one, targets) for one in statistics]
        top = torch.cat(self._top, 1).mean(1).tolist() if self._top else None
        return Comparison(
            split=split,
            n=self._n,
            metric=self._metric.name,
            per_class=torch.stack(rows).cpu(),
            confusion=self._confusion.cpu(),
            top5=None if top is None else (top[0], top[1]),
            pairs=tuple(pair for _, pair in self._differing),
            easiest=tuple(pair for _, pair in self._easy),
            hardest=tuple(pair for _, pair in self._hard),
            step_scores=tuple(step_scores),
            exits=tuple(exits),
            ann_score=self._metric.value(statistics[0]),
            **self._sureness(),
        )

    def _sureness(self) -> dict[str, Tensor]:
        if not self._confidence:
            return {}
        return {
            "confidence": torch.cat(self._confidence, 1),
            "correct": torch.cat(self._correct, 1),
        }


_EXAMPLES = 3
"""Samples that are shown as the easiest and as the hardest."""

_MANY = 10
"""Classes from which on the five most probable are worth a look."""


def _one(answer: Any, place: int) -> Any:
    return pytree.tree_map(lambda value: value[place].cpu(), answer)
