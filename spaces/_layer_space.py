"""φ and ρ per layer, T, calibration and early exit as an Optuna search space."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from conversion import (
    CALIBRATIONS,
    NEURONS,
    Calibration,
    Choice,
    ConfigError,
    ConversionConfig,
    ExitPolicy,
    LayerConfig,
    Score,
    Segment,
    make_calibration,
)
from spaces import names

LEAST_PRICE = 0.01
"""Of energy; at less, learning differs in nothing but noise from one that does not price it."""


@dataclass(frozen=True, kw_only=True)
class LayerSpace:
    """The parameters of a study, under static names.

    ``phi/<layer>`` and ``rho/<layer>`` for every layer, ``timesteps``, ``neuron``, ``calibration``,
    ``calibration/timesteps``, ``iat/alpha`` and ``iat/beta``; if one of the calibrations learns,
    also ``learning/iterations``, ``learning/rate`` and ``learning/energy_weight``.

    Attributes:
        layers: Names of the spiking layers.
        phi_max: Largest φ, such as a chip's limit.
        rho_max: Largest ρ.
        rho_step: Step of the grid of ρ.
        timesteps: Values of T to choose from; one value fixes it. None: 1, 2, 4, 8; for inputs that
            vary over time those below their length, and their length.
        neurons: Neurons to choose from, one kind for all layers.
        calibrations: Calibrations to choose from.
        calibration_timesteps: Values of T to calibrate at. None: 1, 2, 4; for inputs that vary over
            time their length.
        iterations: Numbers of gradient steps to choose from.
        rates: Factors on the learning rate of the weights.
        energy_weight_max: Largest price of energy in learned calibrations.
        label_weight: Weight of the labels in learned calibrations; 0 needs no labels.
        beta_max: Largest β of the exit policy; 0 keeps thresholds constant over time.
        score: Confidence score of the exit policy.
        length: Number of steps of inputs that vary over time, which bounds T; None: static inputs.
        exits: Whether samples may exit early, which requires outputs with a confidence.
        bits: Widths of integer weights to choose from; empty: floating point.
        pins: Fixed parameters: values by name.
    """

    layers: tuple[str, ...]
    phi_max: int = 8
    rho_max: float = 3.0
    rho_step: float = 0.25
    timesteps: tuple[int, ...] = None  # type: ignore[assignment]
    neurons: tuple[str, ...] = ("adafire", "dual-threshold")
    calibrations: tuple[str, ...] = ("light", "advanced", "none")
    calibration_timesteps: tuple[int, ...] = None  # type: ignore[assignment]
    iterations: tuple[int, ...] = (100, 200, 400)
    rates: tuple[float, ...] = (0.4, 1.0, 3.0)
    energy_weight_max: float = 16.0
    label_weight: float = 0.0
    beta_max: float = 0.4
    score: Score = "entropy"
    length: int | None = None
    exits: bool = True
    bits: tuple[int, ...] = ()
    pins: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("a space needs at least one spiking layer: the network has none")
        if not (isinstance(self.phi_max, int) and self.phi_max >= 1):
            raise ConfigError(f"phi_max must be a whole number >= 1, got {self.phi_max!r}")
        if not (self.rho_max >= 1 and self.rho_step > 0):
            raise ConfigError(
                f"rho_max must be >= 1 and rho_step > 0, got {self.rho_max=}, {self.rho_step=}"
            )
        self._settle_timesteps()
        for name in ("timesteps", "calibration_timesteps", "iterations"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) != len(values):
                raise ConfigError(f"{name} must be different whole numbers >= 1, got {values!r}")
        for name, known in (("neurons", NEURONS), ("calibrations", CALIBRATIONS)):
            values = getattr(self, name)
            if not values or set(values) - set(known) or len(set(values)) != len(values):
                raise ConfigError(f"{name} must be out of {', '.join(known)}, got {values!r}")
        if not LEAST_PRICE < self.energy_weight_max < float("inf"):
            raise ConfigError(
                f"energy_weight_max must be finite and > {LEAST_PRICE}, got"
                f" {self.energy_weight_max!r}"
            )
        if not self.rates or min(self.rates) <= 0 or len(set(self.rates)) != len(self.rates):
            raise ConfigError(f"rates must be different numbers > 0, got {self.rates!r}")
        if not 0 <= self.label_weight < float("inf"):
            raise ConfigError(f"label_weight must be finite and >= 0, got {self.label_weight!r}")
        if any(not 2 <= width <= 16 for width in self.bits) or len(set(self.bits)) < len(self.bits):
            raise ConfigError(f"bits must be different whole numbers in 2..16, got {self.bits!r}")
        if not 0 <= self.beta_max <= 1:
            raise ConfigError(f"beta_max must be within 0..1, got {self.beta_max!r}")
        ExitPolicy(score=self.score)
        never: dict[str, Any] = {} if self.exits else {names.ALPHA: 1.0, names.BETA: 0.0}
        object.__setattr__(self, "pins", {**self.pins, **never})
        self._check_pins()

    def _settle_timesteps(self) -> None:
        """Fill in the default values of T."""
        usual: dict[str, tuple[int, ...]] = {
            "timesteps": (1, 2, 4, 8), "calibration_timesteps": (1, 2, 4)
        }  # fmt: skip
        if (length := self.length) is not None:
            shorter = tuple(t for t in usual["timesteps"] if t < length)
            usual = {"timesteps": (*shorter, length), "calibration_timesteps": (length,)}
        for name, values in usual.items():
            given = getattr(self, name)
            if given is None:
                object.__setattr__(self, name, values)
            elif length is not None and given and max(given) > length:
                raise ConfigError(
                    f"{name} must be at most {length}, the steps of the inputs, got {given!r}"
                )

    def _check_pins(self) -> None:
        free = self._free()
        for name, value in self.pins.items():
            if name not in free:
                raise ConfigError(f"{name!r} cannot be pinned: {_known(name, self.layers)}")
            if not _offers(free[name], value):
                most = {"phi": "phi_max (--phi-max)", "rho": "rho_max (--rho-max)"}
                kind = name.partition("/")[0]
                limit = f"; {most[kind]} sets the largest" if kind in most else ""
                raise ConfigError(
                    f"{name} cannot be pinned to {value!r}, only to {_offer(free[name])}{limit}"
                )

    def distributions(self) -> dict[str, BaseDistribution]:
        """The distribution of every parameter by name; a pinned one has a single value."""
        free = self._free()
        return {**free, **{name: _single(free[name], v) for name, v in self.pins.items()}}

    def rhos(self) -> list[float]:
        """The grid of ρ."""
        steps = math.floor((self.rho_max - 1) / self.rho_step + 1e-9)
        return [1 + i * self.rho_step for i in range(steps + 1)]

    @property
    def learners(self) -> tuple[str, ...]:
        """The calibrations that learn: for some steps, or at a price of energy."""
        options = {n: CALIBRATIONS[n].options() for n in self.calibrations}
        return tuple(n for n in options if {"iterations", "energy_weight"} & {*options[n]})

    @property
    def energy_weighers(self) -> tuple[str, ...]:
        """The calibrations that learn at a price of energy."""
        return tuple(n for n in self.calibrations if CALIBRATIONS[n].weighs_energy())

    @property
    def continuing(self) -> tuple[str, ...]:
        """The calibrations that can continue from an earlier learned state."""
        return tuple(n for n in self.energy_weighers if CALIBRATIONS[n].continues())

    def _free(self) -> dict[str, BaseDistribution]:
        phi = IntDistribution(1, self.phi_max)
        rho = FloatDistribution(1.0, self.rho_max, step=self.rho_step)
        weight = FloatDistribution(LEAST_PRICE, self.energy_weight_max, log=True)
        learning: dict[str, BaseDistribution] = {
            names.ITERATIONS: CategoricalDistribution(self.iterations),
            names.RATE: CategoricalDistribution(self.rates),
            names.ENERGY_WEIGHT: weight,
        }
        return {
            **{names.phi(layer): phi for layer in self.layers},
            **{names.rho(layer): rho for layer in self.layers},
            names.TIMESTEPS: CategoricalDistribution(self.timesteps),
            names.NEURON: CategoricalDistribution(self.neurons),
            names.CALIBRATION: CategoricalDistribution(self.calibrations),
            names.CALIBRATION_TIMESTEPS: CategoricalDistribution(self.calibration_timesteps),
            **({names.BITS: CategoricalDistribution(self.bits)} if self.bits else {}),
            **(learning if self.learners else {}),
            names.ALPHA: FloatDistribution(0.0, 1.0, step=0.01),
            names.BETA: FloatDistribution(0.0, self.beta_max, step=0.05),
        }

    def suggest(self, trial: optuna.Trial) -> Choice:
        """Let an Optuna trial suggest every parameter.

        The sampler decides which learned state it continues, in the trial's attribute ``lineage``.
        """
        params = {name: _suggest(trial, name, d) for name, d in self._items()}
        return self.choice(params, self._lineage(trial))

    def _lineage(self, trial: optuna.Trial) -> Any:
        """Read from the storage, as the trial's own copy is older."""
        if not self.continuing or not isinstance(trial, optuna.Trial):
            return trial.user_attrs.get(names.LINEAGE, ())
        there = trial.storage.get_trial(trial._trial_id)
        return there.user_attrs.get(names.LINEAGE, ())

    def choice(
        self, params: Mapping[str, Any], lineage: Iterable[Segment | Mapping[str, Any]] = ()
    ) -> Choice:
        """The choice that parameter values describe.

        Args:
            params: Values of all parameters.
            lineage: The learning segments that it continues.

        Raises:
            ConfigError: A parameter is missing, unknown or outside the space.
        """
        self._check(params)
        layers = {
            layer: LayerConfig(
                phi=int(params[names.phi(layer)]),
                rho=float(params[names.rho(layer)]),
                neuron=params[names.NEURON],
            )
            for layer in self.layers
        }
        return Choice(
            conversion=ConversionConfig(
                timesteps=int(params[names.TIMESTEPS]),
                layers=layers,
                calibration=self._calibration(params, tuple(lineage)),
                calibration_timesteps=int(params[names.CALIBRATION_TIMESTEPS]),
                bits=params.get(names.BITS),
            ),
            exit=ExitPolicy(
                score=self.score,
                alpha=float(params[names.ALPHA]),
                beta=float(params[names.BETA]),
            ),
        )

    def _calibration(self, params: Mapping[str, Any], lineage: tuple[Any, ...]) -> Calibration:
        """Make a calibration by name, with the given options that it supports."""
        given = {
            "iterations": params.get(names.ITERATIONS),
            "rate": float(params.get(names.RATE, 1.0)),
            "energy_weight": float(params.get(names.ENERGY_WEIGHT, 0.0)),
            "label_weight": self.label_weight,
            "before": lineage,
        }
        name = params[names.CALIBRATION]
        known = CALIBRATIONS[name].options()
        return make_calibration(name, **{k: v for k, v in given.items() if k in known})

    def uniform(self, *, phi: int, rho: float, alpha: float, beta: float = 0.0) -> dict[str, Any]:
        """Parameters of a uniform setting: the same φ and ρ for every layer, the largest T.

        Neuron and calibration are the first of the space, the calibration's T the second smallest.
        """
        return {
            **names.per_layer(
                dict.fromkeys(self.layers, phi), dict.fromkeys(self.layers, float(rho))
            ),
            names.TIMESTEPS: max(self.timesteps),
            names.NEURON: self.neurons[0],
            names.CALIBRATION: self.calibrations[0],
            names.CALIBRATION_TIMESTEPS: sorted(self.calibration_timesteps)[:2][-1],
            **({names.BITS: max(self.bits)} if self.bits else {}),
            **(self.learning() if self.learners else {}),
            names.ALPHA: alpha,
            names.BETA: beta,
            **self.pins,
        }

    def learning(
        self,
        energy_weight: float = 0.1,
        iterations: int | None = None,
        rate: float | None = None,
    ) -> dict[str, Any]:
        """Parameters of learning, which calibrations that do not learn ignore."""
        between = sorted(self.iterations)[len(self.iterations) // 2]
        return {
            names.ITERATIONS: iterations or between,
            names.RATE: rate or sorted(self.rates)[len(self.rates) // 2],
            names.ENERGY_WEIGHT: min(max(energy_weight, LEAST_PRICE), self.energy_weight_max),
        }

    def baselines(self) -> list[dict[str, Any]]:
        """The uniform settings that every search measures first.

        φ in 1, 2, 4, 8 and ρ in 1, 2, as far as the space allows, with early exit above a
        confidence of 0.6; a search adds their other exit settings that improve the front.
        """
        grid = [
            (phi, rho)
            for rho in (1.0, 2.0)
            for phi in (1, 2, 4, 8)
            if phi <= self.phi_max and rho <= self.rho_max
        ]
        return _unlike([self.uniform(phi=phi, rho=rho, alpha=0.6) for phi, rho in grid])

    def learned_baselines(self) -> list[dict[str, Any]]:
        """One uniform setting learned at rising prices of energy, each continuing the one before.

        φ = 4 and ρ = 2, as far as the space allows, with its last neuron and last learned
        calibration. Empty if no calibration learns at a price of energy.
        """
        if not self.continuing:
            return []
        uniform = self.uniform(phi=min(4, self.phi_max), rho=min(2.0, self.rhos()[-1]), alpha=0.6)
        kinds = {names.NEURON: self.neurons[-1], names.CALIBRATION: self.continuing[-1]}
        return _unlike(
            [{**uniform, **kinds, **self.learning(price), **self.pins} for price in _PRICES]
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerSpace:
        """Rebuild from :meth:`to_dict`; raises :class:`ConfigError` on unknown fields."""
        if unknown := set(values) - {field.name for field in fields(cls)}:
            raise ConfigError(f"unknown space setting {sorted(unknown)[0]!r}")
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        if isinstance(iterations := settings.get("iterations"), int):  # as in early studies
            settings["iterations"] = (iterations,)
        return cls(**settings)

    def _items(self) -> list[tuple[str, BaseDistribution]]:
        return list(self.distributions().items())

    def _check(self, params: Mapping[str, Any]) -> None:
        distributions = self.distributions()
        if missing := [name for name in distributions if name not in params]:
            raise ConfigError(f"parameter {missing[0]!r} is missing")
        if unknown := [name for name in params if name not in distributions]:
            raise ConfigError(f"unknown parameter {unknown[0]!r}")
        for name, distribution in distributions.items():
            if not _offers(distribution, params[name]):
                raise ConfigError(f"{name} = {params[name]!r} is outside {distribution}")


_PRICES = (0.1, 0.5, 2.0, 8.0)
"""Of energy, of the learned baselines."""


def _unlike(settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without duplicates, which pins can cause."""
    found: list[dict[str, Any]] = []
    for params in settings:
        if params not in found:
            found.append(params)
    return found


def _offer(distribution: BaseDistribution) -> str:
    if isinstance(distribution, IntDistribution):
        return f"{distribution.low} to {distribution.high}"
    if isinstance(distribution, FloatDistribution):
        steps = f" in steps of {distribution.step:g}" if distribution.step else ""
        return f"{distribution.low:g} to {distribution.high:g}{steps}"
    assert isinstance(distribution, CategoricalDistribution)
    return ", ".join(map(str, distribution.choices))


def _offers(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError):
        return False


def _single(distribution: BaseDistribution, value: Any) -> BaseDistribution:
    if isinstance(distribution, CategoricalDistribution):
        return CategoricalDistribution((value,))
    if isinstance(distribution, IntDistribution):
        return IntDistribution(value, value)
    assert isinstance(distribution, FloatDistribution)
    return FloatDistribution(value, value, step=distribution.step, log=distribution.log)


def _known(name: str, layers: tuple[str, ...]) -> str:
    layer = names.layer_of(name)
    if layer is None:
        return "there is no such parameter"
    return f"there is no layer {layer!r}; the network has: {', '.join(layers)}"


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )
