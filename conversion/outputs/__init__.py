"""How a network's outputs are read: how sure it is, and how far it is from the ANN."""

from conversion.outputs._base import OUTPUTS, Answers, Outputs, Score, outputs_from_dict, outputs_of
from conversion.outputs._boxes import Boxes
from conversion.outputs._classes import (
    Classes,
    confidence,
    decisions,
    log_probabilities,
    symmetric_kl,
)
from conversion.outputs._values import Values, relative_error

__all__ = [
    "OUTPUTS",
    "Answers",
    "Boxes",
    "Classes",
    "Outputs",
    "Score",
    "Values",
    "confidence",
    "decisions",
    "log_probabilities",
    "outputs_from_dict",
    "outputs_of",
    "relative_error",
    "symmetric_kl",
]
