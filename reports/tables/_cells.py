"""Cells shared by several tables."""

from __future__ import annotations

from evaluators import Measurement


def cells(m: Measurement) -> list[str]:
    return [f"{m.accuracy.value:.2%}", _lost(m), f"{m.energy_ratio:.1%}"]


def _lost(m: Measurement) -> str:
    """Points lost against the ANN, with their 95 % interval."""
    if m.drop is None:
        return "?"
    low, high = m.drop.interval()
    return f"{100 * m.drop.mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"
