"""Calibration: corrections and learning after the thresholds are set."""

from conversion.calibration._data import Batch, Batches, endless
from conversion.calibration._kinds import (
    CALIBRATIONS,
    Advanced,
    Calibration,
    Learned,
    LearnedWeights,
    Light,
    NoCalibration,
    Segment,
    Tuned,
    make_calibration,
    register_calibration,
)
from conversion.calibration._steps import Correct, Correction, Draft, OnIteration, Step

__all__ = [
    "CALIBRATIONS",
    "Advanced",
    "Batch",
    "Batches",
    "Calibration",
    "Correct",
    "Correction",
    "Draft",
    "Learned",
    "LearnedWeights",
    "Light",
    "NoCalibration",
    "OnIteration",
    "Segment",
    "Step",
    "Tuned",
    "endless",
    "make_calibration",
    "register_calibration",
]
