"""Samplers by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.samplers.nsgaii import PolynomialMutation

from conversion import ENERGY_MODELS, ConfigError, EnergyModel, Profile
from search._budget import NO_LIMITS, Budget
from search.sampler._additive import AdditiveSampler
from spaces import LayerSpace

_POPULATION = 20


def _nsga3(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return NSGAIIISampler(population_size=_POPULATION, seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return NSGAIISampler(population_size=_POPULATION, mutation=PolynomialMutation(), seed=seed)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "tpe": lambda seed: TPESampler(seed=seed),
    "tpe-multivariate": lambda seed: TPESampler(multivariate=True, seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}

SAMPLER_NAMES = ("additive", *SAMPLERS)


def make_sampler(
    name: str,
    *,
    seed: int,
    profile: Profile,
    space: LayerSpace,
    energy: EnergyModel = ENERGY_MODELS["horowitz45"],
    budget: Budget = NO_LIMITS,
) -> BaseSampler:
    """The sampler of that name: ``additive`` is ours, the others are Optuna's.

    Raises:
        ConfigError: There is none; the message lists those there are.
    """
    if name == "additive":
        return AdditiveSampler(profile, space, energy=energy, budget=budget, seed=seed)
    if name not in SAMPLERS:
        raise ConfigError(f"sampler {name!r} is unknown; known: {', '.join(SAMPLER_NAMES)}")
    return SAMPLERS[name](seed)


def warm_start_attrs(sampler: BaseSampler) -> dict[str, int]:
    """System attributes that make an enqueued trial a parent of the first generation.

    A trial whose parameters are all fixed never asks the sampler, gets no generation, and would
    be invisible to NSGA-II and NSGA-III for ever.
    """
    if isinstance(sampler, optuna.samplers.BaseGASampler):
        return {f"{type(sampler).__name__}:generation": 0}
    return {}
