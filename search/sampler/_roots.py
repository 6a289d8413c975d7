"""Proposals that learn nothing: points of an additive per-layer surrogate's frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search._exits import Criterion, foreseen_exits, interesting_front, logarithms, points_of
from search._front import expected_gain
from search.sampler._acquisition import Limits
from search.sampler._known import LEAST_DIVERGENCE, Book, Candidate, Known, enough_steps
from search.sampler._surrogate import Residual, Surrogate, sweep_prices
from spaces import LayerSpace, names

_INHERITED = 0.5
"""Share of the draws with the neuron and the calibration of a trial of the front."""

_DRAWS, _PRICES, _NEIGHBOURS = 4, 24, 150
"""Draws from the posterior, points of each one's frontier, and changes to the front's points."""

_NEAREST = 400
"""Finished trials that the surrogate learns from: those nearest to the front."""

_WORST_DIVERGENCE = 1.0
"""Nats beyond the range of interest, where nothing exits early: some twenty points of accuracy."""


class Roots:
    """Candidates by the surrogate's frontiers and around the front, ranked by expected gain.

    Args:
        book: The reader of trials.
        space: The search space.
        limits: The range of interest.
        random: Random generator of the draws.
    """

    def __init__(
        self, book: Book, space: LayerSpace, limits: Limits, random: np.random.Generator
    ) -> None:
        self.surrogate = Surrogate(len(space.layers), len(book.kinds))
        self._book, self._space, self._limits, self._random = book, space, limits, random
        self._weighers = space.energy_weighers

    def ranked(
        self,
        known: Sequence[Known],
        kept: Sequence[Known],
        pending: Sequence[Mapping[str, Any]],
        loss: Criterion,
    ) -> list[Candidate]:
        """Candidates by falling expected gain.

        Args:
            known: The finished trials.
            kept: The finished trials within the budget.
            pending: Parameters of what is running.
            loss: The loss traded against energy.
        """
        self._book.learn_scale(known)
        plain = self._teachers(known)
        there = self._first_steps(plain)
        excess = _above_front(*there.T)
        nearest = np.argsort(excess, kind="stable")[:_NEAREST]
        believed = _Belief(self.surrogate, [plain[i] for i in nearest], excess[nearest])
        best = [plain[i] for i in np.flatnonzero(excess <= 0)]
        if self._book.exits:
            best = self._owners_of_the_front(plain, kept, loss) or best
        candidates = [*self._frontiers(believed.surrogate, best), *self._neighbours(best)]
        running = [(params, self._book.cells(params)) for params in pending]
        every, count = [*candidates, *running], len(candidates)
        mean, deviation = self._predict(believed, every)
        sought = np.column_stack([self._book.log_energies(every), mean])
        if self._book.exits and plain:
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
                worst=(self._limits.dearest, math.log(_WORST_DIVERGENCE)),
                floor=math.log(LEAST_DIVERGENCE),
            )
        return [candidates[i] for i in np.argsort(-np.maximum(gain, 0), kind="stable")]

    def params(self, candidate: Candidate, front: Sequence[Known]) -> dict[str, Any]:
        """All parameters of a candidate; where samples exit, T and threshold of its neighbour."""
        space, (kinds, cells) = self._space, candidate
        exits: dict[str, Any] = {names.TIMESTEPS: kinds[names.TIMESTEPS], names.ALPHA: 1.0}
        if self._book.exits and front:
            aim = self._book.log_energies([candidate])
            there = self._book.log_energies([known.candidate for known in front])
            parent = front[int(np.abs(there - aim).argmin())]
            steps = enough_steps(space, parent.measurement)
            exits = {names.TIMESTEPS: steps, names.ALPHA: parent.params[names.ALPHA]}
        elif self._book.exits:
            exits = {names.TIMESTEPS: max(space.timesteps), names.ALPHA: 0.6}
        price = space.learning()
        if kinds[names.CALIBRATION] in self._weighers:
            price = space.learning(10 ** self._random.uniform(-1.5, 0.5))
        return {
            **self._book.cell_params(cells),
            **{name: kinds[name] for name in self._book.kind_names},
            **(price if space.learners else {}),
            **exits,
            names.BETA: 0.0,
            **space.pins,
        }

    def _foreseen(
        self,
        parents: Sequence[Known],
        seen: np.ndarray,
        every: Sequence[Candidate],
        sought: np.ndarray,
        loss: Criterion,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Exits of candidates, and whose each is, from those of the parents."""
        kinds = np.array([self._book.indicators(c) for c in every])
        unlike = len(self._book.kind_names) - kinds @ np.array([t.kinds for t in parents]).T
        return foreseen_exits([t.exits[loss] for t in parents], seen, sought, unlike, loss)

    def _gain_at_exits(
        self,
        kept: Sequence[Known],
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
        gains = self._limits.gains(
            np.concatenate([front, exits[~new]]), exits[new], deviation[owner[new]], loss, front
        )
        best = np.zeros(count)
        np.maximum.at(best, owner[new], gains)
        return best

    def _teachers(self, known: Sequence[Known]) -> list[Known]:
        """Those that the surrogate learns from: once each, and none whose thresholds learned."""
        calibrations = self._book.choices[names.CALIBRATION]
        only_learned = set(calibrations) <= set(self._weighers)
        own: dict[str, Known] = {}
        for trial in known:  # a pass comes before its other exits, whose curves are shorter
            if only_learned or not trial.learned:
                own.setdefault(trial.pass_key if self._book.exits else trial.key, trial)
        return [t for t in own.values() if math.isfinite(t.log_divergence + t.errors.sum())]

    def _first_steps(self, trials: Sequence[Known]) -> np.ndarray:
        """Log energy, foreseen, and log divergence, ``(n, 2)``; of T where nothing exits."""
        energies = self._book.log_energies([t.candidate for t in trials])
        return np.column_stack([energies, [t.log_divergence for t in trials]])

    def _owners_of_the_front(
        self, plain: Sequence[Known], kept: Sequence[Known], loss: Criterion
    ) -> list[Known]:
        """Of the front of what is in ``plain``, the passes."""
        keys = {t.pass_key: t for t in plain}
        among = [t for t in kept if t.pass_key in keys]
        front = interesting_front(points_of([t.measurement for t in among]), loss)
        return [keys[key] for key in dict.fromkeys(among[i].pass_key for i in front)]

    def _predict(
        self, believed: _Belief, candidates: Sequence[Candidate]
    ) -> tuple[np.ndarray, np.ndarray]:
        kinds = np.array([self._book.indicators(c) for c in candidates])
        return believed.predict(kinds, np.array([self._book.errors(c) for c in candidates]))

    def _frontiers(self, surrogate: Surrogate, best: Sequence[Known]) -> list[Candidate]:
        """Points of the frontiers of draws from the posterior."""
        found: list[Candidate] = []
        for _ in range(_DRAWS):
            kinds = self._draw_kinds(best)
            features = self._book.features(kinds)
            energy = features.energy * (self._book.price * self._book.scale)[:, None]
            errors = surrogate.drawn_terms(features.error, self._random)
            middle = errors[np.isfinite(errors)].mean() / max(energy.mean(), 1e-12)
            prices = middle * 10 ** self._random.uniform(-4, 3, _PRICES)
            found += [(kinds, cells) for cells in sweep_prices(errors, energy, prices)]
        return found

    def _neighbours(self, best: Sequence[Known]) -> list[Candidate]:
        """Trials of the front with other cells in one to three layers."""
        found: list[Candidate] = []
        for _ in range(_NEIGHBOURS if best else 0):
            parent = best[int(self._random.integers(len(best)))]
            error = self._book.features(parent.params).error
            cells = parent.cells.copy()
            changed = min(len(cells), 1 + int(self._random.integers(3)))
            for layer in self._random.choice(len(cells), changed, replace=False):
                cells[layer] = self._random.choice(np.flatnonzero(np.isfinite(error[layer])))
            found.append((parent.params, cells))
        return found

    def _draw_kinds(self, best: Sequence[Known]) -> dict[str, Any]:
        """Neuron, calibration and T: of a trial of the front, or any; nothing that learns."""
        if best and self._random.random() < _INHERITED:
            parent = best[int(self._random.integers(len(best)))].params
            return {name: parent[name] for name in (*self._book.kind_names, names.TIMESTEPS)}
        kinds = {}
        for name in (*self._book.kind_names, names.TIMESTEPS):
            choices = [c for c in self._book.choices[name] if c not in self._weighers]
            choices = choices or self._book.choices[name]
            kinds[name] = choices[int(self._random.integers(len(choices)))]
        return kinds


class _Belief:
    """The surrogate fitted to trials, and what it misses near them."""

    def __init__(self, surrogate: Surrogate, trials: Sequence[Known], excess: np.ndarray) -> None:
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


def _above_front(energies: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """How far each loss lies above the least of all that cost no more, ``(n,)``."""
    order = np.lexsort((losses, energies))
    excess = np.empty_like(losses)
    excess[order] = losses[order] - np.minimum.accumulate(losses[order])
    return excess
