"""A sampler that knows the structure: additive quantisation error and energy per layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.optimize import nnls

from conversion import LayerProfile, Profile
from evaluators import ExitPoint, Measurement
from search._study import finished, measurement_of
from spaces import LayerSpace

_INTERESTING_DROP = 0.06
"""Points this much less accurate than the best found are not what anybody looks for."""

_LEAST_LOSS = 1e-3
"""Losses below this count as this: their logarithm would be all that is looked at."""

_INTERESTING_ENERGY = 1.5
"""Nor are points that need this many times the energy of the most accurate one."""

_REFINEMENTS = 0.5
"""Share of the trials that may be other exits of a pass already made, rather than new passes."""

_STEPS_AHEAD = 2.5
"""A proposal is measured at the first T that is this many times its parent's mean steps."""

_INHERITED = 0.5
"""Share of the proposals with the neuron and the calibration of their parent."""

_LEARNED = 0.15
"""Share of the new passes that learn, where the space offers it: many times dearer, and better."""

_FIRST_WEIGHT = 0.2
"""Of energy, about which the first learned passes are drawn."""

_LEARNING_STARTS = 40
"""Finished trials before which nothing learns: there is no front yet to start from."""

_KINDS = ("neuron", "calibration", "calibration/timesteps")

_LEAST_GAIN = 5e-3
"""Relative hypervolume gain for which an exit threshold is worth a trial of its own."""


@dataclass(frozen=True)
class LayerTables:
    """What each (φ, ρ) costs a layer, for one T of calibration, from the profile's histograms.

    Attributes:
        error: Squared error of one step's rounding over the mean squared activation,
            ``(layers, φ, ρ)``.
        energy: Accumulates of one step over the ANN's MACs, ``(layers, φ, ρ)``.
    """

    error: np.ndarray
    energy: np.ndarray


def layer_tables(profile: Profile, space: LayerSpace, timesteps: int) -> LayerTables:
    """Tables for a network calibrated at ``timesteps``; no forward pass is needed."""
    pairs = [_layer_table(profile, space, layer, timesteps) for layer in space.layers]
    return LayerTables(np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs]))


def _layer_table(
    profile: Profile, space: LayerSpace, name: str, timesteps: int
) -> tuple[np.ndarray, np.ndarray]:
    layer = profile.layers[name]
    mean, count, accumulates = _activations(layer)
    power = float((count * mean**2).sum()) or 1.0
    error = np.zeros((space.phi_max, len(space.rhos())))
    energy = np.zeros_like(error)
    for i in range(space.phi_max):
        theta = profile.threshold(name, phi=i + 1, timesteps=timesteps, shift=0.5)
        for j, rho in enumerate(space.rhos()):
            step = theta.double().cpu()[:, None] * rho
            spikes = torch.floor(mean / step + 0.5).clamp_(0, i + 1)
            error[i, j] = float((count * (mean - spikes * step) ** 2).sum()) / power
            energy[i, j] = float(((count * spikes).sum(1) * accumulates).sum())
    return error, energy / profile.costs.ann_macs


