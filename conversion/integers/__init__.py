"""Spiking networks in integers: weights of a few bits, potentials of sixteen."""

from conversion.integers._fixed_point import (
    FixedPoint,
    FixedRun,
    Granularity,
    fixed_point,
    run_fixed_point,
)
from conversion.integers._model import STATE_BITS, IntegerModel, in_integers

__all__ = [
    "STATE_BITS",
    "FixedPoint",
    "FixedRun",
    "Granularity",
    "IntegerModel",
    "fixed_point",
    "in_integers",
    "run_fixed_point",
]
