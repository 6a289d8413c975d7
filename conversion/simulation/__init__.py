"""Running a network: as the ANN, and as a spiking network over many steps."""

from conversion.simulation._counter import SpikeCounter
from conversion.simulation._diagnose import PARTS, LayerDiagnosis, diagnose
from conversion.simulation._model import Inference, Simulation, SpikingModel, make_neuron
from conversion.simulation._passes import AnalogPass, SpikingPass, ann_answers, running_mean
from conversion.simulation._stream import StepResult, StreamState

__all__ = [
    "PARTS",
    "AnalogPass",
    "Inference",
    "LayerDiagnosis",
    "Simulation",
    "SpikeCounter",
    "SpikingModel",
    "SpikingPass",
    "StepResult",
    "StreamState",
    "ann_answers",
    "diagnose",
    "make_neuron",
    "running_mean",
]
