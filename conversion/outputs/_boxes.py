"""Outputs of a detector: scores and boxes of many candidates, before they are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from conversion._errors import ConfigError
from conversion.outputs._base import Answers, Outputs, Score, find_output

Activation = Literal["sigmoid", "softmax"]

_LOOKED_AT = 100
"""Most promising candidates that a confidence is made of."""

_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Boxes(Outputs):
    """Logits ``(N, candidates, classes)`` and what becomes their boxes, ``(N, candidates, 4)``.

    Decoding and non-maximum suppression run after the network; neither they nor their energy are
    counted.

    Confidence is the mean certainty about the 100 most probable candidates, weighted by their
    probabilities; divergence the sum of the candidates' Kullback-Leibler divergences, in nats (of
    sigmoids: of each class), and of the distances of the boxes that the ANN believes in, both over
    the number of objects that the ANN sees, at least one.

    Attributes:
        output: The logits.
        boxes: Name or position of the output with the boxes.
        quality: An output ``(N, candidates, 1)``, a logit that decoding multiplies scores by, such
            as FCOS's centre-ness; or None.
        activation: ``"sigmoid"``; or ``"softmax"``, the first class being the background.
    """

    kind: ClassVar[str] = "boxes"
    scores: ClassVar[tuple[Score, ...]] = get_args(Score)
    note: ClassVar[str] = (
        "Decoding of boxes and non-maximum suppression come after the network: they stay analog and"
        " are no part of any energy here, of neither network."
    )

    output: str | int | None = "cls_logits"
    boxes: str | int = "bbox_regression"
    quality: str | int | None = None
    activation: Activation = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in get_args(Activation):
            raise ConfigError(f"activation must be sigmoid or softmax, got {self.activation!r}")

    def chosen(self, names: Mapping[str, int]) -> Boxes:
        """Resolve ``output``, ``boxes`` and ``quality`` by the names of a network's tensors."""
        quality = None if self.quality is None else find_output(self.quality, names)
        return replace(
            self,
            output=find_output(self.output, names),
            boxes=find_output(self.boxes, names),
            quality=quality,
        )

    def read(self, answers: Answers) -> list[Tensor]:
        """Logits, boxes, quality."""
        names = [self.output, self.boxes, self.quality]
        return [answers[str(name)] for name in names if name is not None]

    def answer(self, answers: Answers) -> Any:
        """All outputs by name, for decoding."""
        return dict(answers)

    def probabilities(self, answers: Answers) -> Tensor:
        """Class probabilities without background, ``(N, candidates, classes)``."""
        logits = self.main(answers)
        if self.activation == "softmax":
            return logits.softmax(-1)[..., 1:]
        return logits.sigmoid()

    def confidence(self, answers: Answers, score: Score) -> Tensor:
        """Weighted mean certainty about the most promising candidates."""
        best = self.probabilities(answers).amax(-1)
        p = best.topk(min(_LOOKED_AT, best.shape[1]), dim=1).values.clamp(_LEAST, 1 - _LEAST)
        if score == "entropy":
            bits = -(p * p.log2() + (1 - p) * (1 - p).log2())
            sure = 1 - bits
        else:
            sure = (2 * p - 1).abs() if score == "margin" else torch.maximum(p, 1 - p)
        return (p * sure).sum(1) / p.sum(1)

    def agreement(self, answers: Answers, expected: Answers) -> Tensor:
        """Share of agreement on the candidates that either network considers an object."""
        mine, ann = (self.probabilities(x) > 0.5 for x in (answers, expected))
        either, both = (x.flatten(1).sum(1) for x in (mine | ann, mine & ann))
        return torch.where(either > 0, both / either.clamp_min(1), 1.0)

    def divergence(self, answers: Answers, expected: Answers) -> Tensor:
        """Symmetric in the probabilities."""
        answers, expected = ({k: v.double() for k, v in x.items()} for x in (answers, expected))
        both = self._unlike(answers, expected) + self._unlike(expected, answers)
        return (both / 2 + self._apart(answers, expected)) / self._objects(expected)

    def loss(self, answers: Answers, expected: Answers) -> Tensor:
        """From the ANN to the spiking network."""
        total = self._unlike(answers, expected) + self._apart(answers, expected)
        return (total / self._objects(expected)).mean()

    def _unlike(self, answers: Answers, expected: Answers) -> Tensor:
        """``KL(expected ‖ answers)`` of all candidates, ``(N,)``."""
        z, w = self.main(answers), self.main(expected)
        if self.activation == "softmax":
            log_q, log_p = z.log_softmax(-1), w.log_softmax(-1)
            return (log_p.exp() * (log_p - log_q)).flatten(1).sum(1)
        p = w.sigmoid()
        kl = p * (F.logsigmoid(w) - F.logsigmoid(z))
        kl = kl + (1 - p) * (F.logsigmoid(-w) - F.logsigmoid(-z))
        return kl.flatten(1).sum(1)

    def _apart(self, answers: Answers, expected: Answers) -> Tensor:
        """Distance of boxes and qualities that the ANN believes in, ``(N,)``."""
        belief = self.probabilities(expected).amax(-1)
        pairs = zip(self.read(answers)[1:], self.read(expected)[1:], strict=True)
        distances = [F.smooth_l1_loss(a, b, reduction="none").sum(-1) for a, b in pairs]
        return torch.stack([(belief * distance).sum(1) for distance in distances]).sum(0)

    def _objects(self, expected: Answers) -> Tensor:
        """Number of objects that the ANN sees, at least one, ``(N,)``."""
        p = self.probabilities(expected)
        return torch.where(p > 0.5, p, 0.0).flatten(1).sum(1).clamp_min(1.0)
