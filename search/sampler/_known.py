"""The trials of a study as the sampler sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from conversion import (
    CALIBRATIONS,
    Costs,
    EnergyModel,
    Prices,
    Profile,
    bits_of,
    graded_bits,
)
from evaluators import Measurement
from search._exits import LOSSES, Criterion, key_of, logarithms, pass_of, points_of, staircase
from search._trial import TrialRecord, measurement_of
from search.sampler._features import LayerTables, layer_tables
from search.sampler._surrogate import Features
from spaces import LayerSpace, names

LEAST_DIVERGENCE = 1e-3
"""Nats below which there is nothing to be gained."""

KINDS = (names.NEURON, names.CALIBRATION, names.CALIBRATION_TIMESTEPS)

Candidate = tuple[Mapping[str, Any], np.ndarray]
"""Kinds (neuron, calibration, its T, T) by name, and the cell, (φ, ρ), of each layer."""


@dataclass(frozen=True)
class Known:
    """A finished trial.

    Attributes:
        number: Number of the trial.
        params: Its parameters that are in the space.
        lineage: Its earlier learning segments.
        goes_on_from: The trial whose learned state it continued.
        is_pass: Whether it was run; otherwise it is an additional exit of one that was.
        seconds: Duration.
        measurement: Its measurement on the search split.
        exits: Log energy and log loss of its best exits, by loss.
        cells: Index of each layer's (φ, ρ), ``(layers,)``.
        kinds: Indicators of neuron and calibration.
        errors: Predicted errors of the layers, ``(layers,)``.
        scales: Log of measured over predicted energy of the layers, ``(layers,)``.
        log_divergence: Log divergence of the first step, or of the last without early exit.
        log_energy: Log of measured energy ÷ the ANN's at the same step.
        key: Equal for equal choices.
        pass_key: Equal for choices that share a pass.
    """

    number: int
    params: Mapping[str, Any]
    lineage: Sequence[Mapping[str, Any]]
    goes_on_from: int | None
    is_pass: bool
    seconds: float
    measurement: Measurement
    exits: Mapping[Criterion, np.ndarray]
    cells: np.ndarray
    kinds: np.ndarray
    errors: np.ndarray
    scales: np.ndarray
    log_divergence: float
    log_energy: float
    key: str
    pass_key: str

    @property
    def candidate(self) -> Candidate:
        """Its choice."""
        return self.params, self.cells

    @property
    def learned(self) -> bool:
        """Whether its thresholds were learned, so that the histograms do not predict them."""
        return CALIBRATIONS[self.params[names.CALIBRATION]].weighs_energy()


class Book:
    """Reads trials, and predicts energies and errors of layers from the calibration histograms.

    Args:
        profile: Profile of the network.
        space: The search space.
        energy: Energy model.

    Attributes:
        exits: Whether samples may exit early; predictions then refer to first steps.
        choices: Choices of each categorical parameter.
        unlearned: Calibrations that do not weigh energy.
        kinds: Every (name, value) of neuron and calibration.
    """

    def __init__(self, profile: Profile, space: LayerSpace, energy: EnergyModel) -> None:
        distributions = space.distributions()
        self._names = frozenset(distributions)
        self._space = space
        self.choices: dict[str, list[Any]] = {
            name: list(d.choices)
            for name, d in distributions.items()
            if isinstance(d, CategoricalDistribution)
        }
        self.unlearned = [c for c in space.calibrations if c not in space.energy_weighers]
        self.exits = space.pins.get(names.ALPHA, 0.0) < 1
        steps = [1] if self.exits else self.choices[names.TIMESTEPS]
        self._features = {
            (at, step): _features(layer_tables(profile, space, at, steps=step), space)
            for at in self.choices[names.CALIBRATION_TIMESTEPS]
            for step in steps
        }
        ann = energy.ann_pj(profile.costs)
        prices = _prices(profile.costs, space, energy)
        # The tables' unit: as many accumulates as the ANN has MACs.
        self._price = _per_accumulate(prices, profile.costs, space) * profile.costs.ann_macs / ann
        self._stem, self._step = prices.once / ann, prices.step / ann
        self._scale = np.ones(len(space.layers))
        self.kind_names = (*KINDS, *([names.BITS] if space.bits else []))
        self.kinds = [(name, value) for name in self.kind_names for value in self.choices[name]]
        self._known: dict[tuple[Any, ...], Known] = {}

    @property
    def scale(self) -> np.ndarray:
        """Measured ÷ predicted energy of each layer's spikes, ``(layers,)``."""
        return self._scale

    @property
    def price(self) -> np.ndarray:
        """Price of as many accumulates as the ANN has MACs, ÷ the ANN's energy, ``(layers,)``."""
        return self._price

    def is_readable(self, trial: FrozenTrial) -> bool:
        """Whether a trial has the parameters of the space."""
        return self._names <= trial.params.keys()

    def own(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that are in the space; a user's study may have others."""
        return {name: value for name, value in params.items() if name in self._names}

    def seen(self, study: optuna.Study, trial: FrozenTrial) -> Known:
        """Read a trial, with a cache."""
        # In-memory studies all have the same number; their names differ.
        key = (study.study_name, study._study_id, trial.number)
        if key not in self._known:
            self._known[key] = self._read(trial)
        return self._known[key]

    def _read(self, trial: FrozenTrial) -> Known:
        params, measurement = self.own(trial.params), measurement_of(trial)
        record = TrialRecord.of(trial)
        candidate = (params, self.cells(params))
        energies = self.energies(candidate)
        curve = np.array(measurement.exit_curve)
        ann = measurement.energy_pj.value / measurement.energy_ratio
        spent = np.array([measurement.layer_energy_pj[n] / ann for n in self._space.layers])
        if self.exits:  # the layers share the first step's energy as they do that of all steps
            first = curve[0, 3] - self._stem - self._step
            spent *= first / max(spent.sum(), 1e-12)
        events = np.maximum(spent / self._price, 1e-6)
        scales = np.log(events / np.maximum(energies, 1e-6))
        divergence = measurement.kl_by_step[0 if self.exits else -1]
        ratio = curve[0, 3] if self.exits else measurement.energy_ratio
        taken = trial.duration.total_seconds() if trial.duration else 0.0
        return Known(
            number=trial.number,
            params=params,
            lineage=tuple(record.lineage),
            goes_on_from=record.goes_on_from,
            is_pass=record.exit_of is None,
            seconds=record.seconds or taken,
            measurement=measurement,
            exits={loss: self._stairs(curve, measurement, loss) for loss in LOSSES},
            cells=candidate[1],
            kinds=self.indicators(candidate),
            errors=self.errors(candidate),
            scales=np.clip(scales, -3, 3),
            log_divergence=math.log(max(divergence, LEAST_DIVERGENCE / 10)),
            log_energy=math.log(max(float(ratio), 1e-9)),
            key=key_of(params, record.lineage),
            pass_key=pass_of(params, record.lineage),
        )

    def _stairs(self, curve: np.ndarray, found: Measurement, loss: Criterion) -> np.ndarray:
        stairs = staircase(curve, self._space, loss)
        return stairs if len(stairs) else logarithms(points_of([found]), loss)

    def learn_scale(self, known: Sequence[Known]) -> None:
        """Learn the actual cost of the layers' spikes."""
        self._scale = np.exp(np.mean([np.zeros(len(self._scale)), *(t.scales for t in known)], 0))

    def cells(self, params: Mapping[str, Any]) -> np.ndarray:
        """Index of each layer's (φ, ρ), ``(layers,)``."""
        step, width = self._space.rho_step, len(self._space.rhos())
        cells = [
            (params[names.phi(n)] - 1) * width + round((params[names.rho(n)] - 1) / step)
            for n in self._space.layers
        ]
        return np.array(cells)

    def cell_params(self, cells: np.ndarray) -> dict[str, Any]:
        """The inverse of :meth:`cells`."""
        rhos = self._space.rhos()
        chosen = list(zip(self._space.layers, cells.tolist(), strict=True))
        return names.per_layer(
            {layer: cell // len(rhos) + 1 for layer, cell in chosen},
            {layer: rhos[cell % len(rhos)] for layer, cell in chosen},
        )

    def features(self, kinds: Mapping[str, Any]) -> Features:
        """Errors and energies of every cell."""
        steps = 1 if self.exits else kinds[names.TIMESTEPS]
        return self._features[kinds[names.CALIBRATION_TIMESTEPS], steps]

    def errors(self, candidate: Candidate) -> np.ndarray:
        """Errors of the chosen cells, ``(layers,)``."""
        kinds, cells = candidate
        return self.features(kinds).error[np.arange(len(cells)), cells]

    def energies(self, candidate: Candidate) -> np.ndarray:
        """Accumulates of the chosen cells over the ANN's MACs, ``(layers,)``."""
        kinds, cells = candidate
        return self.features(kinds).energy[np.arange(len(cells)), cells]

    def indicators(self, candidate: Candidate) -> np.ndarray:
        """1 for each kind that is chosen, else 0."""
        return np.array([float(candidate[0][name] == value) for name, value in self.kinds])

    def log_energies(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Log energy over the ANN's, ``(n,)``, of the first step where samples exit, else of T."""
        if not candidates:
            return np.zeros(0)
        steps = [1 if self.exits else kinds[names.TIMESTEPS] for kinds, _ in candidates]
        spikes = np.array([self.energies(c) for c in candidates]) @ (self._price * self._scale)
        total = spikes + self._stem + self._step * np.array(steps)
        logs: np.ndarray = np.log(np.maximum(total, 1e-9))
        return logs


def _prices(costs: Costs, space: LayerSpace, energy: EnergyModel) -> Prices:
    """Of events as wide as the space has them."""
    widest = dict.fromkeys(space.layers, graded_bits(space.phi_max))
    model = energy.in_integers(max(space.bits)) if space.bits else energy
    return model.prices(costs, bits_of(costs, widest))


def _per_accumulate(prices: Prices, costs: Costs, space: LayerSpace) -> np.ndarray:
    """Price of an accumulate with its share of the spike, pJ, ``(layers,)``."""
    per_spike = dict(zip(costs.fan_out, prices.per_spike(costs), strict=True))
    fan_outs = {name: float(costs.fan_out[name].mean()) for name in space.layers}
    return np.array([per_spike[name] / max(fan_outs[name], 1e-9) for name in space.layers])


_STEPS_AHEAD = 2.5
"""A proposal is measured at the first T that is this many times its parent's mean steps."""


def enough_steps(space: LayerSpace, found: Measurement) -> int:
    """The first T that leaves the exits of a parent room."""
    enough = _STEPS_AHEAD * found.timesteps.value
    return min((s for s in space.timesteps if s >= enough), default=max(space.timesteps))


def _features(tables: LayerTables, space: LayerSpace) -> Features:
    """Of every cell; those that a pin excludes have an infinite error and are never the best."""
    error = tables.error.copy()
    for i, layer in enumerate(space.layers):
        if names.phi(layer) in space.pins:
            error[i, np.arange(space.phi_max) != space.pins[names.phi(layer)] - 1] = np.inf
        if names.rho(layer) in space.pins:
            error[i, :, ~np.isclose(space.rhos(), space.pins[names.rho(layer)])] = np.inf
    return Features.of(error, tables.energy)
