"""Proposals that learn: from a trial's φ and ρ, or continuing its learned state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conversion import CALIBRATIONS
from search._exits import Criterion, interesting_front, key_of, logarithms, points_of
from search._trial import segment_of
from search.sampler._acquisition import Limits, first_passes
from search.sampler._known import Book, Known, enough_steps
from spaces import LayerSpace, names

_CANDIDATES = 200
_PRICE_FACTORS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""By which the price of energy changes from one segment to the next."""

_FIRST_PRICES = (0.03, 3.0)
"""Between which the first price is drawn, evenly over its logarithm."""

_REFERENCE = 0.1
"""Price of energy, share of the ANN's energy and divergence in nats from which effects count."""

_KEEPS = 0.75
"""Share of the continuations with the T and the rate of their parent; its neuron they keep."""

_FROM_LEARNED = 0.8
"""Share of the draws that go on from a learned state, where there is one."""

_LATEST = 4
"""Learned passes that are parents even if they are on no front."""

_PRIOR = np.array(
    [[0.0, -0.2, -0.05, -0.05, 0.0, -0.55, 0.0], [-0.2, 0.4, -0.4, -0.2, 0.0, 0.8, -0.3]]
)
"""Of log energy and log divergence: what a first segment, one unit of log price, weights that were
not learned before, one unit of log iterations and of log rate, and of the parent's log energy and
log divergence change. The last two pull towards what a price leads to, wherever learning begins.
By least squares over eight studies of digits and CIFAR-10."""

_SPREAD, _NOISE = 0.25, 0.2
"""Standard deviation of these effects, and of what is seen about them."""

_LUCK = 0.03
"""Standard deviation of a log loss for which a segment is chosen: more would favour short ones."""


@dataclass(frozen=True)
class Proposal:
    """What to learn next.

    Attributes:
        params: All parameters.
        lineage: Earlier learning segments.
        goes_on_from: Number of the parent.
    """

    params: dict[str, Any]
    lineage: tuple[Mapping[str, Any], ...]
    goes_on_from: int


