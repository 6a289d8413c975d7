"""Chips and their compilers: what they can hold and do, and what of a network does not fit."""

from conversion.targets._check import RULES, Violation, check, memory_bytes, rule
from conversion.targets._fixed_point import FixedPoint, FixedRun, fixed_point, run_fixed_point
from conversion.targets._target import TARGETS, Core, Target, target

__all__ = [
    "RULES",
    "TARGETS",
    "Core",
    "FixedPoint",
    "FixedRun",
    "Target",
    "Violation",
    "check",
    "fixed_point",
    "memory_bytes",
    "rule",
    "run_fixed_point",
    "target",
]
