"""Which learned states are no longer needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from search._budget import is_feasible
from search._exits import LOSSES, interesting_front
from search._front import non_dominated
from search._trial import TrialRecord, finished_of, known_points

_RECENT = 8
"""Number of latest learned states to keep in any case: others may be about to continue them."""


def needless_states(every: Sequence[FrozenTrial]) -> set[str]:
    """The states of finished trials that no point of the front descends from.

    This considers the fronts of accuracy and of divergence against energy, over all trials and over
    those that the sampler continues. States that a running or waiting trial continues are kept, and
    so are the latest few.

    Args:
        every: All trials of the study, by number.
    """
    records = [TrialRecord.of(trial) for trial in every]
    done = finished_of(every)
    states = {t.number: key for t in done if (key := records[t.number].state)}
    if not states:
        return set()
    unfinished = [t.number for t in every if not t.state.is_finished()]
    roots = unfinished + _on_a_front(done)
    recent = [n for n in states if records[n].exit_of is None][-_RECENT:]
    needed = {states[n] for n in recent}
    for number in roots:
        at: int | None = number
        while at is not None:
            if at in states:
                needed.add(states[at])
            at = records[at].goes_on_from
    return set(states.values()) - needed


def _on_a_front(done: Sequence[FrozenTrial]) -> list[int]:
    found = [trial.user_attrs["measurement"] for trial in done]
    energies = [m["energy_ratio"] for m in found]
    losses = ([-m["accuracy"]["value"] for m in found], [m["kl"]["value"] for m in found])
    fronts = [non_dominated(np.column_stack([energies, loss])) for loss in losses]
    feasible = np.flatnonzero([is_feasible(trial) for trial in done])
    points = known_points(done)
    fronts += [feasible[interesting_front(points, loss)] for loss in LOSSES]
    return [done[i].number for front in fronts for i in front]
