"""Outputs that are values: nothing is decided, so nothing is sure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from conversion._errors import ConfigError
from conversion.outputs._base import Answers, Outputs


@dataclass(frozen=True, kw_only=True)
class Values(Outputs):
    """Numbers ``(N, ...)`` of a regression. Without a confidence every sample runs T steps.

    Attributes:
        scale: Unit of errors; None uses the root mean square over the outputs of their standard
            deviations on the calibration data.
    """

    kind: ClassVar[str] = "values"
    note: ClassVar[str] = "Values have no confidence to exit by: every sample runs all T steps."

    scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.scale, (int, float)) and 0 < self.scale < float("inf")
        if self.scale is not None and not number:
            raise ConfigError(f"scale must be finite and > 0, got {self.scale!r}")

    def fitted(self, answers: Callable[[], Answers]) -> Values:
        """The same outputs with the scale of the ANN's answers on the calibration data."""
        if self.scale is not None:
            return self
        rows = self.main(answers()).double()
        spread = rows.reshape(len(rows), -1).var(0, correction=0).mean().sqrt()
        return replace(self, scale=float(spread) or 1.0)

    def divergence(self, answers: Answers, expected: Answers) -> Tensor:
        """Mean squared error of a sample against the ANN, over ``scale²``."""
        found, reference = (self.main(x).double() for x in (answers, expected))
        errors = (found - reference).square().reshape(len(found), -1).mean(1)
        return errors / (self.scale or 1.0) ** 2

    def loss(self, answers: Answers, expected: Answers) -> Tensor:
        """The same."""
        found, reference = self.main(answers), self.main(expected)
        return (found - reference).square().mean() / (self.scale or 1.0) ** 2


def relative_error(found: Tensor, expected: Tensor) -> Tensor:
    """Squared error over the squares of what is expected."""
    tiny = torch.finfo(expected.dtype).tiny
    return (found - expected).square().sum() / expected.square().sum().clamp_min(tiny)
