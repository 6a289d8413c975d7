"""Layers of spiking neurons, by the name that a config gives them."""

from conversion.neurons._adafire import NEURONS, AdaFire, NeuronState, Slopes
from conversion.neurons._dual_threshold import DualThreshold

__all__ = ["NEURONS", "AdaFire", "DualThreshold", "NeuronState", "Slopes"]
