"""Outputs that are logits of classes: of the sample, or of each of its positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from conversion._errors import ConfigError
from conversion.outputs._base import Answers, Outputs, Score


@dataclass(frozen=True, kw_only=True)
class Classes(Outputs):
    """Logits ``(N, classes)``, or ``(N, classes, ...)`` with positions such as pixels behind.

    Divergence is the symmetric Kullback-Leibler divergence, in nats. With several positions,
    confidence and divergence are averaged over them. A single output is read as the logit of the
    second of two classes.

    Attributes:
        ignore: Label excluded from learning with labels.
    """

    kind: ClassVar[str] = "classes"
    scores: ClassVar[tuple[Score, ...]] = get_args(Score)

    ignore: int | None = None

    def decisions(self, answers: Answers) -> Tensor:
        """The most probable class at each position, ``(N, positions)``."""
        return decisions(self.main(answers), 1)

    def confidence(self, answers: Answers, score: Score) -> Tensor:
        """See :func:`confidence`."""
        return confidence(self.main(answers), score, samples=1)

    def agreement(self, answers: Answers, expected: Answers) -> Tensor:
        """Share of the positions with the ANN's class."""
        same = self.decisions(answers) == self.decisions(expected)
        return same.to(self.main(answers)).mean(-1)

    def divergence(self, answers: Answers, expected: Answers) -> Tensor:
        """See :func:`symmetric_kl`."""
        return symmetric_kl(self.main(answers), self.main(expected))

    def loss(self, answers: Answers, expected: Answers) -> Tensor:
        """``KL(ANN‖spiking)``."""
        found, reference = (_of_two(self.main(x)) for x in (answers, expected))
        p = reference.softmax(1)
        positions = len(reference) * reference[0, 0].numel()
        return F.kl_div(found.log_softmax(1), p, reduction="sum") / positions

    def label_loss(self, answers: Answers, labels: Tensor) -> Tensor:
        """Cross-entropy; positions whose label is not one of the network's classes are skipped."""
        logits = _of_two(self.main(answers))
        if labels.numel() != logits[:, 0].numel() or len(labels) != len(logits):
            raise ConfigError(
                "label_weight needs batches (inputs, labels), labels (N,) of outputs (N, classes)"
            )
        labels = labels.long().reshape(logits[:, 0].shape)
        known = (labels >= 0) & (labels < logits.shape[1])
        if self.ignore is not None:
            known &= labels != self.ignore
        if not bool(known.any()):
            return logits.sum() * 0
        return F.cross_entropy(logits, labels.where(known, _LEFT_OUT), ignore_index=_LEFT_OUT)


_LEFT_OUT = -100


def _of_two(logits: Tensor) -> Tensor:
    """Logits ``(N, classes, ...)``, of two classes where there is a single output."""
    logits = logits.unsqueeze(1) if logits.dim() == 1 else logits
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def log_probabilities(logits: Tensor, samples: int) -> Tensor:
    """Log-probabilities with the classes last, ``(..., positions, classes)``.

    Classes are in the dimension after the samples, as is usual in PyTorch; further dimensions are
    positions such as pixels. A single output is read as the logit of the second of two classes.

    Args:
        logits: ``(N, classes, ...)``, optionally with leading dimensions.
        samples: Number of dimensions up to and including the samples.
    """
    logits = logits.unsqueeze(-1) if logits.dim() == samples else logits.movedim(samples, -1)
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=-1)
    log_p = logits.log_softmax(-1)
    return log_p.reshape(*log_p.shape[:samples], -1, log_p.shape[-1])


def decisions(logits: Tensor, samples: int) -> Tensor:
    """The most probable class at each position, ``(..., N, positions)``."""
    return log_probabilities(logits, samples).argmax(-1)


def symmetric_kl(logits: Tensor, reference: Tensor) -> Tensor:
    """``(KL(p‖q) + KL(q‖p)) / 2`` in nats per sample, ``(N,)``, of logits ``(N, classes)``.

    With several positions, ``(N, classes, ...)``, their mean.
    """
    log_p, log_q = (log_probabilities(x.double(), 1) for x in (logits, reference))
    return (((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1) / 2).mean(-1)


def confidence(logits: Tensor, score: Score, *, samples: int | None = None) -> Tensor:
    """Confidence of each sample, in 0..1; with several positions their mean.

    Args:
        logits: ``(..., N, classes)``, or ``(..., N, classes, ...)`` with positions behind.
        score: ``"entropy"``: 1 − H/ln(classes); ``"top1"``: the largest probability; ``"margin"``:
            the largest less the second largest.
        samples: Number of dimensions up to and including the samples; None: all but the last.
    """
    log_p = log_probabilities(logits, logits.dim() - 1 if samples is None else samples)
    if score == "entropy":
        return 1.0 - _entropy(log_p).mean(-1)
    top = log_p.exp().topk(2, dim=-1).values
    found = top[..., 0] if score == "top1" else top[..., 0] - top[..., 1]
    return found.mean(-1)


def _entropy(log_p: Tensor) -> Tensor:
    """Over ln(classes), in 0..1."""
    classes = torch.tensor(float(log_p.shape[-1]))
    finite = log_p.clamp_min(torch.finfo(log_p.dtype).min)  # 0·ln 0 is 0
    return -(log_p.exp() * finite).sum(-1) / torch.log(classes)
