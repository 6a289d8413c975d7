"""A sampler that knows the structure: errors and energies that add up over the layers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from conversion import CALIBRATIONS, ENERGY_MODELS, EnergyModel, Profile
from evaluators import Measurement
from search._budget import NO_LIMITS, Budget, is_feasible
from search._exits import (
    LOSSES,
    Criterion,
    foreseen_exits,
    interesting_front,
    key_of,
    logarithms,
    pass_of,
    points_of,
    staircase,
    worst_of,
)
from search._front import expected_gain
from search._trial import finished, measurement_of
from search.sampler._features import LayerTables, layer_tables
from search.sampler._surrogate import Features, Residual, Surrogate, sweep_prices
from spaces import LayerSpace, names

_LOG = logging.getLogger("spikefront")

_STEPS_AHEAD = 2.5
"""A proposal is measured at the first T that is this many times its parent's mean steps."""

_INHERITED = 0.5
"""Share of the draws with the neuron and the calibration of a trial of the front."""

_LEARNED = 0.15
"""Share of the new passes that learn, where the space offers it: many times dearer, and better."""

_FIRST_WEIGHT = 0.2
"""Of energy, about which the first learned passes are drawn."""

_LEARNING_STARTS = 25
"""Passes before which nothing learns: there is no front yet to start from."""

_KINDS = (names.NEURON, names.CALIBRATION, names.CALIBRATION_TIMESTEPS)

_DRAWS, _PRICES, _NEIGHBOURS = 4, 24, 150
"""Draws from the posterior, points of each one's frontier, and changes to the front's points."""

_NEAREST = 400
"""Finished trials that the surrogate learns from: those nearest to the front."""

_WORST_DIVERGENCE = 1.0
"""Nats from which on nobody looks, where nothing exits early: some twenty points of accuracy."""

_MARGIN = 0.1
"""How far above the front's worst loss, in logarithms, an exit is still of interest."""

_LEAST_DIVERGENCE = 1e-3
"""Nats below which there is nothing to be gained."""

_Done = Sequence[tuple[Mapping[str, Any], Measurement]]
"""Parameters and measurements of finished trials."""

_Candidate = tuple[Mapping[str, Any], np.ndarray]
"""Kinds (neuron, calibration, its T, T) by name, and the cell, (φ, ρ), of each layer."""


@dataclass(frozen=True)
class _Trial:
    """A finished trial, as the surrogate sees it."""

    params: Mapping[str, Any]
    measurement: Measurement
    exits: Mapping[Criterion, np.ndarray]
    cells: np.ndarray
    kinds: np.ndarray
    errors: np.ndarray
    scales: np.ndarray
    log_divergence: float
    key: str
    pass_key: str

    @property
    def candidate(self) -> _Candidate:
        return self.params, self.cells

    @property
    def learned(self) -> bool:
        """Whether its thresholds are not those of the histograms."""
        return CALIBRATIONS[self.params[names.CALIBRATION]].weighs_energy()


