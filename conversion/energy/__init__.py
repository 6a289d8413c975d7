"""What an inference costs: operations counted, and the models that price them."""

from conversion.energy._costs import Costs, costs
from conversion.energy._models import ENERGY_MODELS, Burst, EnergyModel, energy_model

__all__ = ["ENERGY_MODELS", "Burst", "Costs", "EnergyModel", "costs", "energy_model"]