class Continuations:
    """Chooses parent, price of energy, number of iterations and kind of learning.

    A linear model, fitted to all earlier segments of the study, predicts how a segment changes the
    energy and divergence of the first step. Shifting the exits of its parent by this much predicts
    its own. The proposal is the one that gains most per second under a draw from the posterior.

    Args:
        book: The reader of trials.
        space: The search space.
        limits: The range of interest.
        random: Random generator of the draws.
    """

    def __init__(
        self, book: Book, space: LayerSpace, limits: Limits, random: np.random.Generator
    ) -> None:
        self._book, self._space, self._limits, self._random = book, space, limits, random

    def propose(
        self,
        known: Sequence[Known],
        kept: Sequence[Known],
        running: Sequence[Proposal],
        taken: set[str],
        loss: Criterion,
    ) -> Proposal | None:
        """The best of several draws; None if all of them have been made already.

        Args:
            known: The finished trials.
            kept: The finished trials within the budget.
            running: Proposals that are being learned.
            taken: Keys of choices that have been made or are running.
            loss: The loss traded against energy.
        """
        passes = {t.number: t for t in first_passes(known)}
        parents = self._parents(list(passes.values()), kept, loss)
        if not parents:
            return None
        drawn = [self._draw(parents) for _ in range(_CANDIDATES)]
        drawn = [(p, c) for p, c in drawn if key_of(c.params, c.lineage) not in taken]
        if not drawn:
            return None
        running = [p for p in running if p.goes_on_from in passes]
        learning = [*drawn, *((passes[p.goes_on_from], p) for p in running)]
        moves = self._moves(passes, [_effects(parent, c) for parent, c in learning])
        foreseen = self._foreseen([parent for parent, _ in learning], moves, loss)
        gains = self._gains(foreseen[: len(drawn)], foreseen[len(drawn) :], kept, loss)
        seconds = self._seconds(list(passes.values()), [c.params for _, c in drawn])
        return drawn[int((gains / seconds).argmax())][1]

    def _parents(
        self, passes: Sequence[Known], kept: Sequence[Known], loss: Criterion
    ) -> list[Known]:
        """Passes on the front, on the front of those that did not learn, and the latest learned."""
        by_key = {t.pass_key: t for t in reversed(passes)}
        plain = [t for t in kept if not t.learned]
        found: list[Known] = []
        for among in (kept, plain):
            front = interesting_front(points_of([t.measurement for t in among]), loss)
            found += [by_key[among[i].pass_key] for i in front if among[i].pass_key in by_key]
        found += [t for t in passes if t.learned][-_LATEST:]
        continuing = (*self._space.continuing, *self._book.unlearned)
        found = [t for t in found if t.params[names.CALIBRATION] in continuing]
        return list({t.number: t for t in found}.values())

    def _draw(self, parents: Sequence[Known]) -> tuple[Known, Proposal]:
        space, random = self._space, self._random
        learned = [t for t in parents if t.learned]
        if learned and random.random() < _FROM_LEARNED:
            parents = learned
        parent = parents[int(random.integers(len(parents)))]
        params, first = parent.params, not parent.learned
        low, high = np.log(_FIRST_PRICES)
        price = (
            math.exp(random.uniform(low, high))
            if first
            else params[names.ENERGY_WEIGHT] * float(random.choice(_PRICE_FACTORS))
        )
        iterations = self._book.choices[names.ITERATIONS]
        learning = space.learning(
            float(f"{price:.3g}"),
            iterations[int(random.integers(len(iterations)))],
            self._inherited(parent, names.RATE, self._space.rates),
        )
        changed = {
            **params,
            **learning,
            names.CALIBRATION: self._learner(parent),
            names.NEURON: self._inherited(parent, names.NEURON, space.neurons),
            names.CALIBRATION_TIMESTEPS: self._inherited(
                parent,
                names.CALIBRATION_TIMESTEPS,
                sorted(space.calibration_timesteps)[:2],  # learning at more steps is expensive
            ),
            names.BETA: 0.0,
        }
        if space.bits:
            changed[names.BITS] = self._inherited(parent, names.BITS, space.bits)
        if self._book.exits:
            changed[names.TIMESTEPS] = enough_steps(space, parent.measurement)
        if not _learns_weights(changed):
            changed[names.RATE] = 1.0 if 1.0 in space.rates else space.rates[0]
        lineage = () if first else (*parent.lineage, segment_of(params, space))
        return parent, Proposal({**changed, **space.pins}, lineage, parent.number)

    def _learner(self, parent: Known) -> str:
        """A learned calibration of the space; once weights are learned, they are learned on."""
        weighers = self._space.continuing
        if parent.learned and _learns_weights(parent.params):
            return str(parent.params[names.CALIBRATION])
        return weighers[int(self._random.integers(len(weighers)))]

    def _inherited(self, parent: Known, name: str, choices: Sequence[Any]) -> Any:
        keeps = parent.learned and (name == names.NEURON or self._random.random() < _KEEPS)
        return parent.params[name] if keeps else choices[int(self._random.integers(len(choices)))]

    def _moves(self, passes: Mapping[int, Known], sought: Sequence[np.ndarray]) -> np.ndarray:
        """Change of log energy and log divergence under one posterior draw, ``(n, 2)``."""
        seen = [
            (_effects(parent, child), _move(parent, child))
            for child in passes.values()
            if child.learned and (parent := _parent_of(child, passes)) is not None
        ]
        effects = np.array([e for e, _ in seen]).reshape(-1, _PRIOR.shape[1])
        moved = np.array([m for _, m in seen]).reshape(-1, 2)
        precision = np.eye(effects.shape[1]) / _SPREAD**2 + effects.T @ effects / _NOISE**2
        covariance = np.linalg.inv(precision)
        root = np.linalg.cholesky(covariance)
        drawn = []
        for quantity in range(2):
            missed = moved[:, quantity] - effects @ _PRIOR[quantity]
            mean = _PRIOR[quantity] + covariance @ (effects.T @ missed) / _NOISE**2
            drawn.append(mean + root @ self._random.standard_normal(len(mean)))
        found: np.ndarray = np.array(sought) @ np.array(drawn).T
        return found

    @staticmethod
    def _foreseen(parents: Sequence[Known], moves: np.ndarray, loss: Criterion) -> list[np.ndarray]:
        """Predicted log energy and log loss of exits: the parent's, shifted."""
        return [
            parent.exits[loss] + move * (1, loss.elasticity)
            for parent, move in zip(parents, moves, strict=True)
        ]

    def _gains(
        self,
        foreseen: Sequence[np.ndarray],
        running: Sequence[np.ndarray],
        kept: Sequence[Known],
        loss: Criterion,
    ) -> np.ndarray:
        """Gain of each proposal's best exit over finished and running trials, ``(n,)``."""
        points = points_of([t.measurement for t in kept])
        front = logarithms(points[interesting_front(points, loss)], loss)
        owner = np.repeat(np.arange(len(foreseen)), [len(exits) for exits in foreseen])
        exits = np.concatenate(foreseen)
        deviation = np.full(len(exits), loss.elasticity * _LUCK)
        there = np.concatenate([front, *running])
        best = np.zeros(len(foreseen))
        np.maximum.at(best, owner, self._limits.gains(there, exits, deviation, loss, front))
        return best

    @staticmethod
    def _seconds(passes: Sequence[Known], sought: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Predicted duration of each proposal, from earlier passes with and without learning."""
        plain = [t.seconds for t in passes if not t.learned and t.seconds > 0]
        fixed = float(np.median(plain)) if plain else 1.0
        each = [max(t.seconds - fixed, 1e-3) / _work(t.params) for t in passes if t.learned]
        unit = float(np.median(each)) if each else fixed / 20
        return np.array([fixed + unit * _work(params) for params in sought])


def _work(params: Mapping[str, Any]) -> float:
    """Total number of steps over all iterations."""
    return float(params[names.ITERATIONS] * params[names.CALIBRATION_TIMESTEPS])


def _effects(parent: Known, child: Known | Proposal) -> np.ndarray:
    """Features of a segment and its parent, in the order of the prior."""
    price = child.params[names.ENERGY_WEIGHT]
    origin = math.log(_REFERENCE)
    was = sum(s["iterations"] for s in child.lineage)
    grown = math.log((was + child.params[names.ITERATIONS]) / (was or 50.0))
    new = _learns_weights(child.params) and not _learns_weights(parent.params)
    rate = math.log(child.params[names.RATE]) if _learns_weights(child.params) else 0.0
    return np.array(
        [
            float(not parent.learned),
            math.log(price) - origin,
            float(new),
            grown,
            rate,
            parent.log_energy - origin,
            parent.log_divergence - origin,
        ]
    )


def _learns_weights(params: Mapping[str, Any]) -> bool:
    return "weight" in CALIBRATIONS[params[names.CALIBRATION]]().saves


def _move(parent: Known, child: Known) -> tuple[float, float]:
    energy = child.log_energy - parent.log_energy
    return energy, child.log_divergence - parent.log_divergence


def _parent_of(child: Known, passes: Mapping[int, Known]) -> Known | None:
    """The trial that another continued; for a baseline, one with the same φ and ρ."""
    if child.goes_on_from is not None:
        return passes.get(child.goes_on_from)
    same = (t for t in passes.values() if not t.learned and (t.cells == child.cells).all())
    return next(same, None)
