"""What a study trades accuracy against: energy, and optionally latency, operations or memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from conversion import ConfigError
from evaluators import Measurement

ENERGY = "energy"


def _synops(measurement: Measurement) -> float:
    found = measurement.latency_synops
    return float("nan") if found is None else found.value


def _memory(measurement: Measurement) -> float:
    found = measurement.memory_bytes
    return float("nan") if found is None else float(found)


OBJECTIVES: dict[str, tuple[str, Callable[[Measurement], float]]] = {
    ENERGY: ("energy_pj", lambda m: m.energy_pj.value),
    "latency": ("timesteps", lambda m: m.timesteps.value),
    "synops": ("latency_synops", _synops),
    "memory": ("memory_bytes", _memory),
}
"""By the name on the command line: what Optuna shows, and what is to be small.

``latency`` is the mean number of steps until a sample exits; ``synops`` the synaptic operations on
the critical path of a pipeline of layers; ``memory`` the bytes of weights and
potentials.
"""


def checked_objectives(names: Sequence[str]) -> tuple[str, ...]:
    """Validate the objectives besides accuracy, and put energy first.

    Raises:
        ConfigError: An objective is unknown or repeated, or energy is missing.
    """
    unknown = [name for name in names if name not in OBJECTIVES]
    if unknown:
        known = ", ".join(OBJECTIVES)
        raise ConfigError(f"objective {unknown[0]!r} is unknown; known: {known}")
    if ENERGY not in names or len(set(names)) < len(names):
        given = ",".join(names)
        raise ConfigError(f"objectives must be distinct and include energy, got {given!r}")
    return (ENERGY, *(name for name in names if name != ENERGY))


def objective_values(measurement: Measurement, names: Sequence[str]) -> list[float]:
    """A trial's values for Optuna: the metric, then each objective."""
    return [measurement.accuracy.value, *(OBJECTIVES[name][1](measurement) for name in names)]


def non_dominated_rows(losses: np.ndarray) -> np.ndarray:
    """Indices of the non-dominated points among ``(n, k)``, by rising first column, ``(m,)``.

    Of equal points the first one is kept.
    """
    order = np.lexsort(losses.T[::-1])
    kept: list[int] = []
    for i in order:  # in this order a point comes after all that dominate it
        beaten = any((losses[j] <= losses[i]).all() for j in kept)
        if not beaten:
            kept.append(int(i))
    return np.array(kept, dtype=int)
