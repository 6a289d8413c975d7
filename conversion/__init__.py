"""ANN to calibrated spiking network: the engine. Needs neither Optuna nor matplotlib."""

from conversion._config import (
    Calibration,
    Choice,
    ConversionConfig,
    Granularity,
    LayerConfig,
    ThresholdRule,
)
from conversion._convert import Inference, Simulation, SpikingModel, convert
from conversion._deploy import DeployConfig, load, save
from conversion._diagnose import PARTS, LayerDiagnosis, diagnose
from conversion._dual_threshold import DualThreshold
from conversion._energy import ENERGY_MODELS, Costs, EnergyModel, costs, energy_model
from conversion._errors import (
    ConfigError,
    ConversionError,
    DeployError,
    SpikefrontError,
    is_out_of_memory,
)
from conversion._files import FileError, read_file, sha256, write_file
from conversion._graph import Network, SpikingSite, trace
from conversion._iat import (
    SCORES,
    ExitPolicy,
    ExitRule,
    Score,
    confidence,
    first_above,
    mean_entropy,
    normalised_entropy,
)
from conversion._learn import Batches, OnIteration
from conversion._neurons import NEURONS, AdaFire, NeuronState
from conversion._profile import LayerProfile, Profile, profile
from conversion._roles import Role
from conversion._sweep import Branch, sweep
from conversion._thresholds import GRID, Histogram, clip_floor, mmse_fractions

__all__ = [
    "ENERGY_MODELS",
    "GRID",
    "NEURONS",
    "PARTS",
    "SCORES",
    "AdaFire",
    "Batches",
    "Branch",
    "Calibration",
    "Choice",
    "ConfigError",
    "ConversionConfig",
    "ConversionError",
    "Costs",
    "DeployConfig",
    "DeployError",
    "DualThreshold",
    "EnergyModel",
    "ExitPolicy",
    "ExitRule",
    "FileError",
    "Granularity",
    "Histogram",
    "Inference",
    "LayerConfig",
    "LayerDiagnosis",
    "LayerProfile",
    "Network",
    "NeuronState",
    "OnIteration",
    "Profile",
    "Role",
    "Score",
    "Simulation",
    "SpikefrontError",
    "SpikingModel",
    "SpikingSite",
    "ThresholdRule",
    "clip_floor",
    "confidence",
    "convert",
    "costs",
    "diagnose",
    "energy_model",
    "first_above",
    "is_out_of_memory",
    "load",
    "mean_entropy",
    "mmse_fractions",
    "normalised_entropy",
    "profile",
    "read_file",
    "save",
    "sha256",
    "sweep",
    "trace",
    "write_file",
]
