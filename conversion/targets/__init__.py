"""Chips and their compilers: what they can hold and do, and what of a network does not fit."""

from conversion.targets._check import RULES, Violation, check, memory_bytes, rule
from conversion.targets._target import TARGETS, Core, Target, target

__all__ = [
    "RULES",
    "TARGETS",
    "Core",
    "Target",
    "Violation",
    "check",
    "memory_bytes",
    "rule",
    "target",
]