class AdditiveSampler(BaseSampler):
    """Proposes the points of an additive per-layer surrogate's frontier that gain most.

    The divergence from the ANN grows with a weighted sum of what the calibration histograms
    predict of each layer's rounding error for its φ and ρ; the weights are learned from all
    finished trials (:class:`search.sampler._surrogate.Surrogate`), and near a trial what it showed
    counts most. The energy is a sum of what the histograms predict, each layer scaled to what its
    spikes were measured to cost. For a price λ of energy the best choice is separate for each
    layer, so a sweep of λ walks the lower convex hull of a frontier: those of some draws from the
    posterior, and neighbours of the front, are the candidates. Proposed is the one of largest
    expected hypervolume gain, over what is measured and, by the surrogate, what is running: several
    processes may share a study.

    With early exit the divergence is that of the first step, and the pass is measured at a T that
    leaves its exits room: :func:`search.run_study` adds those that enlarge the front. Where the
    space offers learned calibration, some proposals are points of the front whose thresholds
    shall be learned, at a weight of energy drawn around 0.2, or around that of a parent that was
    learned itself.

    It learns from trials with the user attribute ``measurement``, a
    :meth:`evaluators.Measurement.to_dict`; objectives are the caller's own affair.

    Args:
        profile: Of the network.
        space: The search space.
        energy: Prices; of the study.
        budget: Limits; it looks where they are kept, and never above the ANN's energy.
        seed: Seed of the draws.
    """

    def __init__(
        self,
        profile: Profile,
        space: LayerSpace,
        *,
        energy: EnergyModel = ENERGY_MODELS["horowitz45"],
        budget: Budget = NO_LIMITS,
        seed: int | None = None,
    ) -> None:
        self._names = frozenset(space.distributions())
        self._dearest = math.log(budget.max_energy) if budget.max_energy else 0.0
        self._space = space
        self._choices: dict[str, list[Any]] = {
            name: list(d.choices)
            for name, d in space.distributions().items()
            if isinstance(d, CategoricalDistribution)
        }
        self._exits = space.pins.get(names.ALPHA, 0.0) < 1
        steps = [1] if self._exits else self._choices[names.TIMESTEPS]
        self._features = {
            (at, step): _features(layer_tables(profile, space, at, steps=step), space)
            for at in self._choices[names.CALIBRATION_TIMESTEPS]
            for step in steps
        }
        costs = profile.costs
        ann = energy.ann_pj(costs)
        # Of as many accumulates as the ANN has MACs: what the tables count in.
        self._price = float(energy.spikes_pj(np.array(float(costs.ann_macs)))) / ann
        self._stem, self._step = energy.stem_pj(costs) / ann, energy.step_pj(costs) / ann
        self._weighers = space.energy_weighers
        self._scale = np.ones(len(space.layers))
        self._kinds = [(name, value) for name in _KINDS for value in self._choices[name]]
        self._surrogate = Surrogate(len(space.layers), len(self._kinds))
        self._warned = False
        self._known: dict[tuple[Any, ...], _Trial] = {}
        self._random = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)

    def reseed_rng(self) -> None:
        """Draw other proposals than another process with a copy of this sampler."""
        self._random = np.random.default_rng()
        self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space: every parameter is proposed together."""
        return self._space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose all parameters of a trial."""
        trials = [t for t in finished(study) if self._key(study, t) in self._known or self._fits(t)]
        known = [self._seen(study, t) for t in trials]
        if not known and study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            self._warn_of_missing_measurements()
        pending = [
            self._own(t.params)
            for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if self._fits(t)
        ]
        kept = [k for k, t in zip(known, trials, strict=True) if is_feasible(t)] or known
        loss = LOSSES[int(self._random.integers(len(LOSSES)))]
        points = points_of([k.measurement for k in kept])
        chosen = interesting_front(points, loss)
        front = [(kept[i].params, kept[i].measurement) for i in chosen]
        passes = {t.pass_key for t in known}
        learns = bool(self._weighers) and len(passes) >= _LEARNING_STARTS
        if learns and front and self._random.random() < _LEARNED:
            return self._learning(front)
        candidates = self._ranked(known, kept, pending, loss)
        ranked = (self._params(candidate, front) for candidate in candidates)
        first = self._params(candidates[0], front)
        if not self._exits:
            taken = {t.key for t in known} | {key_of(params) for params in pending}
            return next((p for p in ranked if key_of(p) not in taken), first)
        passes |= {pass_of(params) for params in pending}
        return next((p for p in ranked if pass_of(p) not in passes), self._other_exit(first))

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Random, for parameters that are not of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _warn_of_missing_measurements(self) -> None:
        if not self._warned:
            _LOG.warning(
                "no finished trial holds its measurement, and nothing is learned from them: give"
                " each trial.set_user_attr('measurement', measurement.to_dict())"
            )
        self._warned = True

    def _fits(self, trial: FrozenTrial) -> bool:
        return self._names <= trial.params.keys()

    @staticmethod
    def _key(study: optuna.Study, trial: FrozenTrial) -> tuple[Any, ...]:
        # Studies in memory all have the same number: their names tell them apart.
        return study.study_name, study._study_id, trial.number

    def _own(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Those parameters that are of the space: a study of the user's may have others."""
        return {name: value for name, value in params.items() if name in self._names}

    def _seen(self, study: optuna.Study, trial: FrozenTrial) -> _Trial:
        key = self._key(study, trial)
        if key not in self._known:
            self._known[key] = self._read(self._own(trial.params), measurement_of(trial))
        return self._known[key]

    def _other_exit(self, params: dict[str, Any]) -> dict[str, Any]:
        """Every pass is made: one of them at another exit threshold."""
        alpha = round(float(self._random.random()), 2)
        return {**params, names.ALPHA: alpha, **self._space.pins}

    def _read(self, params: dict[str, Any], measurement: Measurement) -> _Trial:
        candidate = (params, self._cells(params))
        energies = self._energies(candidate)
        curve = np.array(measurement.exit_curve)
        ann = measurement.energy_pj.value / measurement.energy_ratio * self._price
        spent = np.array([measurement.layer_energy_pj[n] / ann for n in self._space.layers])
        if self._exits:  # the layers share the first step's energy as they do that of all steps
            first = (curve[0, 3] - self._stem - self._step) / self._price
            spent *= first / max(spent.sum(), 1e-12)
        scales = np.log(np.maximum(spent, 1e-6) / np.maximum(energies, 1e-6))
        divergence = measurement.kl_by_step[0 if self._exits else -1]
        return _Trial(
            params=params,
            measurement=measurement,
            exits={loss: self._stairs(curve, measurement, loss) for loss in LOSSES},
            cells=candidate[1],
            kinds=self._indicators(candidate),
            errors=self._errors(candidate),
            scales=np.clip(scales, -3, 3),
            log_divergence=math.log(max(divergence, _LEAST_DIVERGENCE / 10)),
            key=key_of(params),
            pass_key=pass_of(params),
        )

    def _stairs(self, curve: np.ndarray, found: Measurement, loss: Criterion) -> np.ndarray:
        stairs = staircase(curve, self._space, loss)
        return stairs if len(stairs) else logarithms(points_of([found]), loss)

    def _cells(self, params: Mapping[str, Any]) -> np.ndarray:
        """Index of each layer's (φ, ρ), ``(layers,)``."""
        step, width = self._space.rho_step, len(self._space.rhos())
        cells = [
            (params[names.phi(n)] - 1) * width + round((params[names.rho(n)] - 1) / step)
            for n in self._space.layers
        ]
        return np.array(cells)

    def _features_of(self, kinds: Mapping[str, Any]) -> Features:
        steps = 1 if self._exits else kinds[names.TIMESTEPS]
        return self._features[kinds[names.CALIBRATION_TIMESTEPS], steps]

    def _errors(self, candidate: _Candidate) -> np.ndarray:
        kinds, cells = candidate
        return self._features_of(kinds).error[np.arange(len(cells)), cells]

    def _energies(self, candidate: _Candidate) -> np.ndarray:
        kinds, cells = candidate
        return self._features_of(kinds).energy[np.arange(len(cells)), cells]

    def _indicators(self, candidate: _Candidate) -> np.ndarray:
        return np.array([float(candidate[0][name] == value) for name, value in self._kinds])

    def _log_energies(self, candidates: Sequence[_Candidate]) -> np.ndarray:
        """Log energy over the ANN's, ``(n,)``, of the first step where samples exit, else of T."""
        if not candidates:
            return np.zeros(0)
        steps = [1 if self._exits else kinds[names.TIMESTEPS] for kinds, _ in candidates]
        spikes = np.array([self._energies(c) for c in candidates]) @ self._scale
        total = self._price * spikes + self._stem + self._step * np.array(steps)
        logs: np.ndarray = np.log(np.maximum(total, 1e-9))
        return logs

    def _ranked(
        self,
        known: Sequence[_Trial],
        kept: Sequence[_Trial],
        pending: Sequence[Mapping[str, Any]],
        loss: Criterion,
    ) -> list[_Candidate]:
        """Candidates by falling expected gain."""
        self._scale = np.exp(np.mean([np.zeros(len(self._scale)), *(t.scales for t in known)], 0))
        plain = self._teachers(known)
        there = self._first_steps(plain)
        excess = _above_front(*there.T)
        nearest = np.argsort(excess, kind="stable")[:_NEAREST]
        believed = _Belief(self._surrogate, [plain[i] for i in nearest], excess[nearest])
        best = [plain[i] for i in np.flatnonzero(excess <= 0)]
        if self._exits:
            best = self._owners_of_the_front(plain, kept, loss) or best
        candidates = [*self._frontiers(believed.surrogate, best), *self._neighbours(best)]
        running = [(params, self._cells(params)) for params in pending]
        every, count = [*candidates, *running], len(candidates)
        mean, deviation = self._predict(believed, every)
        sought = np.column_stack([self._log_energies(every), mean])
        if self._exits and plain:
            parents = [plain[i] for i in nearest]
            exits, owner = self._foreseen(parents, there[nearest], every, sought, loss)
            deviation = loss.elasticity * deviation
            gain = self._gain_at_exits(kept, exits, owner, deviation, count, loss)
        else:
            gain = expected_gain(
                np.concatenate([there, sought[count:]]),
                sought[:count, 0],
                sought[:count, 1],
                deviation[:count],
                worst=(self._dearest, math.log(_WORST_DIVERGENCE)),
                floor=math.log(_LEAST_DIVERGENCE),
            )
        return [candidates[i] for i in np.argsort(-np.maximum(gain, 0), kind="stable")]

    def _foreseen(
        self,
        parents: Sequence[_Trial],
        seen: np.ndarray,
        every: Sequence[_Candidate],
        sought: np.ndarray,
        loss: Criterion,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Exits of candidates, and whose each is, from those of the parents."""
        kinds = np.array([self._indicators(c) for c in every])
        unlike = len(_KINDS) - kinds @ np.array([t.kinds for t in parents]).T
        return foreseen_exits([t.exits[loss] for t in parents], seen, sought, unlike, loss)

    def _gain_at_exits(
        self,
        kept: Sequence[_Trial],
        exits: np.ndarray,
        owner: np.ndarray,
        deviation: np.ndarray,
        count: int,
        loss: Criterion,
    ) -> np.ndarray:
        """Gain of the best exit of each of the first ``count`` passes; the others are running."""
        points = points_of([k.measurement for k in kept])
        front = logarithms(points[interesting_front(points, loss)], loss)
        new = owner < count
        gains = expected_gain(
            np.concatenate([front, exits[~new]]),
            exits[new, 0],
            exits[new, 1],
            deviation[owner[new]],
            worst=worst_of(front, self._dearest, _MARGIN),
            floor=math.log(loss.least),
        )
        best = np.zeros(count)
        np.maximum.at(best, owner[new], gains)
        return best

    def _teachers(self, known: Sequence[_Trial]) -> list[_Trial]:
        """Those that the surrogate learns from: once each, and none whose thresholds learned."""
        only_learned = all(
            CALIBRATIONS[c].weighs_energy() for c in self._choices[names.CALIBRATION]
        )
        own: dict[str, _Trial] = {}
        for trial in known:  # a pass comes before its further exits, whose curves are shorter
            if only_learned or not trial.learned:
                own.setdefault(trial.pass_key if self._exits else trial.key, trial)
        return [t for t in own.values() if math.isfinite(t.log_divergence + t.errors.sum())]

    def _first_steps(self, trials: Sequence[_Trial]) -> np.ndarray:
        """Log energy, foreseen, and log divergence, ``(n, 2)``; of T where nothing exits."""
        energies = self._log_energies([t.candidate for t in trials])
        return np.column_stack([energies, [t.log_divergence for t in trials]])

    def _owners_of_the_front(
        self, plain: Sequence[_Trial], kept: Sequence[_Trial], loss: Criterion
    ) -> list[_Trial]:
        """Of the front of what was not learned, the passes."""
        keys = {t.pass_key: t for t in plain}
        among = [t for t in kept if t.pass_key in keys]
        front = interesting_front(points_of([t.measurement for t in among]), loss)
        return [keys[key] for key in dict.fromkeys(among[i].pass_key for i in front)]

    def _predict(
        self, believed: _Belief, candidates: Sequence[_Candidate]
    ) -> tuple[np.ndarray, np.ndarray]:
        kinds = np.array([self._indicators(c) for c in candidates])
        return believed.predict(kinds, np.array([self._errors(c) for c in candidates]))

    def _frontiers(self, surrogate: Surrogate, best: Sequence[_Trial]) -> list[_Candidate]:
        """Points of the frontiers of draws from the posterior."""
        found: list[_Candidate] = []
        for _ in range(_DRAWS):
            kinds = self._draw_kinds(best)
            features = self._features_of(kinds)
            energy = features.energy * self._scale[:, None]
            errors = surrogate.drawn_terms(features.error, self._random)
            middle = errors[np.isfinite(errors)].mean() / max(energy.mean(), 1e-12)
            prices = middle * 10 ** self._random.uniform(-4, 3, _PRICES)
            found += [(kinds, cells) for cells in sweep_prices(errors, energy, prices)]
        return found

    def _neighbours(self, best: Sequence[_Trial]) -> list[_Candidate]:
        """Trials of the front with other cells in one to three layers."""
        found: list[_Candidate] = []
        for _ in range(_NEIGHBOURS if best else 0):
            parent = best[int(self._random.integers(len(best)))]
            error = self._features_of(parent.params).error
            cells = parent.cells.copy()
            changed = min(len(cells), 1 + int(self._random.integers(3)))
            for layer in self._random.choice(len(cells), changed, replace=False):
                cells[layer] = self._random.choice(np.flatnonzero(np.isfinite(error[layer])))
            found.append((parent.params, cells))
        return found

    def _draw_kinds(self, best: Sequence[_Trial]) -> dict[str, Any]:
        """Neuron, calibration and T: of a trial of the front, or any; nothing that learns."""
        if best and self._random.random() < _INHERITED:
            parent = best[int(self._random.integers(len(best)))].params
            return {name: parent[name] for name in (*_KINDS, names.TIMESTEPS)}
        kinds = {}
        for name in (*_KINDS, names.TIMESTEPS):
            choices = [c for c in self._choices[name] if c not in self._weighers]
            choices = choices or self._choices[name]
            kinds[name] = choices[int(self._random.integers(len(choices)))]
        return kinds

    def _params(self, candidate: _Candidate, front: _Done) -> dict[str, Any]:
        """All parameters of a candidate; where samples exit, T and threshold of its neighbour."""
        space, (kinds, cells) = self._space, candidate
        exits: dict[str, Any] = {names.TIMESTEPS: kinds[names.TIMESTEPS], names.ALPHA: 1.0}
        if self._exits and front:
            aim = self._log_energies([candidate])
            there = self._log_energies([(params, self._cells(params)) for params, _ in front])
            parent, found = front[int(np.abs(there - aim).argmin())]
            exits = {names.TIMESTEPS: self._enough(found), names.ALPHA: parent[names.ALPHA]}
        elif self._exits:
            exits = {names.TIMESTEPS: max(space.timesteps), names.ALPHA: 0.6}
        rhos, chosen = space.rhos(), list(zip(space.layers, cells.tolist(), strict=True))
        return {
            **{names.phi(layer): cell // len(rhos) + 1 for layer, cell in chosen},
            **{names.rho(layer): rhos[cell % len(rhos)] for layer, cell in chosen},
            **{name: kinds[name] for name in _KINDS},
            **({names.ENERGY_WEIGHT: 0.0} if self._weighers else {}),
            **exits,
            names.BETA: 0.0,
            **space.pins,
        }

    def _learning(self, front: _Done) -> dict[str, Any]:
        """A point of the front whose thresholds shall be learned, at some weight of energy."""
        parent, found = self._parent(front)
        weight, kind = _FIRST_WEIGHT, self._weighers[0]
        if parent[names.CALIBRATION] in self._weighers:
            kind = parent[names.CALIBRATION]
            weight = max(parent[names.ENERGY_WEIGHT], _FIRST_WEIGHT / 4)
        weight = min(weight * math.exp(self._random.normal(0, 0.7)), self._space.energy_weight_max)
        neurons = self._space.neurons
        timesteps = sorted(self._space.calibration_timesteps)[:2]  # learning at more is dear
        return {
            **parent,
            names.NEURON: neurons[self._random.integers(len(neurons))],
            names.CALIBRATION: kind,
            names.CALIBRATION_TIMESTEPS: timesteps[self._random.integers(len(timesteps))],
            names.ENERGY_WEIGHT: round(weight / 0.02) * 0.02,
            names.TIMESTEPS: self._enough(found) if self._exits else parent[names.TIMESTEPS],
            **self._space.pins,
        }

    def _enough(self, found: Measurement) -> int:
        """The first T that leaves the exits of a parent room."""
        enough = _STEPS_AHEAD * found.timesteps.value
        steps = (steps for steps in self._space.timesteps if steps >= enough)
        return min(steps, default=max(self._space.timesteps))

    def _parent(self, front: _Done) -> tuple[Mapping[str, Any], Measurement]:
        """A point of the front, even over the logarithm of energy however dense its points."""
        energies = np.log([m.energy_ratio for _, m in front])
        aim = self._random.uniform(energies.min(), energies.max())
        return front[int(np.abs(energies - aim).argmin())]


class _Belief:
    """The surrogate fitted to trials, and what it misses near them."""

    def __init__(self, surrogate: Surrogate, trials: Sequence[_Trial], excess: np.ndarray) -> None:
        self.surrogate = surrogate
        self._residual: Residual | None = None
        if trials:
            seen = np.array([t.kinds for t in trials]), np.array([t.errors for t in trials])
            losses = np.array([t.log_divergence for t in trials])
            self.surrogate.fit(*seen, losses, excess)
            missed = losses - self.surrogate.predict(*seen)[0]
            self._residual = Residual(np.log(seen[1]), missed)

    def predict(self, kinds: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log divergence, ``(n,)`` each."""
        mean, deviation = self.surrogate.predict(kinds, errors)
        if self._residual is None:
            return mean, deviation
        missed, unsure = self._residual.predict(np.log(errors))
        return mean + missed, np.hypot(deviation, unsure)


def _features(tables: LayerTables, space: LayerSpace) -> Features:
    """Of every cell; those that a pin excludes have an infinite error and are never the best."""
    error = tables.error.copy()
    for i, layer in enumerate(space.layers):
        if names.phi(layer) in space.pins:
            error[i, np.arange(space.phi_max) != space.pins[names.phi(layer)] - 1] = np.inf
        if names.rho(layer) in space.pins:
            error[i, :, ~np.isclose(space.rhos(), space.pins[names.rho(layer)])] = np.inf
    return Features.of(error, tables.energy)


def _above_front(energies: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """How far each loss lies above the least of all that cost no more, ``(n,)``."""
    order = np.lexsort((losses, energies))
    excess = np.empty_like(losses)
    excess[order] = losses[order] - np.minimum.accumulate(losses[order])
    return excess
