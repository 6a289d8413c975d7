"""The exceptions of spikefront: one base class; each also is the builtin to expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch


class SpikefrontError(Exception):
    """Base class of all errors that spikefront raises on purpose."""


class ConversionError(SpikefrontError, ValueError):
    """The network cannot be captured or converted; the message names the operation."""


class ConfigError(SpikefrontError, ValueError):
    """A setting is out of range, unknown, or does not fit the network."""


class DeployError(SpikefrontError, ValueError):
    """A deployed config cannot be written or cannot be trusted."""


def check_fields(kind: type, given: Mapping[str, Any], what: str) -> None:
    """Reject unknown and missing fields of a dataclass.

    Args:
        kind: The dataclass.
        given: The given fields.
        what: Its name in messages.

    Raises:
        ConfigError: A field is unknown or missing.
    """
    known = {field.name: field for field in fields(kind)}
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"{what} has no field {unknown[0]!r}; it has {', '.join(known)}")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in given]:
        raise ConfigError(f"{what} needs the field {missing[0]!r}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that torch ran out of memory, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "not enough memory" in str(error) or "can't allocate memory" in str(error)
