"""Energy: counted operations, and the models that price them."""

from conversion.energy._chips import Chip
from conversion.energy._costs import Costs, Operator, costs
from conversion.energy._counts import Counts, MeanCounts, bits_of, graded_bits, joined_counts
from conversion.energy._memory import Memory
from conversion.energy._models import (
    ENERGY_KINDS,
    ENERGY_MODELS,
    Burst,
    EnergyModel,
    energy_kind,
    energy_model,
    load_energy_models,
)
from conversion.energy._operations import Operations
from conversion.energy._prices import Prices

load_energy_models()

__all__ = [
    "ENERGY_KINDS",
    "ENERGY_MODELS",
    "Burst",
    "Chip",
    "Costs",
    "Counts",
    "EnergyModel",
    "MeanCounts",
    "Memory",
    "Operations",
    "Operator",
    "Prices",
    "bits_of",
    "costs",
    "energy_kind",
    "energy_model",
    "graded_bits",
    "joined_counts",
]
