"""The search of Wang et al.: the sensitivity of each layer, and the frontier of their sums."""

from search.paper._pareto_dp import Frontier, ParetoDP, ParetoSearch, frontier
from search.paper._sensitivity import (
    PHIS,
    RHOS,
    Sensitivity,
    kept_sensitivity,
    sensitivity,
    sweep_of,
)

__all__ = [
    "PHIS",
    "RHOS",
    "Frontier",
    "ParetoDP",
    "ParetoSearch",
    "Sensitivity",
    "frontier",
    "kept_sensitivity",
    "sensitivity",
    "sweep_of",
]
