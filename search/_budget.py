"""Budgets: limits on energy, lost accuracy and steps, as constraints of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from conversion import ConfigError
from evaluators import Evaluator, Measurement, normal_quantile


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits that a point must respect to be on the front.

    Attributes:
        max_energy: Largest energy as a share of the ANN's, or None.
        max_accuracy_drop: Largest loss against the ANN's accuracy, as a fraction, or None. The
            search applies it to the measured mean; reports and exports guarantee it with
            ``confidence``.
        max_steps: Largest mean number of steps until the exit, or None.
        confidence: Confidence of the guarantee on the loss.
    """

    max_energy: float | None = None
    max_accuracy_drop: float | None = None
    max_steps: float | None = None
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if self.max_energy is not None and not 0 < self.max_energy < math.inf:
            raise ConfigError(f"max_energy must be finite and > 0, got {self.max_energy!r}")
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop <= 1:
            raise ConfigError(f"max_accuracy_drop must be in 0..1, got {self.max_accuracy_drop!r}")
        if self.max_steps is not None and not 1 <= self.max_steps < math.inf:
            raise ConfigError(f"max_steps must be finite and >= 1, got {self.max_steps!r}")
        normal_quantile(self.confidence)

    def __str__(self) -> str:
        """The limits in words; empty without limits."""
        energy, drop = self.max_energy, self.max_accuracy_drop
        limits = [] if energy is None else [f"at most {100 * energy:.3g} % of the ANN's energy"]
        limits += [] if drop is None else [f"{100 * drop:.3g} points lost at most"]
        limits += [] if self.max_steps is None else [f"at most {self.max_steps:.3g} mean steps"]
        return ", ".join(limits)

    def __bool__(self) -> bool:
        """Whether there is a limit."""
        return bool(str(self))

    def constraints(self, measurement: Measurement, ann_accuracy: float) -> dict[str, float]:
        """Optuna constraints of a measured trial: satisfied if ≤ 0."""
        found = {}
        if self.max_energy is not None:
            found["energy"] = measurement.energy_ratio - self.max_energy
        if self.max_steps is not None:
            found["steps"] = measurement.timesteps.value - self.max_steps
        if self.max_accuracy_drop is not None:
            least = ann_accuracy - self.max_accuracy_drop
            found["accuracy"] = least - measurement.accuracy.value - 1e-12
        return found

    def check(self, evaluator: Evaluator, bits: Iterable[int] = ()) -> None:
        """Reject a budget that no choice can satisfy.

        Args:
            evaluator: Evaluator of the task.
            bits: Widths of integer weights in the space.

        Raises:
            ConfigError: Operations on analog values alone cost more than ``max_energy``.
        """
        least = evaluator.least_energy_pj(bits) / evaluator.ann_energy_pj
        if self.max_energy is not None and least >= self.max_energy:
            raise ConfigError(
                f"no choice keeps an energy of {self.max_energy:.3g} times the ANN's: it takes"
                f" {least:.3g} times before the first spike, for what works on analog values and"
                " at every step"
            )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Budget:
        """Rebuild from the output of :meth:`to_dict`."""
        return cls(**values)


NO_LIMITS = Budget()


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a finished trial is within its study's budget."""
    return all(value <= 0 for value in trial.constraints.values())
