"""The coefficient of determination of a regression."""

from __future__ import annotations

import torch
from torch import Tensor

from conversion import ConfigError
from evaluators.metrics._base import Metric


class R2(Metric):
    """R²: 1 − squared error ÷ that of predicting the mean; averaged over outputs, at least 0."""

    name = "R²"

    def statistics(self, answer: Tensor, targets: Tensor) -> Tensor:
        """Squared error, sum and sum of squares of each target, ``(N, outputs, 3)``.

        Raises:
            ConfigError: Targets and outputs differ in shape.
        """
        if targets.numel() != answer.numel():
            raise ConfigError(
                f"R² needs targets of the outputs' shape {tuple(answer.shape)}, got"
                f" {tuple(targets.shape)}"
            )
        rows = targets.reshape(len(targets), -1).double()
        errors = (answer.reshape(len(answer), -1).double() - rows).square()
        return torch.stack([errors, rows, rows.square()], dim=2)

    def values(self, statistics: Tensor, weights: Tensor) -> Tensor:
        """R² of weighted samples, from their sums."""
        weights = weights.double()
        centre = statistics[..., 1].double().mean(0)  # for the squares' precision
        error, total, squares = torch.einsum("bn,nok->kbo", weights, statistics.double())
        count = weights.sum(1, keepdim=True)
        spread = squares - 2 * centre * total + count * centre**2
        spread = spread - (total - count * centre).square() / count
        of_each = torch.where(spread > _TINY * squares, 1 - error / spread.clamp_min(1e-300), 0.0)
        return of_each.mean(1).clamp_min(0.0)


_TINY = 1e-12
"""Of the squares: a target that does not vary explains nothing."""
