"""Names of a study's parameters, for everything that reads or writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

TIMESTEPS = "timesteps"
NEURON = "neuron"
CALIBRATION = "calibration"
CALIBRATION_TIMESTEPS = "calibration/timesteps"
ENERGY_WEIGHT = "learning/energy_weight"
ITERATIONS = "learning/iterations"
RATE = "learning/rate"
BITS = "bits"
ALPHA = "iat/alpha"
BETA = "iat/beta"

LINEAGE = "lineage"
"""User attribute of a trial: the learning segments that it continues."""

EXITS = (TIMESTEPS, ALPHA, BETA)
"""Parameters in which choices may differ and still share a forward pass."""

_PHI, _RHO = "phi/", "rho/"


def phi(layer: str) -> str:
    """The name of a layer's φ."""
    return _PHI + layer


def rho(layer: str) -> str:
    """The name of a layer's ρ."""
    return _RHO + layer


def per_layer(phis: Mapping[str, int], rhos: Mapping[str, float]) -> dict[str, Any]:
    """Parameters from φ and ρ by layer."""
    return {
        **{phi(layer): value for layer, value in phis.items()},
        **{rho(layer): value for layer, value in rhos.items()},
    }


def layers_of(params: Iterable[str]) -> list[str]:
    """The layers that appear in parameters, in order."""
    return [name.removeprefix(_PHI) for name in params if name.startswith(_PHI)]


def is_per_layer(name: str) -> bool:
    """Whether a parameter is φ or ρ of a layer."""
    return name.startswith((_PHI, _RHO))


def layer_of(name: str) -> str | None:
    """The layer whose φ or ρ a parameter is, or None."""
    return name.partition("/")[2] if is_per_layer(name) else None
