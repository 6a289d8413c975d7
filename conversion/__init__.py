"""ANN to calibrated spiking network: the engine. Needs neither Optuna nor matplotlib."""

from conversion._config import Choice, ConversionConfig, LayerConfig
from conversion._convert import convert
from conversion._deploy import DeployConfig, load, save
from conversion._errors import (
    ConfigError,
    ConversionError,
    DeployError,
    SpikefrontError,
    is_out_of_memory,
)
from conversion._exits import (
    ExitPolicy,
    ExitRule,
    Score,
    confidence,
    decisions,
    first_above,
    log_probabilities,
    mean_entropy,
)
from conversion._files import FileError, sha256, tensors_sha256, write_file
from conversion._profile import LayerProfile, Profile, available_device, profile
from conversion.calibration import (
    CALIBRATIONS,
    Advanced,
    Batches,
    Calibration,
    Draft,
    Learned,
    Light,
    NoCalibration,
    OnIteration,
    Step,
    Tuned,
    make_calibration,
    register_calibration,
)
from conversion.energy import ENERGY_MODELS, Costs, EnergyModel, energy_model
from conversion.graph import Inputs, Network
from conversion.neurons import NEURONS, AdaFire, DualThreshold
from conversion.simulation import (
    PARTS,
    Inference,
    LayerDiagnosis,
    Simulation,
    SpikingModel,
    ann_logits,
    diagnose,
)
from conversion.simulation._sweep import Branch, sweep

__all__ = [
    "CALIBRATIONS",
    "ENERGY_MODELS",
    "NEURONS",
    "PARTS",
    "AdaFire",
    "Advanced",
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
    "Draft",
    "DualThreshold",
    "EnergyModel",
    "ExitPolicy",
    "ExitRule",
    "FileError",
    "Inference",
    "Inputs",
    "LayerConfig",
    "LayerDiagnosis",
    "LayerProfile",
    "Learned",
    "Light",
    "Network",
    "NoCalibration",
    "OnIteration",
    "Profile",
    "Score",
    "Simulation",
    "SpikefrontError",
    "SpikingModel",
    "Step",
    "Tuned",
    "ann_logits",
    "available_device",
    "confidence",
    "convert",
    "decisions",
    "diagnose",
    "energy_model",
    "first_above",
    "is_out_of_memory",
    "load",
    "log_probabilities",
    "make_calibration",
    "mean_entropy",
    "profile",
    "register_calibration",
    "save",
    "sha256",
    "sweep",
    "tensors_sha256",
    "write_file",
]
