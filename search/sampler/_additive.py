"""A sampler that exploits the structure: what adds up over layers, and what learning changes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from conversion import CALIBRATIONS, ENERGY_MODELS, EnergyModel, Profile
from search._budget import NO_LIMITS, Budget, is_feasible
from search._exits import (
    LOSSES,
    Criterion,
    gainful_exits,
    interesting_front,
    key_of,
    pass_of,
    points_of,
)
from search._trial import TrialRecord, finished
from search.sampler._acquisition import Limits, gains_per_second
from search.sampler._continuations import Continuations, Proposal
from search.sampler._known import Book, Known
from search.sampler._roots import Roots
from spaces import LayerSpace, names

_LOG = logging.getLogger("spikefront")

_OTHER_KIND = 0.2
"""Share of proposals of the kind that has gained less per second."""

_FIRST_UNIFORM = 4
"""Number of choices before the surrogate is fitted; until then uniform ones are proposed."""

_FIRST_ROOTS = 6
"""Number of passes before any proposal learns."""


_TRIES = 3
"""Number of failed learning trials after which no more are proposed, unless others succeed."""


def _failed_to_learn(study: optuna.Study) -> int:
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    kinds = [t.params.get(names.CALIBRATION) for t in failed]
    return sum(CALIBRATIONS[kind].weighs_energy() for kind in kinds if kind in CALIBRATIONS)


class AdditiveSampler(BaseSampler):
    """Proposes what gains most per second: new roots, or continued learning.

    *Roots* learn nothing. The divergence from the ANN grows with a weighted sum of each layer's
    rounding error, which the calibration histograms predict from φ and ρ. The weights are fitted to
    all finished trials, and near a trial its own result counts most. The energy is a sum of the
    histograms' predictions, with each layer scaled to its measured cost. For a price λ of energy
    the best choice separates over layers, so a sweep of λ walks the lower convex hull of a
    frontier. Such frontiers for several draws from the posterior, and neighbours of the front, are
    the candidates. The one with the largest expected hypervolume gain is proposed, given all
    measurements and predictions for running trials, as several processes may share a study.

    *Continuations* learn, if the space allows: from a trial's φ and ρ, or from its learned state,
    at another price of energy, for more iterations, with another neuron or T. The trial records its
    parent in ``goes_on_from`` and earlier segments in ``lineage``, which ``LayerSpace.suggest``
    reads.

    Recent gains per second decide which of the two comes next.

    With early exit, the divergence is that of the first step, and the pass is measured at a T that
    leaves room for its exits. Exits of a pass that would improve the front but were not measured
    come before any new pass; :func:`search.run_study` measures them itself.

    It learns from trials with the user attribute ``measurement``, a
    :meth:`evaluators.Measurement.to_dict`, and ignores their objective values.

    Args:
        profile: Profile of the network.
        space: The search space.
        energy: Energy model of the study.
        budget: Limits to aim at. Without one on energy it aims below the ANN's, unless every trial
            costs more.
        seed: Seed of the random draws.
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
        self._space = space
        self._weighers = space.energy_weighers
        limit = budget.max_energy
        self._limits = Limits(math.log(limit) if limit else 0.0, fixed=limit is not None)
        self._random = np.random.default_rng(seed)
        self._independent = RandomSampler(seed=seed)
        self._book = Book(profile, space, energy)
        self._roots = Roots(self._book, space, self._limits, self._random)
        self._continuations = Continuations(self._book, space, self._limits, self._random)
        self._warned = False

    def reseed_rng(self) -> None:
        """Reseed, so that copies of this sampler in other processes propose different points."""
        fresh = np.random.default_rng()
        self._random.bit_generator.state = fresh.bit_generator.state
        self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole space: all parameters are proposed jointly."""
        return self._space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose all parameters of a trial, and record which learned state it continues."""
        trials = [t for t in finished(study) if self._book.is_readable(t)]
        known = [self._book.seen(study, t) for t in trials]
        self._limits.widen(np.array([k.measurement.energy_ratio for k in known]))
        if not known and study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            self._warn_of_missing_measurements()
        running = [
            t
            for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if self._book.is_readable(t)
        ]
        kept = [k for k, t in zip(known, trials, strict=True) if is_feasible(t)] or known
        loss = LOSSES[int(self._random.integers(len(LOSSES)))]
        taken = {k.key for k in known} | {
            key_of(self._book.own(t.params), TrialRecord.of(t).lineage) for t in running
        }
        params, record = self._free_exit(known, kept, taken) or ({}, None)
        if not params and self._learns_next(known, _failed_to_learn(study)):
            learning = [p for t in running if (p := self._learning(t)) is not None]
            proposal = self._continuations.propose(known, kept, learning, taken, loss)
            if proposal is not None:
                params = proposal.params
                record = TrialRecord(lineage=proposal.lineage, goes_on_from=proposal.goes_on_from)
        if record is not None:
            record.write(study, trial)
        return params or self._root(known, kept, running, taken, loss)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Sample parameters outside the space at random."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _learning(self, trial: FrozenTrial) -> Proposal | None:
        """What a running trial learns, if it continues another one."""
        record = TrialRecord.of(trial)
        if record.goes_on_from is None:
            return None
        return Proposal(self._book.own(trial.params), tuple(record.lineage), record.goes_on_from)

    def _warn_of_missing_measurements(self) -> None:
        if not self._warned:
            _LOG.warning(
                "no finished trial holds its measurement, and nothing is learned from them: give"
                " each trial.set_user_attr('measurement', measurement.to_dict())"
            )
        self._warned = True

    def _learns_next(self, known: Sequence[Known], failures: int) -> bool:
        """Whether learning has recently gained more per second, or is untried."""
        if not self._space.continuing or sum(t.is_pass for t in known) < _FIRST_ROOTS:
            return False
        root, learned = gains_per_second(known, self._limits)
        if learned is None:
            return failures < _TRIES
        if root is None or root == learned:
            return bool(self._random.random() < 0.5)
        return bool((learned > root) != (self._random.random() < _OTHER_KIND))

    def _free_exit(
        self, known: Sequence[Known], kept: Sequence[Known], taken: set[str]
    ) -> tuple[dict[str, Any], TrialRecord] | None:
        """An additional exit of the latest pass that improves the front, if none was measured."""
        passes = [t for t in kept if t.is_pass]
        added = any(not t.is_pass for t in known)  # by the runner of the study
        if not self._book.exits or added or not passes or passes[-1] is not known[-1]:
            return None
        last = passes[-1]
        points = points_of([t.measurement for t in kept])
        curve = np.array(last.measurement.exit_curve)
        for exits in gainful_exits(points, curve, self._space, dearest=self._limits.dearest):
            params = {**last.params, **exits, **self._space.pins}
            if key_of(params, last.lineage) not in taken:
                record = TrialRecord(lineage=last.lineage, goes_on_from=last.goes_on_from)
                return params, record
        return None

    def _root(
        self,
        known: Sequence[Known],
        kept: Sequence[Known],
        running: Sequence[FrozenTrial],
        taken: set[str],
        loss: Criterion,
    ) -> dict[str, Any]:
        """The best new candidate that learns nothing."""
        uniform = [p for p in self._space.baselines() if key_of(p) not in taken]
        if len(taken) < _FIRST_UNIFORM and uniform:
            return uniform[int(self._random.integers(len(uniform)))]
        plain = [t for t in running if t.params[names.CALIBRATION] not in self._weighers]
        pending = [self._book.own(t.params) for t in plain]
        points = points_of([k.measurement for k in kept])
        front = [kept[i] for i in interesting_front(points, loss)]
        candidates = self._roots.ranked(known, kept, pending, loss)
        ranked = (self._roots.params(candidate, front) for candidate in candidates)
        first = self._roots.params(candidates[0], front)
        if not self._book.exits:
            return next((p for p in ranked if key_of(p) not in taken), first)
        passes = {t.pass_key for t in known} | {pass_of(params) for params in pending}
        return next((p for p in ranked if pass_of(p) not in passes), self._other_exit(first))

    def _other_exit(self, params: dict[str, Any]) -> dict[str, Any]:
        """Every pass has been made: repeat one with another exit threshold."""
        alpha = round(float(self._random.random()), 2)
        return {**params, names.ALPHA: alpha, **self._space.pins}
