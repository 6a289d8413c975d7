"""Names of the parameters of a study; everything that reads or writes them has them from here."""

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
"""User attribute of a trial: the segments of learning that its own goes on from."""

EXITS = (TIMESTEPS, ALPHA, BETA)
"""What choices that share a forward pass may differ in, but for its length."""

_PHI, _RHO = "phi/", "rho/"


def phi(layer: str) -> str:
    """The name of a layer's φ."""
    return _PHI + layer


def rho(layer: str) -> str:
    """The name of a layer's ρ."""
    return _RHO + layer


def per_layer(phis: Mapping[str, int], rhos: Mapping[str, float]) -> dict[str, Any]:
    """Parameters of every layer's φ and ρ, given by layer."""
    return {
        **{phi(layer): value for layer, value in phis.items()},
        **{rho(layer): value for layer, value in rhos.items()},
    }


def layers_of(params: Iterable[str]) -> list[str]:
    """The layers that parameters name, in their order."""
    return [name.removeprefix(_PHI) for name in params if name.startswith(_PHI)]


def is_per_layer(name: str) -> bool:
    """Whether a parameter is φ or ρ of a layer."""
    return name.startswith((_PHI, _RHO))


def layer_of(name: str) -> str | None:
    """The layer whose φ or ρ a parameter is, or None."""
    return name.partition("/")[2] if is_per_layer(name) else None