def _activations(
    layer: LayerProfile,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per channel and bin: mean activation, activations per sample; accumulates per spike."""
    channels = len(layer.largest)
    share = layer.active * channels / layer.counts.sum().clamp_min(1)
    count = layer.counts * share * (layer.neurons / channels)
    mean = torch.where(layer.counts > 0, layer.sums / layer.counts.clamp_min(1), 0.0)
    return mean * layer.largest[:, None], count, layer.fan_out.cpu()


Done = Sequence[tuple[Mapping[str, Any], Measurement]]
"""Parameters and measurements of the finished trials."""


class AdditiveSampler(BaseSampler):
    """Proposes points from the frontier of an additive per-layer surrogate.

    The divergence of the first step is modelled as ``Σ_l w_l e_l(φ_l, ρ_l)``, e_l the rounding
    error that the calibration histograms predict and w_l ≥ 0 fitted to all finished trials (ridge
    towards equal weights); the energy as ``Σ_l E_l(φ_l, ρ_l)``, which the histograms predict too.
    For a price λ of energy the minimum of ``w_l e_l + λ E_l`` is separate for every layer, so a
    sweep of λ walks the lower convex hull of the surrogate's exact frontier. A proposal draws the
    energy of a point of the front, varies it, draws weights around the fitted ones, and takes the
    choice that the sweep gives. It is measured at a T that leaves its exits room; since one pass
    tells accuracy and energy for every exit threshold and smaller T, the best of these follow as
    trials of their own while they enlarge the front. Where the space offers learned calibration,
    some proposals are points of the front whose thresholds shall be learned, at a weight of energy
    drawn around 0.2, or around that of a parent that was learned itself. Every draw is steered
    either by the divergence from the ANN, an order of magnitude less noisy than accuracy, or by
    accuracy, at random.

    Several processes may share a study: proposals are drawn at random and one that is running or
    done is not repeated.

    Args:
        profile: Of the network.
        space: The search space.
        seed: Seed of the draws.
    """

    def __init__(self, profile: Profile, space: LayerSpace, *, seed: int | None = None) -> None:
        self._space = space
        self._tables = {t: layer_tables(profile, space, t) for t in space.calibration_timesteps}
        self._stem = profile.costs.stem_macs / profile.costs.ann_macs
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
        done = [(t.params, measurement_of(t)) for t in finished(study)]
        taken = {_key(t.params) for t in study.get_trials(deepcopy=False, states=_TAKEN)}
        loss = _LOSSES[self._random.integers(len(_LOSSES))]
        if self._random.random() < _REFINEMENTS:
            refined = _best_exit(done, taken, self._space, loss)
            if refined is not None:
                return refined
        weights = self._fit(done)
        front = _interesting_front(done, loss)
        learns = "learned" in self._space.calibrations and len(done) >= _LEARNING_STARTS
        if learns and front and self._random.random() < _LEARNED:
            return self._learning(front)
        for _ in range(20):
            proposal = self._propose(front, weights)
            if _without_exit(proposal) not in {_without_exit(params) for params, _ in done}:
                break
        return proposal

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Random, for parameters that are not of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _fit(self, done: Done) -> np.ndarray:
        """Weights w_l ≥ 0 by relative least squares, ridge towards equal weights."""
        count = len(self._space.layers)
        done = [(params, m) for params, m in done if params["calibration"] != "learned"]
        if not done:
            return np.ones(count)
        errors = np.array([self._errors(params) for params, _ in done])
        found = np.array([max(m.kl_by_step[0], 1e-6) for _, m in done])
        rows = errors / found[:, None]
        scale = rows.sum(1).sum() / max((rows.sum(1) ** 2).sum(), 1e-12)
        ridge = 0.3 * np.eye(count)
        weights, _ = nnls(
            np.vstack([rows * scale, ridge]), np.concatenate([np.ones(len(rows)), ridge.sum(1)])
        )
        floored: np.ndarray = np.maximum(weights, 1e-3)
        return floored

    def _errors(self, params: Mapping[str, Any]) -> list[float]:
        table = self._tables[params["calibration/timesteps"]]
        return [float(table.error[i, *cell]) for i, cell in enumerate(self._cells(params))]

    def _energy(self, params: Mapping[str, Any]) -> float:
        table = self._tables[params["calibration/timesteps"]]
        return sum(float(table.energy[i, *cell]) for i, cell in enumerate(self._cells(params)))

    def _cells(self, params: Mapping[str, Any]) -> list[tuple[int, int]]:
        step = self._space.rho_step
        return [
            (params[f"phi/{layer}"] - 1, round((params[f"rho/{layer}"] - 1) / step))
            for layer in self._space.layers
        ]

    def _propose(self, front: Done, weights: np.ndarray) -> dict[str, Any]:
        space, timesteps = self._space, self._space.calibration_timesteps
        calibrations: list[str] = list(space.calibrations)
        plain = [c for c in calibrations if c != "learned"] or calibrations
        every = list(itertools.product(space.neurons, plain, timesteps))
        if front:
            parent, found = self._parent(front)
            energy, alpha, enough = self._energy(parent), parent["iat/alpha"], self._enough(found)
            inherited = [kinds for kinds in every if kinds == tuple(parent[k] for k in _KINDS)]
        else:
            table = self._tables[timesteps[0]].energy
            energy, alpha = float(table.max((1, 2)).sum()) / 4, 0.6
            enough, inherited = max(space.timesteps), []
        choices = inherited if inherited and self._random.random() < _INHERITED else every
        kinds = choices[self._random.integers(len(choices))]
        calibration = int(kinds[2])
        drawn = weights * np.exp(self._random.normal(0, 0.3, len(weights)))
        target = energy * math.exp(self._random.normal(0, 0.25))
        cells = _cheapest(self._tables[calibration], drawn, target)
        params: dict[str, Any] = {}
        rhos = self._space.rhos()
        for layer, (phi, _) in zip(self._space.layers, cells, strict=True):
            params[f"phi/{layer}"] = phi + 1
        for layer, (_, rho) in zip(self._space.layers, cells, strict=True):
            params[f"rho/{layer}"] = rhos[rho]
        return {
            **params,
            "timesteps": enough,
            **dict(zip(_KINDS, kinds, strict=True)),
            **({"learning/energy_weight": 0.0} if "learned" in space.calibrations else {}),
            "iat/alpha": alpha,
            "iat/beta": 0.0,
        }

    def _learning(self, front: Done) -> dict[str, Any]:
        """A point of the front whose thresholds shall be learned, at some weight of energy."""
        parent, found = self._parent(front)
        weight = _FIRST_WEIGHT
        if parent["calibration"] == "learned":
            weight = max(parent["learning/energy_weight"], _FIRST_WEIGHT / 4)
        weight = min(weight * math.exp(self._random.normal(0, 0.7)), self._space.energy_weight_max)
        neurons = self._space.neurons
        timesteps = sorted(self._space.calibration_timesteps)[:2]  # learning at more is dear
        return {
            **parent,
            "neuron": neurons[self._random.integers(len(neurons))],
            "calibration": "learned",
            "calibration/timesteps": timesteps[self._random.integers(len(timesteps))],
            "learning/energy_weight": round(weight / 0.02) * 0.02,
            "timesteps": self._enough(found),
        }

    def _enough(self, found: Measurement) -> int:
        """The first T that leaves the exits of a parent room."""
        enough = _STEPS_AHEAD * found.timesteps.value
        steps = (steps for steps in self._space.timesteps if steps >= enough)
        return min(steps, default=max(self._space.timesteps))

    def _parent(self, front: Done) -> tuple[Mapping[str, Any], Measurement]:
        """A point of the front, even over the logarithm of energy however dense its points."""
        energies = np.log([m.energy_ratio for _, m in front])
        aim = self._random.uniform(energies.min(), energies.max())
        return front[int(np.abs(energies - aim).argmin())]


_TAKEN = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.WAITING)


def _cheapest(tables: LayerTables, weights: np.ndarray, energy: float) -> list[tuple[int, int]]:
    """The choice of least weighted error at about this energy, by bisection on its price λ."""
    low, high = -8.0, 8.0
    scale = float((weights[:, None, None] * tables.error).sum() / tables.energy.sum())
    for _ in range(40):
        middle = (low + high) / 2
        cells = _at_price(tables, weights, scale * 10**middle)
        spent = sum(float(tables.energy[i, *cell]) for i, cell in enumerate(cells))
        low, high = (middle, high) if spent > energy else (low, middle)
    return cells


def _at_price(tables: LayerTables, weights: np.ndarray, price: float) -> list[tuple[int, int]]:
    loss = weights[:, None, None] * tables.error + price * tables.energy
    flat = loss.reshape(len(loss), -1).argmin(1)
    return [(int(i), int(j)) for i, j in zip(*np.unravel_index(flat, loss.shape[1:]), strict=True)]


@dataclass(frozen=True)
class _Criterion:
    """A loss to be traded against energy, by measurement and by row of the exit curve."""

    of_measurement: Callable[[Measurement], float]
    of_exit: Callable[[ExitPoint], float]


_LOSSES = (
    _Criterion(lambda m: m.kl.value, lambda row: row[4]),
    _Criterion(lambda m: 1 - m.accuracy.value, lambda row: 1 - row[2]),
)


def _interesting_front(done: Done, loss: _Criterion) -> Done:
    """The front of a loss and energy, where anybody looks, by rising energy.

    Points of much less accuracy than the best, or of much more energy than the most accurate one,
    are left out.
    """
    if not done:
        return []
    best = max((m for _, m in done), key=lambda m: (m.accuracy.value, -m.energy_ratio))
    front: list[tuple[Mapping[str, Any], Measurement]] = []
    value = loss.of_measurement
    for params, m in sorted(done, key=lambda d: (d[1].energy_ratio, value(d[1]))):
        wanted = (
            m.accuracy.value >= best.accuracy.value - _INTERESTING_DROP
            and m.energy_ratio <= _INTERESTING_ENERGY * best.energy_ratio
        )
        if wanted and (not front or value(m) < value(front[-1][1])):
            front.append((params, m))
    return front


def _best_exit(
    done: Done, taken: set[tuple[Any, ...]], space: LayerSpace, loss: _Criterion
) -> dict[str, Any] | None:
    """The exit threshold and T, of a pass already made, that would enlarge the front most."""
    found = _interesting_front(done, loss)
    if not found:
        return None
    front = [(m.energy_ratio, loss.of_measurement(m)) for _, m in found]
    worst = (_INTERESTING_ENERGY * front[-1][0], 2 * front[0][1])
    area = _area(front, worst)
    least = max(m.accuracy.value for _, m in done) - _INTERESTING_DROP
    best: tuple[float, dict[str, Any]] | None = None
    for params, measurement in done:
        for row in measurement.exit_curve:
            steps, alpha, accuracy, ratio, _ = row
            value = loss.of_exit(row)
            if steps not in space.timesteps or accuracy < least:
                continue
            if any(r <= ratio and v <= value for r, v in front):
                continue
            gain = _area([*front, (ratio, value)], worst) - area
            if gain > _LEAST_GAIN * area and (best is None or gain > best[0]):
                settings = {"timesteps": steps, "iat/alpha": alpha, "iat/beta": 0.0}
                refined = {**params, **settings}
                if _key(refined) not in taken:
                    best = (gain, refined)
    return None if best is None else best[1]


def _area(points: Sequence[tuple[float, float]], worst: tuple[float, float]) -> float:
    """Area dominated by (energy ratio, loss) points up to ``worst``, on logarithmic axes."""
    area, reached = 0.0, worst[1]
    for ratio, value in sorted(points):
        floored = max(value, _LEAST_LOSS)
        if ratio < worst[0] and floored < reached:
            area += math.log(worst[0] / ratio) * math.log(reached / floored)
            reached = floored
    return area


def _key(params: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(params.items()))


def _without_exit(params: Mapping[str, Any]) -> tuple[Any, ...]:
    exits = ("timesteps", "iat/alpha", "iat/beta")
    return tuple(sorted((name, value) for name, value in params.items() if name not in exits))
