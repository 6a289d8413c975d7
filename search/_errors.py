"""Errors of studies."""

from __future__ import annotations

from conversion import SpikefrontError


class StudyError(SpikefrontError, RuntimeError):
    """A study cannot be opened, is in use by another process, or does not match."""


class TrialTimeoutError(SpikefrontError, TimeoutError):
    """A measurement exceeded its time limit."""
