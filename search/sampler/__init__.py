"""Samplers by name: ours, which exploits the structure of the problem, and Optuna's."""

from search.sampler._additive import AdditiveSampler
from search.sampler._features import LayerTables, layer_tables
from search.sampler._names import SAMPLER_NAMES, make_sampler, warm_start_attrs

__all__ = [
    "SAMPLER_NAMES",
    "AdditiveSampler",
    "LayerTables",
    "layer_tables",
    "make_sampler",
    "warm_start_attrs",
]
