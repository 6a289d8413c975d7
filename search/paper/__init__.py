"""The search of Wang et al.: sensitivity of each layer, and the frontier of their sums."""

from search.paper._pareto_dp import Frontier, ParetoDP, ParetoSearch, frontier
from search.paper._sensitivity import PHIS, RHOS, Sensitivity, sensitivity

__all__ = [
    "PHIS",
    "RHOS",
    "Frontier",
    "ParetoDP",
    "ParetoSearch",
    "Sensitivity",
    "frontier",
    "sensitivity",
]
