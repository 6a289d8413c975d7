"""The search space: per-layer φ and ρ, T, calibration and early exit."""

from spaces import names
from spaces._layer_space import LayerSpace

__all__ = ["LayerSpace", "names"]
