"""Signs of life: which running trials of a shared study still have somebody who runs them."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import optuna
from optuna.trial import FrozenTrial

_LOG = logging.getLogger("spikefront")

BEATS = "beats"


class Leases:
    """Finds trials whose worker gives no more signs of life.

    A worker counts up an attribute of its running trial. A trial whose count stood still for
    ``grace`` seconds is lost. The seconds are this process's own: no clock is compared with
    another machine's.

    Args:
        grace: Seconds without a sign after which a trial is lost.
    """

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._seen: dict[int, tuple[int, float]] = {}

    def lost(self, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those of the running trials that are lost; to be asked every now and then."""
        now = time.monotonic()
        beats = {trial.number: int(trial.user_attrs.get(BEATS, 0)) for trial in running}
        self._seen = {
            number: self._seen[number]
            if number in self._seen and self._seen[number][0] == count
            else (count, now)
            for number, count in beats.items()
        }
        return [t for t in running if now - self._seen[t.number][1] > self._grace]


@contextmanager
def beating(
    study: optuna.Study, running: Mapping[int, optuna.Trial], every: float
) -> Iterator[None]:
    """Give signs of life of the trials that run, every so many seconds, while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        for count in itertools.count(1):
            if ended.wait(every):
                return
            for trial in list(running.values()):
                try:
                    study._storage.set_trial_user_attr(trial._trial_id, BEATS, count)
                except Exception as error:  # it has just finished; or the storage is away
                    _LOG.debug("no sign of life of trial %d: %s", trial.number, error)

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
