"""What can be wrong with a study."""

from __future__ import annotations

from conversion import SpikefrontError


class StudyError(SpikefrontError, RuntimeError):
    """A study cannot be opened, is held by another process, or does not fit."""


class TrialTimeoutError(SpikefrontError, TimeoutError):
    """A measurement took longer than it may."""
