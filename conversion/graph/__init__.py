"""From a model to the network that every pass runs on: ``torch.export``, folded, classified."""

from conversion.graph._batch import Axis
from conversion.graph._build import build_network, run_ann
from conversion.graph._inputs import (
    FEEDS,
    Feed,
    Inputs,
    batches_of,
    gather,
    labelled_batches,
    laid_out,
)
from conversion.graph._network import Network, SpikingSite, Timing
from conversion.graph._normalise import is_size
from conversion.graph._operations import Role

__all__ = [
    "FEEDS",
    "Axis",
    "Feed",
    "Inputs",
    "Network",
    "Role",
    "SpikingSite",
    "Timing",
    "batches_of",
    "build_network",
    "gather",
    "is_size",
    "labelled_batches",
    "laid_out",
    "run_ann",
]
