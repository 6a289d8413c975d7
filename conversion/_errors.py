"""The exceptions of spikefront: one root, each leaf also the builtin a caller would expect."""

from __future__ import annotations

import torch


class SpikefrontError(Exception):
    """Root of every error that spikefront raises on purpose."""


class ConversionError(SpikefrontError, ValueError):
    """The network cannot be captured or converted; the message names the operation."""


class ConfigError(SpikefrontError, ValueError):
    """A setting is out of range, unknown, or does not fit the network."""


class DeployError(SpikefrontError, ValueError):
    """A deployed config cannot be written, or read back with certainty."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, as torch says it on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "not enough memory" in str(error) or "can't allocate memory" in str(error)
