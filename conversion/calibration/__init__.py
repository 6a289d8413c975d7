"""Calibration: what is corrected or learned after the thresholds are known."""

from conversion.calibration._gradient import endless
from conversion.calibration._kinds import (
    CALIBRATIONS,
    Advanced,
    Calibration,
    Learned,
    Light,
    NoCalibration,
    Tuned,
    make_calibration,
    register_calibration,
)
from conversion.calibration._steps import Batches, Correct, Correction, Draft, OnIteration, Step

__all__ = [
    "CALIBRATIONS",
    "Advanced",
    "Batches",
    "Calibration",
    "Correct",
    "Correction",
    "Draft",
    "Learned",
    "Light",
    "NoCalibration",
    "OnIteration",
    "Step",
    "Tuned",
    "endless",
    "make_calibration",
    "register_calibration",
]
