"""The coefficient of determination of a regression."""

from __future__ import annotations

import torch
from torch import Tensor

from conversion import ConfigError
from evaluators.metrics._base import Metric


class R2(Metric):
    """R²: 1 less the squared error over that of the mean; over all outputs, and 0 at least."""

    name = "R²"

    def statistics(self, answer: Tensor, targets: Tensor) -> Tensor:
        """Squared error, sum, sum of squares and number of the targets, ``(N, 4)``.

        Raises:
            ConfigError: The targets have another shape than the outputs.
        """
        if targets.numel() != answer.numel():
            raise ConfigError(
                f"R² needs targets of the outputs' shape {tuple(answer.shape)}, got"
                f" {tuple(targets.shape)}"
            )
        rows = targets.reshape(len(targets), -1).double()
        errors = (answer.reshape(len(answer), -1).double() - rows).square().sum(1)
        count = torch.full_like(errors, rows.shape[1])
        return torch.stack([errors, rows.sum(1), rows.square().sum(1), count], dim=1)

    def values(self, statistics: Tensor, weights: Tensor) -> Tensor:
        """Of the weighted sums."""
        error, total, squares, count = (weights.double() @ statistics.double()).unbind(1)
        spread = squares - total.square() / count
        return (1 - error / spread.clamp_min(1e-300)).clamp_min(0.0)
